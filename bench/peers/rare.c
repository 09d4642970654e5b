/* SPDX-License-Identifier: Apache-2.0
 *
 * Events that are rare by nature: rare KIND COUNT
 *
 * kills: processes that the OOM killer kills in a cgroup with 8 MiB of memory. segments: TCP's, sent again over the loopback, since
 * who should receive them drops them. lines: typed into an interactive bash on a terminal of its own.
 *
 * Exit code 77: this machine lacks what it takes.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <linux/tcp.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define CAN_NOT 77
#define CONNECTIONS 300
#define MEMORY (8 << 20)
#define PROMPT "say-more> "

static void die(const char *what)
{
	perror(what);
	exit(1);
}

/* ---- kills */

static int put(const char *folder, const char *file, const char *text)
{
	char path[300];
	ssize_t size;
	int fd;

	snprintf(path, sizeof(path), "%s/%s", folder, file);
	fd = open(path, O_WRONLY); /* never made anew: with v1 the folder is a tmpfs */
	if (fd < 0)
		return -1;
	size = write(fd, text, strlen(text));
	close(fd);
	return size < 0 ? -1 : 0;
}

/* A cgroup with a limit of memory, of v2 or v1. */
static void make_limited(char *folder, size_t size)
{
	char limit[20];

	snprintf(limit, sizeof(limit), "%d", MEMORY);
	snprintf(folder, size, "/sys/fs/cgroup/bpfleet-bench-%d", getpid());
	if (!put("/sys/fs/cgroup", "cgroup.subtree_control", "+memory")) {
		if (mkdir(folder, 0755) || put(folder, "memory.max", limit))
			die(folder);
		put(folder, "memory.swap.max", "0"); /* not there where there is no swap */
		return;
	}
	snprintf(folder, size, "/sys/fs/cgroup/memory/bpfleet-bench-%d", getpid());
	if (mkdir(folder, 0755)) {
		fprintf(stderr, "no memory controller of cgroups is mounted\n");
		exit(CAN_NOT);
	}
	if (put(folder, "memory.limit_in_bytes", limit))
		die(folder);
}

static void kill_for_memory(long count)
{
	char folder[100], id[20];
	int status;

	make_limited(folder, sizeof(folder));
	for (long i = 0; i < count; i++) {
		pid_t victim = fork();

		if (victim < 0)
			die("fork");
		if (!victim) {
			volatile char *room = malloc(4 * MEMORY);

			snprintf(id, sizeof(id), "%d", getpid());
			if (!room || put(folder, "cgroup.procs", id))
				die("cgroup.procs");
			for (long at = 0; at < 4 * MEMORY; at += 4096)
				room[at] = 1;
			_exit(0);
		}
		if (waitpid(victim, &status, 0) < 0 || !WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL) {
			fprintf(stderr, "a process that took more than its cgroup's memory ended with the status %#x\n", status);
			rmdir(folder);
			exit(1);
		}
	}
	rmdir(folder);
}

/* ---- segments */

static long sent_again(const int *sockets, int count)
{
	long all = 0;

	for (int i = 0; i < count; i++) {
		struct tcp_info info;
		socklen_t size = sizeof(info);

		if (getsockopt(sockets[i], IPPROTO_TCP, TCP_INFO, &info, &size))
			die("TCP_INFO");
		all += info.tcpi_total_retrans;
	}
	return all;
}

static void send_again(long count)
{
	struct sock_filter nothing = BPF_STMT(BPF_RET | BPF_K, 0);
	struct sock_fprog drop = { .len = 1, .filter = &nothing };
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct linger at_once = { .l_onoff = 1 };
	socklen_t size = sizeof(to);
	int here[CONNECTIONS], there[CONNECTIONS], made = count < CONNECTIONS ? count : CONNECTIONS;
	int server = socket(AF_INET, SOCK_STREAM, 0);

	if (bind(server, (void *)&to, size) || listen(server, 8) || getsockname(server, (void *)&to, &size))
		die("listen");
	for (int i = 0; i < made; i++) {
		here[i] = socket(AF_INET, SOCK_STREAM, 0);
		if (connect(here[i], (void *)&to, size) || (there[i] = accept(server, NULL, NULL)) < 0)
			die("connection");
		/* Both ends are forgotten when they are closed, and send nothing again afterwards. */
		if (setsockopt(here[i], SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once)) ||
		    setsockopt(there[i], SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once)) ||
		    setsockopt(there[i], SOL_SOCKET, SO_ATTACH_FILTER, &drop, sizeof(drop)) || send(here[i], "x", 1, 0) != 1)
			die("segment");
	}
	while (sent_again(here, made) < count)
		usleep(10000);
	for (int i = 0; i < made; i++) {
		close(here[i]);
		close(there[i]);
	}
}

/* ---- lines */

static void wait_for_prompt(int terminal)
{
	char said[4096];
	size_t length = 0, prompt = strlen(PROMPT);

	while (length < prompt || memcmp(said + length - prompt, PROMPT, prompt)) {
		ssize_t more;

		if (length > sizeof(said) / 2) {
			memmove(said, said + length - prompt, prompt);
			length = prompt;
		}
		more = read(terminal, said + length, sizeof(said) - length);
		if (more <= 0)
			die("bash");
		length += more;
	}
}

/* 300 a second: more would fill the ring between two drains. */
static void type_lines(long count)
{
	int terminal, status;
	pid_t shell = forkpty(&terminal, NULL, NULL, NULL);

	if (shell < 0)
		die("forkpty");
	if (!shell) {
		setenv("PS1", PROMPT, 1);
		setenv("TERM", "dumb", 1);
		setenv("HISTFILE", "/dev/null", 1);
		execl("/bin/bash", "bash", "--norc", "--noprofile", "-i", NULL);
		_exit(CAN_NOT);
	}
	wait_for_prompt(terminal);
	for (long i = 0; i < count; i++) {
		if (write(terminal, ": a line\n", 9) != 9)
			die("terminal");
		wait_for_prompt(terminal);
		usleep(3000);
	}
	close(terminal); /* SIGHUP ends it */
	waitpid(shell, &status, 0);
}

int main(int argc, char **argv)
{
	const char *kind = argc > 2 ? argv[1] : "";
	long count = argc > 2 ? atol(argv[2]) : 0;

	if (!strcmp(kind, "kills"))
		kill_for_memory(count);
	else if (!strcmp(kind, "segments"))
		send_again(count);
	else if (!strcmp(kind, "lines"))
		type_lines(count);
	else {
		fprintf(stderr, "usage: rare kills|segments|lines COUNT\n");
		return 2;
	}
	return 0;
}
