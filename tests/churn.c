/* Inserts and deletes other keys of a map while it is read: `churn FD FIRST COUNT SECONDS`, keys u32 FIRST…FIRST+COUNT−1
 * (padded with zero bytes to the key's size), from two threads. Prints the operations done. */
#include <bpf/bpf.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static int fd, key_size;
static unsigned first, count;
static double seconds;
static unsigned long done[2];

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static void *churn(void *which)
{
	unsigned half = count / 2, start = first + (long)which * half, seed = 7 + (long)which;
	double end = now() + seconds;
	char key[256] = {}, value[4096] = {};

	while (now() < end) {
		for (int i = 0; i < 256; i++) {
			unsigned k = start + rand_r(&seed) % half;

			memcpy(key, &k, 4);
			if (rand_r(&seed) & 1)
				bpf_map_update_elem(fd, key, value, BPF_ANY);
			else
				bpf_map_delete_elem(fd, key);
			done[(long)which]++;
		}
	}
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t threads[2];

	if (argc != 5)
		return 2;
	fd = atoi(argv[1]);
	first = atoi(argv[2]);
	count = atoi(argv[3]);
	seconds = atof(argv[4]);
	for (long i = 0; i < 2; i++)
		pthread_create(&threads[i], NULL, churn, (void *)i);
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	printf("%lu\n", done[0] + done[1]);
	return 0;
}
