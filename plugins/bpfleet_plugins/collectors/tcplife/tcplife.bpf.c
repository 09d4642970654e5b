/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-3-Clause)
 *
 * tcplife: what TCP connections that have ended sent and received, and how long they were, by process and peer.
 *
 * No event says who accepted a connection. But a process ends it: what it does to the socket it does under the socket's lock
 * (sk_lock.owned), in its own context, unlike packets and timers. So a connection in belongs to whom shuts it down or closes it.
 */
#include <bpfleet/network.h>

const volatile bool by_pid = true;

#define MAX_CONNECTIONS 4096
#define SLOTS 40 /* the last one: from 2^39 us (6 days) on */
#define SOCK_DONE 1 /* bit of sk_flags: a FIN has come (enum sock_flags, include/net/sock.h) */

struct connection {
	__u8 address[16];
	__u64 cgroup_id;
	char comm[TASK_COMM_LEN];
	__u32 pid;
	char direction[4];
	__u16 port;
};

struct total {
	__u64 count;
	__u64 sent;
	__u64 received;
	__u64 total_ns;
	__u64 slots[SLOTS];
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_CONNECTIONS);
	__type(key, struct connection);
	__type(value, struct total);
} ended SEC(".maps");

struct life {
	__u64 born; /* established; 0 until then */
	__u64 died; /* 0 while it lives */
	__u64 sent;
	__u64 received;
	__u64 cgroup_id;
	char comm[TASK_COMM_LEN];
	__u32 pid;
	struct bpfleet_ends ends; /* a socket that is closed has given its port back */
	bool owned; /* by the process that the three before `ends` name */
	bool out;
};

/* It goes with the socket. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct life);
} lives SEC(".maps");

BPFLEET_FAILED_INSERTS(ended);
BPFLEET_NEW_KEYS(ended);

static const struct total none;

struct sock_common___flags {
	unsigned long skc_flags;
} __attribute__((preserve_access_index));

static __always_inline void own(struct life *life)
{
	life->cgroup_id = bpf_get_current_cgroup_id();
	life->pid = by_pid ? bpf_get_current_pid_tgid() >> 32 : 0;
	bpf_get_current_comm(life->comm, sizeof(life->comm));
	life->owned = true;
}

static __always_inline void tell(struct life *life)
{
	struct connection key = {};
	struct total *total;
	__u64 ns = life->died - life->born;

	__builtin_memcpy(key.address, life->ends.address, sizeof(key.address));
	__builtin_memcpy(key.comm, life->comm, sizeof(key.comm));
	key.cgroup_id = life->cgroup_id;
	key.pid = life->pid;
	key.port = life->out ? life->ends.port : life->ends.local_port;
	__builtin_memcpy(key.direction, life->out ? "out" : "in\0", sizeof(key.direction));
	total = bpfleet_get_or_make_lru(ended, &key, &none);
	if (!total)
		return;
	__sync_fetch_and_add(&total->count, 1);
	__sync_fetch_and_add(&total->sent, life->sent);
	__sync_fetch_and_add(&total->received, life->received);
	__sync_fetch_and_add(&total->total_ns, ns);
	__sync_fetch_and_add(&total->slots[bpfleet_log2_slot(ns / 1000, SLOTS)], 1);
}

/* Payload only: bytes_received counts a FIN as a byte, bytes_sent counts what was sent again as often as it was sent. */
static __always_inline void weigh(struct sock *sk, struct life *life)
{
	struct sock_common___flags *flags = (void *)&sk->__sk_common;
	struct tcp_sock *tcp = bpf_skc_to_tcp_sock(sk);

	if (!tcp)
		return;
	if (tcp->bytes_sent > tcp->bytes_retrans)
		life->sent = tcp->bytes_sent - tcp->bytes_retrans;
	life->received = tcp->bytes_received;
	if (life->received && BPF_CORE_READ(flags, skc_flags) >> SOCK_DONE & 1)
		life->received--;
}

static __always_inline struct life *make(struct sock *sk)
{
	struct life *life = bpf_sk_storage_get(&lives, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);

	if (!life)
		__sync_fetch_and_add(&ended_failed_inserts, 1);
	return life;
}

static __always_inline void begin(struct sock *sk)
{
	struct life *life = make(sk);

	if (!life)
		return;
	if (life->died) /* connect(2) anew, after one with AF_UNSPEC */
		tell(life);
	life->born = 0;
	life->died = 0;
	life->out = true;
	own(life);
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(on_state, struct sock *sk, int before, int now)
{
	struct life *life;

	if (sk->sk_protocol != BPFLEET_IPPROTO_TCP)
		return 0;
	if (now == BPFLEET_SYN_SENT) {
		begin(sk);
		return 0;
	}
	if (now == BPFLEET_ESTABLISHED) {
		life = make(sk);
		if (!life)
			return 0;
		life->born = bpf_ktime_get_ns();
		bpfleet_ends_of(&life->ends, &sk->__sk_common);
		return 0;
	}
	if (now != BPFLEET_FIN_WAIT1 && now != BPFLEET_LAST_ACK && now != BPFLEET_CLOSE)
		return 0;
	life = bpf_sk_storage_get(&lives, sk, 0, 0);
	if (!life || !life->born || life->died)
		return 0;
	if (!life->owned && sk->sk_lock.owned)
		own(life);
	if (now == BPFLEET_CLOSE) {
		life->died = bpf_ktime_get_ns();
		weigh(sk, life);
	}
	return 0;
}

/* A reset ends a connection before its process closes it; then this comes when the process does, and tells who it was. */
SEC("tp_btf/tcp_destroy_sock")
int BPF_PROG(on_destroy, struct sock *sk)
{
	struct life *life = bpf_sk_storage_get(&lives, sk, 0, 0);

	if (!life || !life->died)
		return 0;
	if (!life->owned)
		own(life);
	tell(life);
	bpf_sk_storage_delete(&lives, sk);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
