"""Programs that user space tells something: by entries of maps, by variables."""

from __future__ import annotations

from pathlib import Path

__all__ = ["COUNTED", "TOLD", "program_file"]

COUNTED = """
#include <bpfleet/bpfleet.h>

/* The paths to count: user space puts them in, the program only adds to those that are there. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4);
	__type(key, char[64]);
	__type(value, __u64);
} counts SEC(".maps");

SEC("tracepoint/syscalls/sys_enter_execve")
int on_execve(unsigned long *ctx)
{
	char path[64] = {};
	__u64 *count;

	bpf_probe_read_user_str(path, sizeof(path), (void *)ctx[2]);
	count = bpf_map_lookup_elem(&counts, path);
	if (count)
		__sync_fetch_and_add(count, 1);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
"""
"""Starts of programs, by path: the counter of the textbook, whose keys user space puts in first."""

TOLD = """
#include <bpfleet/bpfleet.h>

struct range {
	__u32 low;
	__u32 high;
};

const volatile __u32 only_tgid = 0;
const volatile struct range fixed = {1, 2};
__u32 threshold = 5; /* writes of fewer bytes are not counted */
__u64 passed = 0, held = 0;
struct range limits = {10, 1000};
char tag[16] = "first";
bool paused = false;
__s16 shift = -3;
__u16 few[4] = {1, 2, 3, 4};

struct weight {
	__u32 times;
	__u32 plus;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8);
	__type(key, __u32);
	__type(value, struct weight);
} weights SEC(".maps");

struct pair_key {
	__u32 pid;
	char comm[16];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8);
	__type(key, struct pair_key);
	__type(value, __u64);
} pairs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} each_cpu SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 2);
	__type(value, __u64);
} line SEC(".maps");

/* write(2): fd, buffer, count */
SEC("tracepoint/syscalls/sys_enter_write")
int on_write(unsigned long *ctx)
{
	__u32 size = ctx[4], tgid = bpf_get_current_pid_tgid() >> 32;
	struct weight *weight;
	__u64 add = 1;

	if (tgid != only_tgid || paused)
		return 0;
	if (size < threshold) {
		__sync_fetch_and_add(&held, 1);
		return 0;
	}
	weight = bpf_map_lookup_elem(&weights, &size);
	if (weight)
		add = weight->times + weight->plus;
	__sync_fetch_and_add(&passed, add);
	limits.high++;
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
"""
"""Counts writes of one process that have at least `threshold` bytes."""


def program_file(folder: Path, name: str, text: str, words: str = "") -> Path:
    """`NAME.bpf.c` with words beside it, in a folder of programs."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.toml").write_text(words)
    made = folder / f"{name}.bpf.c"
    made.write_text(text)
    return made
