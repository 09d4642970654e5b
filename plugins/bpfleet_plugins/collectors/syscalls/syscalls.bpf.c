/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-3-Clause)
 *
 * syscalls: system calls by command and number: how many, how long, which errors.
 *
 * A call is counted when it returns; exit and exit_group never do, and are counted when they are made.
 */
#include <bpfleet/compat.h>

#define MAX_CALLS 16384 /* commands times the calls that they make */
#define MAX_ERRORS 8192
#define MAX_ERRNO 4095
#define SLOTS 36
#define COMPAT (1U << 29) /* marks a 32-bit call: its numbers are others */
#define X32 (1U << 30) /* the kernel's own mark */
#define NUMBERS 1024 /* more than any kernel has */
#define NO_CALL (COMPAT - 1) /* stands for all other numbers, so that nobody fills the map with them */

#if defined(__TARGET_ARCH_x86)
#define NR_EXIT 60
#define NR_EXIT_GROUP 231
#define NR_RT_SIGRETURN 15
#define NR_CLONE 56
#define NR_FORK 57
#define NR_VFORK 58
#define NR_COMPAT_EXIT 1
#define NR_COMPAT_EXIT_GROUP 252
#define NR_COMPAT_SIGRETURN 119
#define NR_COMPAT_RT_SIGRETURN 173
#else
#define NR_EXIT 93
#define NR_EXIT_GROUP 94
#define NR_RT_SIGRETURN 139
#define NR_CLONE 220
#define NR_FORK NR_CLONE /* there is none */
#define NR_VFORK NR_CLONE
#define NR_COMPAT_EXIT 1
#define NR_COMPAT_EXIT_GROUP 248
#define NR_COMPAT_SIGRETURN 119
#define NR_COMPAT_RT_SIGRETURN 173
#endif

#define NR_CLONE3 435
#define NR_COMPAT_FORK 2
#define NR_COMPAT_CLONE 120
#define NR_COMPAT_VFORK 190

const volatile __u32 only_pid = 0;

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct pt_regs___x86 {
	unsigned long orig_ax;
};

struct pt_regs___arm64 {
	__s32 syscallno;
};

#pragma clang attribute pop

struct call {
	char comm[TASK_COMM_LEN];
	__u32 nr;
};

struct calls {
	__u64 count;
	__u64 failed;
	__u64 total_ns;
	__u64 slots[SLOTS];
};

/* Per-CPU, as these are the hottest counters there are; made as they are needed, as they are large. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_CALLS);
	__type(key, struct call);
	__type(value, struct calls);
} calls SEC(".maps");

struct failure {
	char comm[TASK_COMM_LEN];
	__u32 nr;
	__u32 error;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_ERRORS);
	__type(key, struct failure);
	__type(value, __u64);
} errors SEC(".maps");

/* The call that a thread is in. It goes with the thread. */
struct entered {
	__u64 at;
	__u32 nr;
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct entered);
} entered SEC(".maps");

BPFLEET_FAILED_INSERTS(calls);
BPFLEET_FAILED_INSERTS(errors);

static const struct calls no_calls;
static const __u64 zero;

static __always_inline __u32 number_of(struct task_struct *task, __u32 id)
{
	if ((id & ~X32) >= NUMBERS)
		return NO_CALL;
	return bpfleet_is_32_bit(task) ? id | COMPAT : id;
}

static __always_inline bool never_returns(__u32 nr)
{
	return nr == NR_EXIT || nr == NR_EXIT_GROUP || nr == (COMPAT | NR_COMPAT_EXIT) ||
	       nr == (COMPAT | NR_COMPAT_EXIT_GROUP);
}

/* Their result is what the thread had in that register when the signal came: no error, whatever it is. */
static __always_inline bool restores_registers(__u32 nr)
{
	return nr == NR_RT_SIGRETURN || nr == (COMPAT | NR_COMPAT_SIGRETURN) ||
	       nr == (COMPAT | NR_COMPAT_RT_SIGRETURN);
}

/* A new thread begins with the end of a call that another one made. */
static __always_inline bool makes_threads(__u32 nr)
{
	if (nr & COMPAT) {
		nr ^= COMPAT;
		return nr == NR_COMPAT_CLONE || nr == NR_COMPAT_FORK || nr == NR_COMPAT_VFORK || nr == NR_CLONE3;
	}
	return nr == NR_CLONE || nr == NR_FORK || nr == NR_VFORK || nr == NR_CLONE3;
}

static __always_inline void count_error(const struct call *call, __u32 error)
{
	struct failure key = {.nr = call->nr, .error = error};
	__u64 *count;

	__builtin_memcpy(key.comm, call->comm, TASK_COMM_LEN);
	count = bpfleet_get_or_make(errors, &key, &zero);
	if (count)
		__sync_fetch_and_add(count, 1);
}

static __always_inline struct calls *count_call(struct call *key)
{
	struct calls *mine;

	bpf_get_current_comm(key->comm, sizeof(key->comm));
	mine = bpfleet_get_or_make(calls, key, &no_calls);
	if (mine)
		mine->count++;
	return mine;
}

SEC("tp_btf/sys_enter")
int BPF_PROG(on_enter, struct pt_regs *regs, long id)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct entered *mine;
	__u32 nr;

	if (only_pid && task->tgid != only_pid)
		return 0;
	nr = number_of(task, id);
	if (never_returns(nr)) {
		struct call key = {.nr = nr};

		count_call(&key);
		return 0;
	}
	mine = bpf_task_storage_get(&entered, task, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!mine)
		return 0;
	mine->nr = nr;
	mine->at = bpf_ktime_get_ns();
	return 0;
}

/*
 * The number of a call whose begin was not seen: it began before the program was attached, or seccomp refused it. The
 * registers still have it, unless it was one that restores them: then it is -1.
 */
static __always_inline __u32 number_in(struct pt_regs *regs)
{
	struct pt_regs___x86 *x86 = (void *)regs;
	struct pt_regs___arm64 *arm64 = (void *)regs;

	if (bpf_core_field_exists(x86->orig_ax))
		return x86->orig_ax;
	if (bpf_core_field_exists(arm64->syscallno))
		return arm64->syscallno;
	return -1;
}

SEC("tp_btf/sys_exit")
int BPF_PROG(on_exit, struct pt_regs *regs, long ret)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct call key = {};
	struct entered *begin;
	struct calls *mine;
	__u64 ns = 0;
	__u32 slot, nr;

	if (only_pid && task->tgid != only_pid)
		return 0;
	begin = bpf_task_storage_get(&entered, task, NULL, 0);
	if (begin && begin->at) {
		ns = bpf_ktime_get_ns() - begin->at;
		key.nr = begin->nr;
		begin->at = 0;
	} else {
		nr = number_in(regs);
		if (nr == -1)
			return 0;
		key.nr = number_of(task, nr);
		if (!ret && makes_threads(key.nr))
			return 0;
	}
	mine = count_call(&key);
	if (!mine)
		return 0;
	if (ns) {
		mine->total_ns += ns;
		slot = bpfleet_log2_slot(ns, SLOTS);
		if (slot < SLOTS)
			mine->slots[slot]++;
	}
	if (ret < 0 && ret >= -MAX_ERRNO && !restores_registers(key.nr)) {
		mine->failed++;
		count_error(&key, -ret);
	}
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
