/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-3-Clause)
 *
 * For collectors that look at sockets and packets: the kernel's types, with no more members than are read, and who is at the
 * other end of a socket. Offsets mean nothing, as in kernel_types.h.
 */
#ifndef BPFLEET_NETWORK_H
#define BPFLEET_NETWORK_H

#include <bpf/bpf_endian.h>
#include <bpfleet/bpfleet.h>

#define BPFLEET_AF_INET 2
#define BPFLEET_AF_INET6 10
#define BPFLEET_IPPROTO_TCP 6
#define BPFLEET_IPPROTO_UDP 17
#define BPFLEET_ETH_P_IP 0x0800
#define BPFLEET_ETH_P_IPV6 0x86dd

/* include/net/tcp_states.h */
enum bpfleet_tcp_state {
	BPFLEET_ESTABLISHED = 1,
	BPFLEET_SYN_SENT,
	BPFLEET_SYN_RECV,
	BPFLEET_FIN_WAIT1,
	BPFLEET_FIN_WAIT2,
	BPFLEET_TIME_WAIT,
	BPFLEET_CLOSE,
	BPFLEET_CLOSE_WAIT,
	BPFLEET_LAST_ACK,
	BPFLEET_LISTEN,
	BPFLEET_CLOSING,
	BPFLEET_NEW_SYN_RECV,
};

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct ns_common {
	unsigned int inum;
};

struct net {
	struct ns_common ns;
};

struct net_device {
	char name[16];
	struct {
		struct net *net;
	} nd_net; /* possible_net_t */
};

struct in6_addr {
	union {
		__u8 u6_addr8[16];
		__u32 u6_addr32[4];
	} in6_u;
};

struct sock_common {
	__u32 skc_daddr; /* network order, as are addresses and skc_dport */
	__u16 skc_dport;
	__u16 skc_num; /* the local port, host order */
	unsigned short skc_family;
	struct in6_addr skc_v6_daddr; /* of an IPv4 peer ::ffff:a.b.c.d; not there without CONFIG_IPV6 */
};

struct sock {
	struct sock_common __sk_common;
	struct {
		int owned; /* a process has locked the socket: 1 in its system calls, 0 where a packet or a timer acts */
	} sk_lock;
	int sk_err;
	__u16 sk_protocol;
};

struct tcp_sock {
	__u64 bytes_received;
	__u64 bytes_sent;
	__u64 bytes_retrans;
};

struct request_sock {
	struct sock_common __req_common;
};

struct sk_buff {
	struct net_device *dev;
	char cb[48];
	unsigned int len;
	__u16 protocol; /* network order */
	__u16 transport_header;
	__u16 network_header;
	__u16 mac_header;
	unsigned int end;
	unsigned char *head;
	unsigned char *data;
};

struct skb_shared_info {
	unsigned short gso_size;
	unsigned short gso_segs;
};

#pragma clang attribute pop

/* Who is at the other end. IPv4 addresses are ::ffff:a.b.c.d; ports in host order. */
struct bpfleet_ends {
	__u8 address[16];
	__u16 port;
	__u16 local_port;
};

static __always_inline void bpfleet_mapped(__u8 *address, __u32 ipv4)
{
	__u32 *words = (__u32 *)address;

	words[0] = 0;
	words[1] = 0;
	words[2] = bpf_htonl(0xffff);
	words[3] = ipv4;
}

/* Of a socket that the verifier knows (an argument of a tp_btf program). */
static __always_inline void bpfleet_ends_of(struct bpfleet_ends *ends, const struct sock_common *common)
{
	__u32 *words = (__u32 *)ends->address;

	if (common->skc_family == BPFLEET_AF_INET6 && bpf_core_field_exists(common->skc_v6_daddr)) {
		words[0] = common->skc_v6_daddr.in6_u.u6_addr32[0];
		words[1] = common->skc_v6_daddr.in6_u.u6_addr32[1];
		words[2] = common->skc_v6_daddr.in6_u.u6_addr32[2];
		words[3] = common->skc_v6_daddr.in6_u.u6_addr32[3];
	} else {
		bpfleet_mapped(ends->address, common->skc_daddr);
	}
	ends->port = bpf_ntohs(common->skc_dport);
	ends->local_port = common->skc_num;
}

/* Of a socket by its address only. */
static __always_inline void bpfleet_ends_at(struct bpfleet_ends *ends, struct sock *sk)
{
	if (BPF_CORE_READ(sk, __sk_common.skc_family) == BPFLEET_AF_INET6 &&
	    bpf_core_field_exists(sk->__sk_common.skc_v6_daddr))
		BPF_CORE_READ_INTO(&ends->address, sk, __sk_common.skc_v6_daddr.in6_u.u6_addr8);
	else
		bpfleet_mapped(ends->address, BPF_CORE_READ(sk, __sk_common.skc_daddr));
	ends->port = bpf_ntohs(BPF_CORE_READ(sk, __sk_common.skc_dport));
	ends->local_port = BPF_CORE_READ(sk, __sk_common.skc_num);
}

/*
 * The protocol of an IP packet whose header is at `header`; 0 where the bytes are none of `ethertype` (host order).
 * Of IPv6 up to four extension headers are passed over.
 */
static __always_inline __u8 bpfleet_ip_protocol(const void *header, __u16 ethertype)
{
	__u8 head[2] = {}, first = 0, next = 0;
	__u32 at = 40;

	if (ethertype != BPFLEET_ETH_P_IP && ethertype != BPFLEET_ETH_P_IPV6)
		return 0;
	if (ethertype == BPFLEET_ETH_P_IP) {
		__u8 ipv4[10] = {};

		bpf_probe_read_kernel(ipv4, sizeof(ipv4), header);
		return ipv4[0] >> 4 == 4 ? ipv4[9] : 0;
	}
	bpf_probe_read_kernel(&first, 1, header);
	if (first >> 4 != 6)
		return 0;
	bpf_probe_read_kernel(&next, 1, header + 6);
#pragma clang loop unroll(full)
	for (int i = 0; i < 4; i++) {
		/* hop-by-hop options, routing, destination options; a fragment's header has 8 bytes */
		if (next != 0 && next != 43 && next != 60 && next != 44)
			break;
		bpf_probe_read_kernel(head, 2, header + at);
		at += next == 44 ? 8 : (head[1] + 1) * 8;
		next = head[0];
	}
	return next;
}

#endif
