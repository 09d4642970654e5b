/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-3-Clause)
 *
 * netdev: packets and bytes of every network interface, by direction and protocol.
 *
 * Two tracepoints see all interfaces of all network namespaces, also those that come later, once for each buffer: where a driver
 * is handed it, and where the stack receives it. Buffers that hold several packets (GSO, GRO) count as the packets on the wire.
 */
#include <bpfleet/network.h>

#define MAX_FLOWS 8192

struct flow {
	char interface[16];
	__u32 netns;
	char direction[4];
	__u16 l3;
	__u8 l4;
};

struct traffic {
	__u64 packets;
	__u64 bytes;
};

/* LRU: containers' interfaces come and go. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_PERCPU_HASH);
	__uint(max_entries, MAX_FLOWS);
	__type(key, struct flow);
	__type(value, struct traffic);
} traffic SEC(".maps");

BPFLEET_FAILED_INSERTS(traffic);
BPFLEET_NEW_KEYS(traffic);

static const struct traffic none;

/* Packets in a buffer, and the headers that all but the first have on the wire and not in memory (as qdisc_pkt_len_init counts). */
static __always_inline __u32 packets_in(struct sk_buff *skb, __u32 frame, __u32 start, __u8 protocol, __u32 *more)
{
	struct skb_shared_info *shared = (void *)(skb->head + skb->end);
	__u32 size = BPF_CORE_READ(shared, gso_size), packets, headers;
	__u8 words = 0;

	if (!size)
		return 1;
	headers = skb->transport_header - start;
	if (protocol == BPFLEET_IPPROTO_TCP) {
		bpf_probe_read_kernel(&words, 1, skb->head + skb->transport_header + 12);
		headers += (words >> 4) * 4;
	} else {
		headers += 8;
	}
	packets = BPF_CORE_READ(shared, gso_segs);
	if (headers > 512 || headers >= frame)
		return packets ?: 1;
	if (!packets) /* from a guest, which does not say */
		packets = (frame - headers + size - 1) / size;
	*more = (packets - 1) * headers;
	return packets;
}

static __always_inline int add(struct sk_buff *skb, struct net_device *dev, const void *header, __u32 start,
			       __u32 frame, bool out)
{
	struct flow key = {};
	struct traffic *mine;
	__u32 more = 0, packets;

	bpf_probe_read_kernel_str(key.interface, sizeof(key.interface), dev->name);
	key.netns = dev->nd_net.net->ns.inum;
	__builtin_memcpy(key.direction, out ? "out" : "in\0", sizeof(key.direction));
	key.l3 = bpf_ntohs(skb->protocol);
	key.l4 = bpfleet_ip_protocol(header, key.l3);
	packets = packets_in(skb, frame, start, key.l4, &more);
	mine = bpfleet_get_or_make_lru(traffic, &key, &none);
	if (!mine)
		return 0;
	mine->packets += packets;
	mine->bytes += frame + more;
	return 0;
}

SEC("tp_btf/net_dev_start_xmit")
int BPF_PROG(on_transmit, struct sk_buff *skb, struct net_device *dev)
{
	return add(skb, dev, skb->head + skb->network_header, skb->data - skb->head, skb->len, true);
}

/* Here `data` is behind the link layer's header, and network_header is not set yet. */
SEC("tp_btf/netif_receive_skb")
int BPF_PROG(on_receive, struct sk_buff *skb)
{
	__u32 at = skb->data - skb->head, start = skb->mac_header;

	if (start > at) /* it has none */
		start = at;
	return add(skb, skb->dev, skb->data, start, skb->len + (at - start), false);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
