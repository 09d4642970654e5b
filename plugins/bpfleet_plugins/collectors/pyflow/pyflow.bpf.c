/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-3-Clause)
 *
 * pyflow: calls and time of the functions of chosen Python processes, by the interpreter's USDT probes function__entry and
 * function__return: (file name, function name, line). The second one is also hit where a generator yields and where an exception
 * leaves a function.
 *
 * CPython 3.11 has function__entry in DO_TRACING alone, which stands in for each instruction where a profiler or tracer is set
 * (sys.setprofile, cProfile, a debugger), and not in what that calls; function__return stands in RETURN_VALUE itself
 * (github.com/python/cpython/issues/98894). So calls are counted where they return, and are timed where the entry was told too.
 */
#include <asm/ptrace.h>
#include <bpfleet/bpfleet.h>
#include <bpf/usdt.bpf.h>

#define MAX_FUNCTIONS 8192
#define MAX_THREADS 512
#define MAX_DEPTH 256 /* Python's own limit is 1000; calls further down are not timed */

struct function {
	__u32 pid;
	char name[48];
	char file[96];
};

struct spent {
	__u64 calls;
	__u64 timed;
	__u64 total_ns;
	__u64 self_ns;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_FUNCTIONS);
	__type(key, struct function);
	__type(value, struct spent);
} functions SEC(".maps");

struct frame {
	__u64 since;
	__u64 in_callees;
	long file; /* where the interpreter keeps the names: the same for each call of a function */
	long name;
};

/* The functions that a thread is in, of those that we were told it entered. */
struct thread {
	__u64 depth;
	struct frame frames[MAX_DEPTH];
};

/* LRU: of threads that end nothing is told. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_THREADS);
	__type(key, __u64);
	__type(value, struct thread);
} threads SEC(".maps");

BPFLEET_FAILED_INSERTS(functions);
BPFLEET_FAILED_INSERTS(threads);

static const struct spent none;
static const struct thread fresh;

/* The call that returns, if it is the last one that was entered; NULL where nobody told of its entry. */
static __always_inline struct frame *leave(struct thread *thread, long file, long name)
{
	__u64 top = thread->depth - 1;

	if (top >= MAX_DEPTH || thread->frames[top].file != file || thread->frames[top].name != name)
		return NULL;
	thread->depth = top;
	return &thread->frames[top];
}

static __always_inline void charge(struct thread *thread, struct frame *frame, struct spent *spent)
{
	__u64 ns = bpf_ktime_get_ns() - frame->since, caller = thread->depth - 1;

	__sync_fetch_and_add(&spent->timed, 1);
	__sync_fetch_and_add(&spent->total_ns, ns);
	__sync_fetch_and_add(&spent->self_ns, ns - frame->in_callees);
	if (caller < MAX_DEPTH)
		thread->frames[caller].in_callees += ns;
}

/* Stands before on_entry, as programs are attached in this order: a function that is entered and left in between must not stay. */
SEC("usdt")
int on_return(struct pt_regs *ctx)
{
	__u64 id = bpf_get_current_pid_tgid();
	struct thread *thread = bpf_map_lookup_elem(&threads, &id);
	struct function key = {};
	struct frame *frame = NULL;
	long file = 0, name = 0;
	struct spent *spent;

	bpf_usdt_arg(ctx, 0, &file);
	bpf_usdt_arg(ctx, 1, &name);
	key.pid = id >> 32;
	bpf_probe_read_user_str(key.name, sizeof(key.name), (void *)name);
	bpf_probe_read_user_str(key.file, sizeof(key.file), (void *)file);
	spent = bpfleet_get_or_make(functions, &key, &none);
	if (spent)
		__sync_fetch_and_add(&spent->calls, 1);
	if (!thread)
		return 0;
	if (thread->depth > MAX_DEPTH) {
		thread->depth--;
		return 0;
	}
	frame = leave(thread, file, name);
	if (frame && spent)
		charge(thread, frame, spent);
	return 0;
}

SEC("usdt")
int on_entry(struct pt_regs *ctx)
{
	__u64 id = bpf_get_current_pid_tgid(), depth;
	struct thread *thread = bpfleet_get_or_make(threads, &id, &fresh);
	struct frame *frame;

	if (!thread)
		return 0;
	depth = thread->depth++;
	if (depth >= MAX_DEPTH)
		return 0;
	frame = &thread->frames[depth];
	bpf_usdt_arg(ctx, 0, &frame->file);
	bpf_usdt_arg(ctx, 1, &frame->name);
	frame->in_callees = 0;
	frame->since = bpf_ktime_get_ns();
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
