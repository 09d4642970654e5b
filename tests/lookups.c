/* Many lookups from threads that run at once: lookups THREADS ROUNDS CALLS
 *
 * In each round every thread names itself roundN, waits for the others, and makes CALLS lookups of 10.8.x.y,
 * where x.y is the round. No server is asked.
 */
#include <netdb.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>

static int threads, rounds, calls;
static atomic_int arrived;

static void *work(void *unused)
{
	struct addrinfo hints = { .ai_flags = AI_NUMERICHOST, .ai_family = AF_INET }, *found;
	char host[32], name[16];

	for (int round = 0; round < rounds; round++) {
		snprintf(host, sizeof(host), "10.8.%d.%d", round / 250, round % 250);
		snprintf(name, sizeof(name), "round%d", round);
		prctl(PR_SET_NAME, name);
		/* A spinning barrier: threads that are woken do not start at once. */
		atomic_fetch_add(&arrived, 1);
		while (atomic_load(&arrived) < (round + 1) * threads)
			;
		for (int call = 0; call < calls; call++)
			if (!getaddrinfo(host, NULL, &hints, &found))
				freeaddrinfo(found);
	}
	return unused;
}

int main(int argc, char **argv)
{
	pthread_t ids[64];

	if (argc != 4)
		return 2;
	threads = atoi(argv[1]);
	rounds = atoi(argv[2]);
	calls = atoi(argv[3]);
	if (threads > 64)
		return 2;
	for (int i = 0; i < threads; i++)
		pthread_create(&ids[i], NULL, work, NULL);
	for (int i = 0; i < threads; i++)
		pthread_join(ids[i], NULL);
	return 0;
}
