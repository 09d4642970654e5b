/* SPDX-License-Identifier: Apache-2.0
 *
 * Events to measure: events KIND COUNT [PATH]
 *
 * syscalls: getppid. datagrams: over the loopback, each a softirq. files: reads, by turns with writes, of PATH. requests: reads
 * of PATH, past the page cache. faults: first touches of pages. connections: TCP over the loopback, opened and closed. refused:
 * datagrams to a port where nobody is, each dropped. lookups: getaddrinfo of an address, which asks nobody. busy: COUNT ms of CPU
 * time.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define BLOCK 4096

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void make_syscalls(long count)
{
	for (long i = 0; i < count; i++)
		syscall(SYS_getppid);
}

static void send_datagrams(long count)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t size = sizeof(to);
	int receiver = socket(AF_INET, SOCK_DGRAM, 0), sender = socket(AF_INET, SOCK_DGRAM, 0);
	char byte = 0;

	if (bind(receiver, (void *)&to, size) || getsockname(receiver, (void *)&to, &size))
		die("bind");
	for (long i = 0; i < count; i++)
		if (sendto(sender, &byte, 1, 0, (void *)&to, size) != 1 || recv(receiver, &byte, 1, 0) != 1)
			die("datagram");
}

/* Each is answered by an error, which the next send would return: so ask for it. */
static void send_to_nobody(long count)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t size = sizeof(to), error_size;
	int closed = socket(AF_INET, SOCK_DGRAM, 0), sender = socket(AF_INET, SOCK_DGRAM, 0), error;
	char byte = 0;

	if (bind(closed, (void *)&to, size) || getsockname(closed, (void *)&to, &size) || close(closed) ||
	    connect(sender, (void *)&to, size))
		die("bind");
	for (long i = 0; i < count; i++) {
		error_size = sizeof(error);
		if (send(sender, &byte, 1, 0) != 1 || getsockopt(sender, SOL_SOCKET, SO_ERROR, &error, &error_size))
			die("datagram");
	}
}

static void look_up(long count)
{
	struct addrinfo *found;

	for (long i = 0; i < count; i++) {
		if (getaddrinfo("127.0.0.1", NULL, NULL, &found))
			die("getaddrinfo");
		freeaddrinfo(found);
	}
}

static void be_busy(long milliseconds)
{
	while (clock() / (CLOCKS_PER_SEC / 1000) < milliseconds)
		;
}

static void connect_and_close(long count)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct linger at_once = { .l_onoff = 1 };
	socklen_t size = sizeof(to);
	int server = socket(AF_INET, SOCK_STREAM, 0);

	if (bind(server, (void *)&to, size) || listen(server, 8) || getsockname(server, (void *)&to, &size))
		die("listen");
	for (long i = 0; i < count; i++) {
		int here = socket(AF_INET, SOCK_STREAM, 0), there;

		if (connect(here, (void *)&to, size) || (there = accept(server, NULL, NULL)) < 0)
			die("connection");
		/* No TIME_WAIT, which would use up the ports. */
		setsockopt(here, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
		close(here);
		close(there);
	}
}

static void use_file(const char *path, long count)
{
	static char room[BLOCK];
	int fd = open(path, O_RDWR | O_CREAT, 0600);

	if (fd < 0)
		die(path);
	for (long i = 0; i < count; i++) {
		long at = i / 2 % 64 * BLOCK;

		if (i % 2 ? pread(fd, room, BLOCK, at) < 0 : pwrite(fd, room, BLOCK, at) < 0)
			die(path);
	}
}

static void ask_disk(const char *path, long count)
{
	int fd = open(path, O_RDONLY | O_DIRECT);
	void *room = aligned_alloc(BLOCK, BLOCK);

	if (fd < 0 || !room)
		die(path);
	for (long i = 0; i < count; i++)
		if (pread(fd, room, BLOCK, i % 4096 * BLOCK) != BLOCK)
			die(path);
}

static void touch_pages(long count)
{
	char *room = mmap(NULL, count * BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (room == MAP_FAILED || madvise(room, count * BLOCK, MADV_NOHUGEPAGE))
		die("mmap");
	for (long i = 0; i < count; i++)
		room[i * BLOCK] = 1;
}

int main(int argc, char **argv)
{
	const char *kind = argc > 2 ? argv[1] : "", *path = argc > 3 ? argv[3] : "";
	long count = argc > 2 ? atol(argv[2]) : 0;

	if (!strcmp(kind, "syscalls"))
		make_syscalls(count);
	else if (!strcmp(kind, "datagrams"))
		send_datagrams(count);
	else if (!strcmp(kind, "connections"))
		connect_and_close(count);
	else if (!strcmp(kind, "files"))
		use_file(path, count);
	else if (!strcmp(kind, "requests"))
		ask_disk(path, count);
	else if (!strcmp(kind, "faults"))
		touch_pages(count);
	else if (!strcmp(kind, "refused"))
		send_to_nobody(count);
	else if (!strcmp(kind, "lookups"))
		look_up(count);
	else if (!strcmp(kind, "busy"))
		be_busy(count);
	else {
		fprintf(stderr, "usage: events syscalls|datagrams|connections|refused|lookups|files|requests|faults|busy COUNT [PATH]\n");
		return 2;
	}
	return 0;
}
