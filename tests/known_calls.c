/* Makes known numbers of known system calls, and ends. Prints its process id once it is ready and waits for a line. */
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* From now on getsid is refused, before it is begun. */
static int refuse_getsid(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getsid, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 1), /* EPERM */
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {sizeof(code) / sizeof(code[0]), code};

	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

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
	for (int i = 0; i < 15; i++) /* ENOSYS */
		syscall(i % 3 ? 5000 + i : -1 - i);
	for (int i = 0; i < 9; i++) { /* by clone */
		pid_t child = fork();

		if (!child)
			_exit(0);
		waitpid(child, NULL, 0);
	}
	if (argc > 1 && !strcmp(argv[1], "refused")) {
		if (refuse_getsid())
			return 1;
		for (int i = 0; i < 13; i++)
			if (syscall(SYS_getsid, 0) != -1)
				return 1;
	}
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
