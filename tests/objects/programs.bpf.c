/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-3-Clause)
 *
 * Programs that go to places of every kind, and functions that they share, static and global.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct task_struct {
	int pid;
	int tgid;
} __attribute__((preserve_access_index));

static __attribute__((noinline)) int shared(__u64 *ctx)
{
	struct task_struct *task = (void *)ctx[0];

	return task->pid + task->tgid;
}

__attribute__((noinline)) int shared_too(int number)
{
	return number & 1;
}

#define PROGRAM(name, section)                  \
	SEC(section) int name(__u64 *ctx)       \
	{                                       \
		return 0;                       \
	}

SEC("tp_btf/sched_switch")
int on_switch(__u64 *ctx)
{
	return shared_too(shared(ctx));
}

SEC("tp_btf/sched_switch")
int on_switch_too(__u64 *ctx)
{
	return shared(ctx) & 2;
}

PROGRAM(long_tracepoint, "tracepoint/syscalls/sys_enter_openat")
PROGRAM(short_tracepoint, "?tp/sched/sched_process_exec")
PROGRAM(raw, "raw_tp/sys_enter")
PROGRAM(raw_long, "raw_tracepoint/sys_exit")
PROGRAM(function, "kprobe/do_unlinkat+0x8")
PROGRAM(returned, "kretprobe/do_unlinkat")
PROGRAM(called, "ksyscall/openat")
PROGRAM(entered, "fentry/vfs_read")
PROGRAM(left, "fexit.s/vfs_read")
PROGRAM(allocated, "uprobe//usr/lib/libc.so.6:malloc+16")
PROGRAM(freed, "uretprobe/libc.so.6:free")
PROGRAM(anywhere, "uprobe")
PROGRAM(probe, "usdt/libc.so.6:libc:setjmp")
PROGRAM(walked, "iter/task")
PROGRAM(guarded, "lsm/file_open")
PROGRAM(packets, "xdp")
PROGRAM(filtered, "tc")
PROGRAM(sampled, "perf_event")
PROGRAM(settled, "syscall")
PROGRAM(cgrouped, "cgroup_skb/ingress")
PROGRAM(unheard_of, "my_own/place")

char LICENSE[] SEC("license") = "GPL";
