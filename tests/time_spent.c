/* Spends its time in ways that it is told on standard input, one a line: `nap MS`, `vfork MS`, `burn MS` (three quarters in one
 * function), `kernel MS`. Answers each with "done WALL CPU", the ns that it took. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define KEPT __attribute__((noinline, noclone))

static volatile long turns;

static long long now(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* Without libc's wrapper, which has no frame of its own. */
KEPT long nap_here(long long ns)
{
	struct timespec t = {ns / 1000000000, ns % 1000000000};
	long result;

	__asm__ volatile("syscall" : "=a"(result) : "a"(SYS_nanosleep), "D"(&t), "S"(0) : "rcx", "r11", "memory");
	turns++;
	return result;
}

KEPT void burn_more(long count)
{
	for (long i = 0; i < count; i++)
		turns++;
}

KEPT void burn_less(long count)
{
	for (long i = 0; i < count; i++)
		turns++;
}

/* By the thread's CPU clock: three quarters of the time in burn_more. */
KEPT void burn(long long ns)
{
	long long until = now(CLOCK_THREAD_CPUTIME_ID) + ns;

	while (now(CLOCK_THREAD_CPUTIME_ID) < until) {
		burn_more(750000);
		burn_less(250000);
	}
}

KEPT long read_here(int file, void *into, long most)
{
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(SYS_read), "D"((long)file), "S"(into), "d"(most)
			 : "rcx", "r11", "memory");
	turns++;
	return result;
}

KEPT void read_zeros(long long ns)
{
	static char zeros[1 << 20];
	long long until = now(CLOCK_THREAD_CPUTIME_ID) + ns;
	int file = open("/dev/zero", O_RDONLY);

	while (now(CLOCK_THREAD_CPUTIME_ID) < until)
		turns += read_here(file, zeros, sizeof(zeros));
	close(file);
}

int main(void)
{
	char how[32];
	long long ns;

	while (scanf("%31s %lld", how, &ns) == 2) {
		long long wall = now(CLOCK_MONOTONIC), cpu = now(CLOCK_PROCESS_CPUTIME_ID);

		ns *= 1000000;
		if (!strcmp(how, "nap"))
			nap_here(ns);
		else if (!strcmp(how, "burn"))
			burn(ns);
		else if (!strcmp(how, "kernel"))
			read_zeros(ns);
		else if (!strcmp(how, "vfork") && !vfork()) { /* the parent waits, uninterruptibly, for the child's end */
			nap_here(ns);
			_exit(0);
		}
		wall = now(CLOCK_MONOTONIC) - wall;
		cpu = now(CLOCK_PROCESS_CPUTIME_ID) - cpu;
		printf("done %lld %lld\n", wall, cpu);
		fflush(stdout);
	}
	return 0;
}
