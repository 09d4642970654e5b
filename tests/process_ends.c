/* Ends in a way that its argument names; see test_collector_exit.py. */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static char **arguments;
static pthread_barrier_t together;

static void *exec_from_here(void *unused)
{
	char *again[] = {arguments[0], "status", "9", NULL};

	usleep(20000);
	execv("/proc/self/exe", again);
	abort();
}

static void *end_at_once(void *unused)
{
	pthread_barrier_wait(&together);
	syscall(SYS_exit, 0);
	return NULL;
}

static void *end_later(void *unused)
{
	usleep(200000);
	syscall(SYS_exit, 6);
	return NULL;
}

int main(int count, char **given)
{
	int number = count > 2 ? atoi(given[2]) : 0;
	pthread_t thread;

	arguments = given;
	if (!strcmp(given[1], "status"))
		_exit(number);
	if (!strcmp(given[1], "signal")) {
		signal(number, SIG_DFL);
		raise(number);
		pause();
	}
	if (!strcmp(given[1], "sleep")) {
		usleep(number * 1000);
		_exit(0);
	}
	if (!strcmp(given[1], "exec")) { /* another thread than the first one becomes the program */
		pthread_create(&thread, NULL, exec_from_here, NULL);
		for (;;)
			pause();
	}
	if (!strcmp(given[1], "first")) { /* the first thread ends before the other */
		pthread_create(&thread, NULL, end_later, NULL);
		syscall(SYS_exit, 5);
	}
	if (!strcmp(given[1], "threads")) { /* all end at the same moment, none for the others */
		pthread_barrier_init(&together, NULL, number + 1);
		for (int i = 0; i < number; i++)
			pthread_create(&thread, NULL, end_at_once, NULL);
		end_at_once(NULL);
	}
	return 99;
}
