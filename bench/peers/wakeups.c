/* SPDX-License-Identifier: Apache-2.0
 *
 * How late a process wakes up: wakeups CPU SECONDS
 *
 * Sleeps 1 ms again and again on one CPU. Prints how often it woke, and by how many ns it was late: the median and the most.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define MOST 100000
#define STEP 1000000ULL

static uint64_t late[MOST];

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ULL + t.tv_nsec;
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

int main(int argc, char **argv)
{
	struct timespec step = { .tv_nsec = STEP };
	cpu_set_t one;
	uint64_t end;
	int count = 0;

	if (argc != 3)
		return 2;
	CPU_ZERO(&one);
	CPU_SET(atoi(argv[1]), &one);
	if (sched_setaffinity(0, sizeof(one), &one)) {
		perror("sched_setaffinity");
		return 1;
	}
	end = now() + (uint64_t)(atof(argv[2]) * 1e9);
	while (now() < end && count < MOST) {
		uint64_t slept = now();

		nanosleep(&step, NULL);
		late[count++] = now() - slept - STEP;
	}
	qsort(late, count, sizeof(late[0]), compare);
	printf("%d %llu %llu\n", count, (unsigned long long)late[count / 2], (unsigned long long)late[count - 1]);
	return 0;
}
