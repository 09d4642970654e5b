/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-3-Clause)
 *
 * tcpconn: TCP connections by the process that opened or accepted them, and by peer.
 *
 * A connection out is counted when it is established, which a packet does, in whatever process that interrupts; so who
 * called connect(2) is kept with the socket. A connection in is counted when a process accepts it: until then it has none.
 */
#include <bpfleet/network.h>

const volatile bool by_pid = true;

#define MAX_CONNECTIONS 16384
#define MAX_FAILURES 4096

struct connection {
	__u8 address[16];
	__u64 cgroup_id;
	char comm[TASK_COMM_LEN];
	__u32 pid;
	char direction[4];
	__u16 port;
};

/* LRU: pids come and go, and the kernel is to forget the dead ones first. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_CONNECTIONS);
	__type(key, struct connection);
	__type(value, __u64);
} connections SEC(".maps");

struct failure {
	__u8 address[16];
	__u64 cgroup_id;
	char comm[TASK_COMM_LEN];
	__u32 pid;
	__u32 errno;
	__u16 port;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_FAILURES);
	__type(key, struct failure);
	__type(value, __u64);
} failures SEC(".maps");

struct process {
	__u64 cgroup_id;
	char comm[TASK_COMM_LEN];
	__u32 pid;
};

/* Who is connecting. It goes with the socket. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct process);
} connecting SEC(".maps");

BPFLEET_FAILED_INSERTS(connections);
BPFLEET_FAILED_INSERTS(failures);
BPFLEET_NEW_KEYS(connections);
BPFLEET_NEW_KEYS(failures);

static const __u64 zero;

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct file {
	void *private_data;
};

struct fdtable {
	unsigned int max_fds;
	struct file **fd;
};

struct files_struct {
	struct fdtable *fdt;
};

struct task_struct___files {
	struct files_struct *files;
};

struct socket {
	struct sock *sk;
};

#pragma clang attribute pop

static __always_inline void this_process(struct process *process)
{
	process->cgroup_id = bpf_get_current_cgroup_id();
	process->pid = by_pid ? bpf_get_current_pid_tgid() >> 32 : 0;
	bpf_get_current_comm(process->comm, sizeof(process->comm));
}

static __always_inline void add(const struct bpfleet_ends *ends, const struct process *process, bool out)
{
	struct connection key = {};
	__u64 *count;

	__builtin_memcpy(key.address, ends->address, sizeof(key.address));
	__builtin_memcpy(key.comm, process->comm, sizeof(key.comm));
	key.cgroup_id = process->cgroup_id;
	key.pid = process->pid;
	/* The service's port: the other one is made up for each connection. */
	key.port = out ? ends->port : ends->local_port;
	__builtin_memcpy(key.direction, out ? "out" : "in\0", sizeof(key.direction));
	count = bpfleet_get_or_make_lru(connections, &key, &zero);
	if (count)
		__sync_fetch_and_add(count, 1);
}

static __always_inline void add_failure(const struct bpfleet_ends *ends, const struct process *process, int error)
{
	struct failure key = {};
	__u64 *count;

	__builtin_memcpy(key.address, ends->address, sizeof(key.address));
	__builtin_memcpy(key.comm, process->comm, sizeof(key.comm));
	key.cgroup_id = process->cgroup_id;
	key.pid = process->pid;
	key.port = ends->port;
	key.errno = error;
	count = bpfleet_get_or_make_lru(failures, &key, &zero);
	if (count)
		__sync_fetch_and_add(count, 1);
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(on_state, struct sock *sk, int before, int now)
{
	struct bpfleet_ends ends = {};
	struct process *process;

	if (now == BPFLEET_SYN_SENT) { /* in connect(2), or in a sendmsg(2) with MSG_FASTOPEN */
		if (sk->sk_protocol != BPFLEET_IPPROTO_TCP)
			return 0;
		process = bpf_sk_storage_get(&connecting, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
		if (process)
			this_process(process);
		else
			__sync_fetch_and_add(&connections_failed_inserts, 1);
		return 0;
	}
	/* SYN_RECV: both ends called connect(2) at once; or a connection in, which has no entry. */
	if ((before != BPFLEET_SYN_SENT && before != BPFLEET_SYN_RECV) || now == BPFLEET_SYN_RECV)
		return 0;
	process = bpf_sk_storage_get(&connecting, sk, 0, 0);
	if (!process)
		return 0;
	bpfleet_ends_of(&ends, &sk->__sk_common);
	if (now == BPFLEET_CLOSE)
		add_failure(&ends, process, sk->sk_err);
	else
		add(&ends, process, true);
	bpf_sk_storage_delete(&connecting, sk);
	return 0;
}

static __always_inline int accepted(struct sock *sk)
{
	struct bpfleet_ends ends = {};
	struct process process = {};
	__u16 family;

	if (!sk || BPF_CORE_READ(sk, sk_protocol) != BPFLEET_IPPROTO_TCP)
		return 0;
	family = BPF_CORE_READ(sk, __sk_common.skc_family);
	if (family != BPFLEET_AF_INET && family != BPFLEET_AF_INET6)
		return 0;
	bpfleet_ends_at(&ends, sk);
	this_process(&process);
	add(&ends, &process, false);
	return 0;
}

/* Its arguments changed in 6.10, so the result is asked for. */
SEC("?fexit/inet_csk_accept")
int accept_by_fexit(void *ctx)
{
	__u64 sk = 0;

	bpf_get_func_ret(ctx, &sk);
	return accepted((struct sock *)sk);
}

/* Where trampolines are refused: the system call has returned a file, which is a socket. */
static __always_inline int accepted_file(long number)
{
	struct task_struct___files *task = (void *)bpf_get_current_task();
	struct fdtable *table;
	struct file **files, *file = NULL;
	struct socket *socket;

	if (number < 0)
		return 0;
	table = BPF_CORE_READ(task, files, fdt);
	if (number >= BPF_CORE_READ(table, max_fds))
		return 0;
	files = BPF_CORE_READ(table, fd);
	bpf_probe_read_kernel(&file, sizeof(file), files + number);
	socket = BPF_CORE_READ(file, private_data);
	return accepted(BPF_CORE_READ(socket, sk));
}

SEC("?tracepoint/syscalls/sys_exit_accept4")
int accept_by_accept4(struct trace_event_raw_sys_exit *ctx)
{
	return accepted_file(ctx->ret);
}

SEC("?tracepoint/syscalls/sys_exit_accept")
int accept_by_accept(struct trace_event_raw_sys_exit *ctx)
{
	return accepted_file(ctx->ret);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
