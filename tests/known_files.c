/*
 * Does known things with the file whose path it is given, and ends. It prints its process id and waits for a line; then
 * what /proc/PID/io says of its own reads and writes, before and after.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

static char kept[2][512];

static void read_io(char *into)
{
	int fd = open("/proc/self/io", O_RDONLY);
	ssize_t got = read(fd, into, 511);

	into[got > 0 ? got : 0] = 0;
	close(fd);
}

int main(int argc, char **argv)
{
	static char room[65536];
	struct iovec parts[2] = {{room, 100}, {room + 100, 200}};
	char line[16];
	int fd, pipes[2];

	(void)argc;
	printf("%d\n", getpid());
	fflush(stdout);
	if (!fgets(line, sizeof(line), stdin))
		return 1;
	fd = open(argv[1], O_RDWR | O_CREAT | O_TRUNC, 0600);
	if (fd < 0 || pipe(pipes))
		return 1;
	read_io(kept[0]);
	for (int i = 0; i < 100; i++)
		if (write(fd, room, 1000) != 1000)
			return 1;
	for (int i = 0; i < 10; i++)
		if (pwritev(fd, parts, 2, i * 300) != 300)
			return 1;
	for (int i = 0; i < 5; i++)
		fsync(fd);
	for (int i = 0; i < 2; i++)
		fdatasync(fd);
	lseek(fd, 0, SEEK_SET);
	for (int i = 0; i < 3; i++) /* 65536, the 34464 that are left, and nothing at the end */
		read(fd, room, 65536);
	for (int i = 0; i < 50; i++)
		if (pread(fd, room, 10, i) != 10)
			return 1;
	for (int i = 0; i < 7; i++)
		if (preadv2(fd, parts, 2, 0, 0) != 300)
			return 1;
	for (int i = 0; i < 4; i++) /* EFAULT */
		if (pread(fd, (char *)8, 10, 0) >= 0)
			return 1;
	for (int i = 0; i < 6; i++) /* not a file */
		if (write(pipes[1], room, 10) != 10 || read(pipes[0], room, 10) != 10)
			return 1;
	read_io(kept[1]);
	for (int i = 0; i < 8; i++)
		if (open("/no/such/file", O_RDONLY) >= 0)
			return 1;
	for (int i = 0; i < 9; i++)
		close(open(argv[1], O_RDONLY));
	printf("%s--\n%s", kept[0], kept[1]);
	return 0;
}
