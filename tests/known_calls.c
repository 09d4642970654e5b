/* Makes known numbers of known system calls, and ends. Prints its process id once it is ready and waits for a line. */
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct timespec pause = {.tv_nsec = 3000000};
	char line[16];

	printf("%d\n", getpid());
	fflush(stdout);
	if (!fgets(line, sizeof(line), stdin))
		return 1;
	for (int i = 0; i < 1000; i++)
		syscall(SYS_getppid);
	for (int i = 0; i < 37; i++)
		syscall(SYS_getpgid, 1 << 22); /* ESRCH: larger than any process id */
	for (int i = 0; i < 23; i++)
		syscall(SYS_close, -1); /* EBADF */
	for (int i = 0; i < 20; i++)
		syscall(SYS_nanosleep, &pause, NULL);
#ifdef __x86_64__
	if (argc > 1 && !strcmp(argv[1], "compat"))
		for (int i = 0; i < 11; i++) {
			long result = 20; /* getpid of i386; writev of x86-64 */

			__asm__ volatile("int $0x80" : "+a"(result) : : "memory", "r8", "r9", "r10", "r11");
			if (result != getpid())
				return 1;
		}
#endif
	syscall(SYS_exit_group, 0);
}
