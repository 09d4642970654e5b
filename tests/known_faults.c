/*
 * Makes known page faults: `touch` new memory, `kernel` has the kernel touch it, `swap` has its memory written to swap and
 * touches it again, `map FILE` touches a file that is not in memory. It prints its process id and waits for a line; then
 * the minor and major faults that touching made, as getrusage says, and ends at the next line. `swap` also waits between.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif
#define PAGES 1024L

int main(int argc, char **argv)
{
	long page = sysconf(_SC_PAGESIZE), size = PAGES * page;
	struct rusage before, after;
	volatile char sum = 0;
	char line[16], *room;
	int fd = -1;

	if (argc < 2)
		return 2;
	if (!strcmp(argv[1], "map")) {
		struct stat about;

		fd = open(argv[2], O_RDONLY);
		if (fd < 0 || fstat(fd, &about))
			return 1;
		size = about.st_size;
		room = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
		madvise(room, size, MADV_RANDOM); /* no readahead */
		posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	} else {
		room = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		madvise(room, size, MADV_NOHUGEPAGE);
	}
	if (room == MAP_FAILED)
		return 1;
	if (!strcmp(argv[1], "kernel"))
		fd = open("/dev/zero", O_RDONLY);
	getrusage(RUSAGE_SELF, &before); /* so that what it touches itself is touched before */
	printf("%d\n", getpid());
	fflush(stdout);
	if (!fgets(line, sizeof(line), stdin))
		return 1;
	if (!strcmp(argv[1], "swap")) {
		for (long i = 0; i < PAGES; i++)
			memset(room + i * page, 'a' + i % 26, page), *(long *)(room + i * page) = rand();
		if (madvise(room, size, MADV_PAGEOUT))
			return 1;
		printf("written\n");
		fflush(stdout);
		if (!fgets(line, sizeof(line), stdin))
			return 1;
	}
	getrusage(RUSAGE_SELF, &before);
	if (!strcmp(argv[1], "kernel")) {
		if (read(fd, room, size) != size)
			return 1;
	} else {
		for (long at = 0; at < size; at += page)
			if (!strcmp(argv[1], "touch"))
				room[at] = 1;
			else
				sum += room[at];
	}
	getrusage(RUSAGE_SELF, &after);
	printf("%ld %ld\n", after.ru_minflt - before.ru_minflt, after.ru_majflt - before.ru_majflt);
	fflush(stdout);
	return !fgets(line, sizeof(line), stdin);
}
