/* SPDX-License-Identifier: Apache-2.0
 *
 * A map read in C, as well as the plain system calls allow: reader FD
 *
 * FD is of a map, inherited. Each line of standard input is a command:
 *
 *	time METHOD REPEATS	read the whole map REPEATS times; prints the nanoseconds that it took, and the rows of the last read
 *	digest METHOD		read it once; prints rows and checksum (see bench/maps.py)
 *
 * METHOD is key, key+fold, batch:CHUNK or batch+fold:CHUNK; a CHUNK of 0 is the whole map in one call. One buffer is used again and
 * again: a chunk overwrites the one before, so in batches of a small chunk the rows stay in the CPU's cache and nothing is kept.
 * +fold adds up the values that the CPUs have of a key.
 */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static int fd;
static uint32_t key_size, value_size, stride, cpus, max_entries;
static uint64_t digest;
static bool wants_digest;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ULL + t.tv_nsec;
}

/* Adds each CPU's value to the first. */
static inline void fold(char *value)
{
	uint64_t *to = (uint64_t *)value;

	for (uint32_t cpu = 1; cpu < cpus; cpu++) {
		const uint64_t *from = (const uint64_t *)(value + cpu * stride);

		for (uint32_t i = 0; i < stride / 8; i++)
			to[i] += from[i];
	}
}

static uint64_t mix(uint64_t hash, uint64_t word)
{
	hash = (hash ^ word) * 0x9E3779B97F4A7C15ULL;
	return hash ^ hash >> 32;
}

static void take(const char *key, char *value, bool folded)
{
	uint64_t hash = 0, word;

	for (uint32_t at = 0; at < key_size; at += 8) {
		word = 0;
		memcpy(&word, key + at, key_size - at < 8 ? key_size - at : 8);
		hash = mix(hash, word);
	}
	if (cpus > 1 && !folded)
		fold(value);
	for (uint32_t at = 0; at < value_size; at += 8)
		hash = mix(hash, *(uint64_t *)(value + at));
	digest += hash;
}

static uint32_t read_batches(uint32_t chunk, bool folded)
{
	static char *keys, *values;
	static uint32_t room;
	static char cursors[2][512];
	uint32_t rows = 0, count, whole = stride * cpus;
	bool first = true;
	int at = 0, result;

	if (!chunk || chunk > max_entries)
		chunk = max_entries;
	if (chunk > room) {
		free(keys);
		free(values);
		keys = malloc((size_t)chunk * key_size);
		values = malloc((size_t)chunk * whole);
		if (!keys || !values)
			die("malloc");
		room = chunk;
	}
	for (;;) {
		count = chunk;
		result = bpf_map_lookup_batch(fd, first ? NULL : cursors[at], cursors[!at], keys, values, &count, NULL);
		if (result && errno != ENOENT)
			die("bpf_map_lookup_batch");
		if (folded)
			for (uint32_t i = 0; i < count; i++)
				fold(values + (size_t)i * whole);
		if (wants_digest)
			for (uint32_t i = 0; i < count; i++)
				take(keys + (size_t)i * key_size, values + (size_t)i * whole, folded);
		rows += count;
		if (result)
			return rows;
		first = false;
		at = !at;
	}
}

static uint32_t read_by_key(bool folded)
{
	static char keys[2][512], value[1 << 16];
	uint32_t rows = 0;
	int at = 0;

	if (bpf_map_get_next_key(fd, NULL, keys[at]))
		return 0;
	do {
		if (!bpf_map_lookup_elem(fd, keys[at], value)) {
			if (folded)
				fold(value);
			if (wants_digest)
				take(keys[at], value, folded);
			rows++;
		}
		at = !at;
	} while (!bpf_map_get_next_key(fd, keys[!at], keys[at]));
	return rows;
}

static uint32_t read_map(const char *method)
{
	const char *chunk = strchr(method, ':');
	bool folded = cpus > 1 && strstr(method, "+fold");

	return chunk ? read_batches(atoi(chunk + 1), folded) : read_by_key(folded);
}

int main(int argc, char **argv)
{
	struct bpf_map_info info = {};
	uint32_t size = sizeof(info), rows = 0;
	char line[128], method[64];
	unsigned repeats;

	if (argc != 2)
		return 2;
	fd = atoi(argv[1]);
	if (bpf_obj_get_info_by_fd(fd, &info, &size))
		die("bpf_obj_get_info_by_fd");
	key_size = info.key_size;
	value_size = info.value_size;
	max_entries = info.max_entries;
	switch (info.type) {
	case BPF_MAP_TYPE_PERCPU_HASH:
	case BPF_MAP_TYPE_LRU_PERCPU_HASH:
	case BPF_MAP_TYPE_PERCPU_ARRAY:
		cpus = libbpf_num_possible_cpus();
		stride = (value_size + 7) & ~7U;
		break;
	default:
		cpus = 1;
		stride = value_size;
	}
	while (fgets(line, sizeof(line), stdin)) {
		if (sscanf(line, "time %63s %u", method, &repeats) == 2) {
			uint64_t began = now();

			for (unsigned i = 0; i < repeats; i++)
				rows = read_map(method);
			printf("%llu %u\n", (unsigned long long)(now() - began), rows);
		} else if (sscanf(line, "digest %63s", method) == 1) {
			digest = 0;
			wants_digest = true;
			rows = read_map(method);
			wants_digest = false;
			printf("%u %llu\n", rows, (unsigned long long)digest);
		} else {
			return 2;
		}
		fflush(stdout);
	}
	return 0;
}
