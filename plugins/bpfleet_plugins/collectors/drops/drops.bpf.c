/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-3-Clause)
 *
 * drops: packets that the kernel dropped, by its reason, the protocol, and the function that dropped them.
 *
 * The function's name is looked up here, once for each place: an address would say where the kernel lies in memory, and differs from
 * host to host.
 */
#include <bpfleet/network.h>

#define MAX_DROPS 4096
#define MAX_PLACES 1024

struct drop {
	char function[48];
	__u32 reason;
	__u16 l3;
	__u8 l4;
};

struct dropped {
	__u64 packets;
	__u64 bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_DROPS);
	__type(key, struct drop);
	__type(value, struct dropped);
} drops SEC(".maps");

struct function {
	char name[48];
};

/* LRU: modules may be loaded elsewhere, time and again. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_PLACES);
	__type(key, __u64);
	__type(value, struct function);
} places SEC(".maps");

BPFLEET_FAILED_INSERTS(drops);

static const struct dropped none;

static __always_inline void name(struct drop *key, __u64 place)
{
	struct function *known = bpf_map_lookup_elem(&places, &place), found = {};

	if (!known) {
		BPF_SNPRINTF(found.name, sizeof(found.name), "%ps", place);
		bpf_map_update_elem(&places, &place, &found, BPF_ANY);
		known = &found;
	}
	__builtin_memcpy(key->function, known->name, sizeof(key->function));
}

/* With a reason since 5.17; which number means what differs between kernels. What was merely used up is not told here. */
SEC("tp_btf/kfree_skb")
int BPF_PROG(on_drop, struct sk_buff *skb, void *location, int reason)
{
	struct dropped *dropped;
	struct drop key = {};

	name(&key, (__u64)location);
	key.reason = reason;
	key.l3 = bpf_ntohs(skb->protocol);
	key.l4 = bpfleet_ip_protocol(skb->head + skb->network_header, key.l3);
	dropped = bpfleet_get_or_make(drops, &key, &none);
	if (!dropped)
		return 0;
	__sync_fetch_and_add(&dropped->packets, 1);
	__sync_fetch_and_add(&dropped->bytes, skb->len);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
