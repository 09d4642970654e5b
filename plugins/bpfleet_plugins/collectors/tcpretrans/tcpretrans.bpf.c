/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-3-Clause)
 *
 * tcpretrans: TCP segments sent again, by peer and by the connection's state.
 */
#include <bpfleet/network.h>

#define MAX_PEERS 8192

struct peer {
	__u8 address[16];
	__u16 port;
	char direction[4];
	__u8 state;
};

struct sent_again {
	__u64 count;
	__u64 segments;
	__u64 failed;
};

/* LRU: of peers that come and go the least recently used make room. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_PEERS);
	__type(key, struct peer);
	__type(value, struct sent_again);
} peers SEC(".maps");

BPFLEET_FAILED_INSERTS(peers);
BPFLEET_NEW_KEYS(peers);

static const struct sent_again none;

struct sock_common___state {
	unsigned char skc_state;
} __attribute__((preserve_access_index));

struct tcp_skb_cb {
	__u16 tcp_gso_segs;
} __attribute__((preserve_access_index));

/* In newer kernels (6.18 is one) the tracepoint has the error too, and is hit for failed attempts; else for successful ones only. */
typedef void (*btf_trace_tcp_retransmit_skb___with_error)(void *, const struct sock *, const struct sk_buff *, int);

static __always_inline struct sent_again *of(const struct sock_common *common, __u8 state)
{
	struct bpfleet_ends ends = {};
	struct peer key = {};
	bool out;

	bpfleet_ends_of(&ends, common);
	/* Nothing says which end called connect(2). The port of the service is nearly always the lower one. */
	out = ends.port <= ends.local_port;
	__builtin_memcpy(key.address, ends.address, sizeof(key.address));
	key.port = out ? ends.port : ends.local_port;
	__builtin_memcpy(key.direction, out ? "out" : "in\0", sizeof(key.direction));
	key.state = state;
	return bpfleet_get_or_make_lru(peers, &key, &none);
}

SEC("tp_btf/tcp_retransmit_skb")
int on_retransmit(__u64 *ctx)
{
	const struct sock *sk = (const struct sock *)ctx[0];
	const struct sk_buff *skb = (const struct sk_buff *)ctx[1];
	struct sock_common___state *common = (void *)&sk->__sk_common;
	struct tcp_skb_cb *of_tcp = (void *)&skb->cb;
	struct sent_again *sent;

	sent = of(&sk->__sk_common, BPF_CORE_READ(common, skc_state));
	if (!sent)
		return 0;
	if (bpf_core_type_exists(btf_trace_tcp_retransmit_skb___with_error) && (int)ctx[2]) {
		__sync_fetch_and_add(&sent->failed, 1);
		return 0;
	}
	__sync_fetch_and_add(&sent->count, 1);
	__sync_fetch_and_add(&sent->segments, BPF_CORE_READ(of_tcp, tcp_gso_segs));
	return 0;
}

SEC("tp_btf/tcp_retransmit_synack")
int BPF_PROG(on_synack, const struct sock *listener, const struct request_sock *request)
{
	struct sent_again *sent = of(&request->__req_common, BPFLEET_NEW_SYN_RECV);

	if (!sent)
		return 0;
	__sync_fetch_and_add(&sent->count, 1);
	__sync_fetch_and_add(&sent->segments, 1);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
