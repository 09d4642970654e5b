/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-3-Clause)
 *
 * offcpu: time that threads spend off their CPU, by command, the state that they waited in, and the stacks that led there.
 */
#include <bpfleet/stacks.h>

#define MAX_WAITS 10240
#define MAX_THREADS 32768
/* The innermost functions are this program, which has another name on each kernel, and what calls it. */
#define OWN_FRAMES 3

#define TASK_INTERRUPTIBLE 0x01
#define TASK_UNINTERRUPTIBLE 0x02
#define TASK_STOPPED 0x04
#define TASK_TRACED 0x08
#define TASK_DEAD 0x80
#define TASK_NOLOAD 0x400

const volatile __u32 only_pid = 0; /* 0: all */
const volatile __u8 preempted = 0; /* also time after which a thread had not to wait for anything but a CPU */

struct wait {
	__u32 tgid;
	__s32 kernel_stack;
	__s32 kernel_spilled;
	__s32 user_stack;
	__s32 user_spilled;
	char state[4];
	char comm[TASK_COMM_LEN];
};

struct waits {
	__u64 off_ns;
	__u64 count;
};

/* LRU: rows of processes that have ended make room */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_WAITS);
	__type(key, struct wait);
	__type(value, struct waits);
} waits SEC(".maps");

BPFLEET_FAILED_INSERTS(waits);
BPFLEET_NEW_KEYS(waits);

/* A thread that is off its CPU; `since` is 0 once it is back */
struct off {
	__u64 since;
	struct wait wait;
};

/* An entry lasts as long as its thread: a switch changes it in place. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_THREADS);
	__type(key, __u32);
	__type(value, struct off);
} threads SEC(".maps");

static const struct waits none;

/* The letter of ps(1) */
static __always_inline char letter(bool preempt, unsigned int state)
{
	if (preempt || !state)
		return 'R';
	if (state & TASK_INTERRUPTIBLE)
		return 'S';
	if (state & TASK_UNINTERRUPTIBLE)
		return state & TASK_NOLOAD ? 'I' : 'D';
	if (state & TASK_STOPPED)
		return 'T';
	if (state & TASK_TRACED)
		return 't';
	return 'o';
}

static __always_inline void leaves(void *ctx, struct task_struct *task, char state, __u64 now)
{
	struct off off = {.since = now, .wait = {.tgid = task->tgid, .state = {state}}}, *kept;
	__u32 pid = task->pid;
	struct bpfleet_kept_stack ids;

	if (!pid || (state == 'R' && !preempted) || (only_pid && off.wait.tgid != only_pid))
		return;
	ids = bpfleet_keep_stack(ctx, OWN_FRAMES);
	off.wait.kernel_stack = ids.stack;
	off.wait.kernel_spilled = ids.spilled;
	ids = bpfleet_keep_stack(ctx, BPF_F_USER_STACK);
	off.wait.user_stack = ids.stack;
	off.wait.user_spilled = ids.spilled;
	__builtin_memcpy(off.wait.comm, task->group_leader->comm, TASK_COMM_LEN);
	kept = bpf_map_lookup_elem(&threads, &pid);
	if (kept)
		*kept = off;
	else if (bpf_map_update_elem(&threads, &pid, &off, BPF_ANY))
		__sync_fetch_and_add(&waits_failed_inserts, 1);
}

static __always_inline void comes(struct task_struct *task, __u64 now)
{
	__u32 pid = task->pid;
	struct off *off;
	struct waits *found;
	__u64 since;

	if (!pid || (only_pid && task->tgid != only_pid))
		return;
	off = bpf_map_lookup_elem(&threads, &pid);
	if (!off || !off->since)
		return;
	since = off->since;
	off->since = 0;
	found = bpfleet_get_or_make_lru(waits, &off->wait, &none);
	if (!found)
		return;
	__sync_fetch_and_add(&found->count, 1);
	__sync_fetch_and_add(&found->off_ns, now - since);
}

/* `prev_state` is there since 5.18. `prev->__state` may be that of a wakeup that has begun already. */
SEC("tp_btf/sched_switch")
int BPF_PROG(on_switch, bool preempt, struct task_struct *prev, struct task_struct *next,
	     unsigned int prev_state)
{
	__u64 now = bpf_ktime_get_ns();
	__u32 pid = prev->pid;

	if (prev_state & TASK_DEAD)
		bpf_map_delete_elem(&threads, &pid);
	else
		leaves(ctx, prev, letter(preempt, prev_state), now);
	comes(next, now);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
