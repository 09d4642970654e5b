/* SPDX-License-Identifier: Apache-2.0
 *
 * A ring buffer drained in C by libbpf: ring FD MOST
 *
 * FD is of the map, inherited; MOST is how many events there can be. Each line of standard input is a command:
 *
 *	time poll 1	drain what is there; prints the nanoseconds that it took, and the events
 *	digest poll	drain it; prints events and the sum of their first numbers
 *
 * The callback copies the event into an array, as somebody does who wants them all.
 */
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct event {
	uint64_t number, twice;
	uint32_t cpu;
	char word[12];
};

static struct event *events;
static size_t count, most;

static int take(void *ctx, void *data, size_t size)
{
	(void)ctx;
	if (size < sizeof(struct event) || count >= most)
		return -1;
	memcpy(&events[count++], data, sizeof(struct event));
	return 0;
}

static uint64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000ULL + time.tv_nsec;
}

int main(int argc, char **argv)
{
	char command[16], method[16];
	struct ring_buffer *ring;
	char line[64];

	if (argc != 3)
		return 2;
	most = strtoul(argv[2], NULL, 10);
	events = calloc(most, sizeof(*events));
	ring = ring_buffer__new(atoi(argv[1]), take, NULL, NULL);
	if (!events || !ring) {
		fprintf(stderr, "no ring: %s\n", strerror(errno));
		return 1;
	}
	while (fgets(line, sizeof(line), stdin)) {
		uint64_t began, sum = 0;

		if (sscanf(line, "%15s %15s", command, method) != 2)
			return 2;
		count = 0;
		began = now();
		while (ring_buffer__poll(ring, count ? 0 : 1000) > 0)
			;
		if (!strcmp(command, "time")) {
			printf("%llu %zu\n", (unsigned long long)(now() - began), count);
		} else {
			for (size_t i = 0; i < count; i++)
				sum += events[i].number;
			printf("%zu %llu\n", count, (unsigned long long)sum);
		}
		fflush(stdout);
	}
	return 0;
}
