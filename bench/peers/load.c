/* SPDX-License-Identifier: Apache-2.0
 *
 * Events to measure: load EXECS ROUND_TRIPS
 *
 * Starts /bin/true EXECS times, one after another. Then two processes on one CPU hand a byte to and fro ROUND_TRIPS times: each
 * handing over is a context switch.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void start_programs(int count)
{
	char *const argv[] = { "true", NULL };
	pid_t pid;

	for (int i = 0; i < count; i++) {
		if (posix_spawn(&pid, "/bin/true", NULL, NULL, argv, environ))
			die("posix_spawn");
		waitpid(pid, NULL, 0);
	}
}

static void hand_over(int count)
{
	int there[2], back[2];
	cpu_set_t one;
	char byte = 0;

	CPU_ZERO(&one);
	CPU_SET(sched_getcpu(), &one);
	if (sched_setaffinity(0, sizeof(one), &one) || pipe(there) || pipe(back))
		die("hand_over");
	if (fork() == 0) {
		close(there[1]);
		while (read(there[0], &byte, 1) == 1 && write(back[1], &byte, 1) == 1)
			;
		_exit(0);
	}
	for (int i = 0; i < count; i++)
		if (write(there[1], &byte, 1) != 1 || read(back[0], &byte, 1) != 1)
			die("hand_over");
	close(there[1]);
	wait(NULL);
}

int main(int argc, char **argv)
{
	if (argc != 3)
		return 2;
	start_programs(atoi(argv[1]));
	hand_over(atoi(argv[2]));
	return 0;
}
