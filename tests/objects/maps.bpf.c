/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-3-Clause)
 *
 * Every way to define a map, and globals in every section that can hold them.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

typedef _Bool bool;

struct key {
	__u32 pid;
	char comm[16];
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_PERCPU_HASH);
	__uint(max_entries, 1000);
	__uint(map_flags, BPF_F_NO_COMMON_LRU);
	__type(key, struct key);
	__type(value, __u64);
} counts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE | BPF_F_RDONLY_PROG);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, struct key);
} pinned SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 8);
	__type(value, struct key);
} queue SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_STACK_TRACE);
	__uint(max_entries, 64);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, 127 * sizeof(__u64));
} stacks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_BLOOM_FILTER);
	__uint(max_entries, 100);
	__uint(map_extra, 3);
	__type(value, __u32);
} bloom SEC(".maps");

struct inner_map {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 32);
	__type(key, __u32);
	__type(value, __u64);
} first SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 2);
	__type(key, __u32);
	__array(values, struct inner_map);
} outer SEC(".maps") = {
	.values = { &first },
};

int called(void *ctx);

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 2);
	__uint(key_size, sizeof(__u32));
	__array(values, int (void *));
} programs SEC(".maps") = {
	.values = { [1] = (void *)&called },
};

struct limits {
	__u32 low;
	__u32 high;
};

/* .rodata */
const volatile __u32 threshold = 7;
const volatile struct limits limits = { 1, 99 };
const volatile char target[8] = "sshd";
const volatile __s16 steps[3] = { -1, 0, 1 };
const volatile struct limits table[2] = {};
const volatile bool verbose = 1;
static const __u64 zero;
const double ratio = 0.5;
/* .data */
__u64 next_id = 1000;
static volatile __s32 shift = -3;
/* .data.own */
struct limits own SEC(".data.own") = { 3, 4 };
/* .bss */
__u64 failed;
char last_comm[16];
struct { __u64 seen; struct limits range; } walk;
struct limits by_cpu[128];

SEC("syscall")
int called(void *ctx)
{
	static __u64 calls;

	calls += threshold + limits.high + target[0] + steps[1] + table[1].low + verbose;
	failed += calls + zero;
	last_comm[0] = 'x';
	walk.seen += next_id + shift + own.low;
	by_cpu[3].low = failed;
	next_id += ratio > 0.25 ? 1 : 2;
	bpf_map_update_elem(&counts, &zero, &zero, 0);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
__u32 VERSION SEC("version") = 0x060109;
