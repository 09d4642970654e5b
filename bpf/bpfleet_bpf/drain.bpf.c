/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-3-Clause)
 *
 * The drain program: takes values out of a queue or a stack inside the kernel and writes them as rows into an array that the
 * worker has mapped into its memory; one system call for thousands of values.
 *
 * Loaded once per map that is drained. `target` stands for that map: the loader gives it the real map's type, sizes and fd.
 *
 * raw_tp, not syscall: older kernels refuse queues and stacks to programs that may sleep; bpf(2) runs both
 * alike.
 */
#include <bpfleet/bpfleet.h>

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE); /* replaced by the loader */
	__uint(max_entries, 1);
	__type(value, __u64);
} target SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} rows SEC(".maps");

const volatile __u32 most_rows = 1;

/* In .bss, which is mapped too. */
struct {
	__u64 popped; /* rows that the last run wrote */
	__u64 total;  /* values taken since the program was loaded */
} drained;

/* For bpf_loop. */
static long pop(__u32 i, void *ctx)
{
	__u32 at = i;
	void *row = bpf_map_lookup_elem(&rows, &at);

	if (!row || bpf_map_pop_elem(&target, row))
		return 1;
	drained.popped = at + 1;
	return 0;
}

SEC("raw_tp")
int drain(void *ctx)
{
	drained.popped = 0;
	bpf_loop(most_rows, pop, NULL, 0);
	drained.total += drained.popped;
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
