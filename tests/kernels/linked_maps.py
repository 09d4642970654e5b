"""Maps whose entries lead elsewhere: stacks, maps of maps, storage of tasks, cgroups and sockets."""

from __future__ import annotations

__all__ = ["LINKED", "STACK_WORDS"]

_HEAD = """#include <bpfleet/bpfleet.h>
#include <asm/unistd.h>

const volatile __u32 pid = 0;
"""

_TAIL = """
char LICENSE[] SEC("license") = "Dual BSD/GPL";
"""

_STACKS = """
struct key {
	__u32 tgid;
	__s32 kernel_stack;
	__s32 user_stack;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, struct key);
	__type(value, __u64);
} counts SEC(".maps");

BPFLEET_FAILED_INSERTS(stacks);

struct {
	__uint(type, BPF_MAP_TYPE_STACK_TRACE);
	__uint(max_entries, 1024);
	__uint(key_size, 4);
	__uint(value_size, 127 * 8);
} stacks SEC(".maps");

/* Not the system call's own tracepoint: before Linux 6.12 there is no kernel stack at one. */
SEC("raw_tp/sys_enter")
int on_getpgid(struct bpf_raw_tracepoint_args *ctx)
{
	struct key key = { .tgid = bpf_get_current_pid_tgid() >> 32 };
	__u64 none = 0, *count;

	if (key.tgid != pid || ctx->args[1] != __NR_getpgid)
		return 0;
	key.kernel_stack = bpfleet_stack_id(ctx, stacks, 0);
	key.user_stack = bpfleet_stack_id(ctx, stacks, BPF_F_USER_STACK);
	bpf_map_update_elem(&counts, &key, &none, BPF_NOEXIST);
	count = bpf_map_lookup_elem(&counts, &key);
	if (count)
		__sync_fetch_and_add(count, 1);
	return 0;
}
"""

STACK_WORDS = """
[maps.counts.fields.kernel_stack]
stack = "stacks"
[maps.counts.fields.user_stack]
stack = "stacks"
[maps.counts.fields.value]
name = "calls"
meaning = "counter"
"""

_NEST = """
struct inner {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 100);
	__type(key, __u32);
	__type(value, __u64);
} left SEC(".maps"), right SEC(".maps"), far SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 4);
	__type(key, __u32);
	__array(values, struct inner);
} in_array SEC(".maps") = { .values = { [1] = &left, [3] = &right } };

struct {
	__uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
	__uint(max_entries, 8);
	__type(key, __u32);
	__array(values, struct inner);
} in_hash SEC(".maps") = { .values = { [0] = &far } };

static __always_inline void add(void *outer, __u32 at, __u32 key)
{
	void *map = bpf_map_lookup_elem(outer, &at);
	__u64 none = 0, *value;

	if (!map)
		return;
	bpf_map_update_elem(map, &key, &none, BPF_NOEXIST);
	value = bpf_map_lookup_elem(map, &key);
	if (value)
		__sync_fetch_and_add(value, 1);
}

SEC("raw_tp/sys_enter")
int fill(unsigned long long *ctx)
{
	if (ctx[1] != 121 || bpf_get_current_pid_tgid() >> 32 != pid)
		return 0;
	add(&in_array, 1, 10);
	add(&in_array, 3, 30);
	add(&in_array, 3, 31);
	add(&in_hash, 0, 7);
	return 0;
}
"""

_STORAGE = """
struct {{
	__uint(type, {type});
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, __u64);
}} stored SEC(".maps");
"""

_BY_TASK = (
    _STORAGE.format(type="BPF_MAP_TYPE_TASK_STORAGE")
    + """
SEC("tp_btf/sys_enter")
int BPF_PROG(on_call, void *regs, long number)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u64 *mine;

	if (number != 121 || task->tgid != pid)
		return 0;
	mine = bpf_task_storage_get(&stored, task, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (mine)
		(*mine)++;
	return 0;
}
"""
)

# Since Linux 6.2. The way from a task to its cgroup is not in the headers of 6.1 that this is compiled with.
_BY_CGROUP = (
    _STORAGE.format(type="32 /* BPF_MAP_TYPE_CGRP_STORAGE */")
    + """
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct cgroup;
struct css_set { struct cgroup *dfl_cgrp; };
struct task_struct___with_cgroups { struct css_set *cgroups; };
#pragma clang attribute pop

static void *(*const get_value)(void *map, void *cgroup, void *value, __u64 flags) = (void *)210;

SEC("tp_btf/sys_enter")
int BPF_PROG(on_call, void *regs, long number)
{
	struct task_struct___with_cgroups *task = (void *)bpf_get_current_task_btf();
	__u64 *mine;

	if (number != 121 || bpf_get_current_pid_tgid() >> 32 != pid)
		return 0;
	mine = get_value(&stored, task->cgroups->dfl_cgrp, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (mine)
		__sync_fetch_and_add(mine, 1);
	return 0;
}
"""
)

_BY_SOCKET = (
    _STORAGE.format(type="BPF_MAP_TYPE_SK_STORAGE")
    + """
SEC("cgroup/connect4")
int probe(struct bpf_sock_addr *ctx)
{
	__u64 *mine;

	if (!ctx->sk)
		return 1;
	mine = bpf_sk_storage_get(&stored, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (mine)
		(*mine)++;
	return 1;
}
"""
)

LINKED = {
    name: _HEAD + body + _TAIL
    for name, body in {
        "stacks": _STACKS,
        "nest": _NEST,
        "by_task": _BY_TASK,
        "by_cgroup": _BY_CGROUP,
        "by_socket": _BY_SOCKET,
    }.items()
}
"""Collectors by name."""
