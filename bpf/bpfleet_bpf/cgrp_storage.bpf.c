/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-3-Clause)
 *
 * The agent's own iterator over a collector's cgroup storage: a row for each cgroup that has a value. The collector's map
 * takes the place of `target`.
 */
#include <bpfleet/bpfleet.h>

const volatile __u32 value_size = 8;

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
};

struct kernfs_node {
	__u64 id;
};

struct cgroup {
	struct kernfs_node *kn;
};

struct bpf_iter__cgroup {
	struct bpf_iter_meta *meta;
	struct cgroup *cgroup;
};

#pragma clang attribute pop

struct {
	__uint(type, 32); /* BPF_MAP_TYPE_CGRP_STORAGE, since 6.2: Debian's header is older */
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, __u64);
} target SEC(".maps");

/* BPF_FUNC_cgrp_storage_get */
static void *(*const get_value)(void *map, struct cgroup *cgroup, void *value, __u64 flags) = (void *)210;

/* iter/cgroup: since 6.1. */
SEC("iter/cgroup")
int storage(struct bpf_iter__cgroup *ctx)
{
	struct cgroup *cgroup = ctx->cgroup;
	__u64 id;
	void *value;

	if (!cgroup)
		return 0; /* the end */
	value = get_value(&target, cgroup, 0, 0);
	if (!value)
		return 0;
	id = cgroup->kn->id;
	bpf_seq_write(ctx->meta->seq, &id, sizeof(id));
	bpf_seq_write(ctx->meta->seq, value, value_size);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
