/* Calls getpgid from a known chain of functions, as often as asked, then waits for its standard input to end. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>

#define KEPT __attribute__((noinline, noclone))

static volatile long turns;

/* Without libc's wrapper, which has no frame of its own. */
KEPT long innermost(long number)
{
	long result;

	__asm__ volatile("syscall" : "=a"(result) : "a"(SYS_getpgid), "D"(number) : "rcx", "r11", "memory");
	turns++;
	return result;
}

KEPT long left_turn(long number)
{
	long result = innermost(number);

	turns++;
	return result;
}

KEPT long right_turn(long number)
{
	long result = innermost(number);

	turns++;
	return result;
}

KEPT long depth(long left, long number)
{
	long result = left ? depth(left - 1, number) : left_turn(number);

	turns++;
	return result;
}

int main(int argc, char **argv)
{
	long lefts = atol(argv[1]), rights = atol(argv[2]), deep = argc > 3 ? atol(argv[3]) : 0;

	for (long i = 0; i < lefts; i++)
		deep ? depth(deep, 0) : left_turn(0);
	for (long i = 0; i < rights; i++)
		right_turn(0);
	puts("done");
	fflush(stdout);
	getchar();
	return 0;
}
