/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-3-Clause)
 *
 * The agent's own iterator over a collector's socket storage: a row for each socket that has a value. The kernel goes
 * through the map that the iterator is attached to.
 */
#include <bpfleet/bpfleet.h>

const volatile __u32 value_size = 8;

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct seq_file;
struct bpf_map;
struct sock;

struct bpf_iter_meta {
	struct seq_file *seq;
};

struct bpf_iter__bpf_sk_storage_map {
	struct bpf_iter_meta *meta;
	struct bpf_map *map;
	struct sock *sk;
	void *value;
};

#pragma clang attribute pop

/* iter/bpf_sk_storage_map: since 5.9; bpf_get_socket_cookie in iterators: since 5.12. */
SEC("iter/bpf_sk_storage_map")
int storage(struct bpf_iter__bpf_sk_storage_map *ctx)
{
	struct sock *sk = ctx->sk;
	void *value = ctx->value;
	__u64 cookie;

	if (!sk || !value)
		return 0;
	cookie = bpf_get_socket_cookie(sk);
	bpf_seq_write(ctx->meta->seq, &cookie, sizeof(cookie));
	bpf_seq_write(ctx->meta->seq, value, value_size);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
