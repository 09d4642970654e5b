/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-3-Clause)
 *
 * pagefaults: page faults by command; major faults and reads from swap by process.
 */
#include <bpfleet/bpfleet.h>
#include <linux/bpf_perf_event.h>

#define MAX_COMMANDS 4096
#define MAX_PROCESSES 10240
#define PF_WRITE 2 /* X86_PF_WRITE of the error code */
#define PF_WQ_WORKER 0x20 /* include/linux/sched.h */
#define REQ_OP_MASK 0xff
#define REQ_OP_READ 0

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

enum pageflags {
	PG_locked,
	PG_uptodate,
	PG_swapbacked,
};

struct page;

struct bio_vec {
	struct page *bv_page;
};

struct bvec_iter {
	unsigned int bi_size;
};

struct bio {
	__u32 bi_opf;
	struct bvec_iter bi_iter;
	struct bio_vec *bi_io_vec;
};

struct task_struct___faults {
	unsigned int flags;
	void *bio_list;
};

#pragma clang attribute pop

struct command {
	char comm[TASK_COMM_LEN];
};

struct faults {
	__u64 user;
	__u64 kernel;
	__u64 write;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, MAX_COMMANDS);
	__type(key, struct command);
	__type(value, struct faults);
} faults SEC(".maps");

BPFLEET_FAILED_INSERTS(faults);

struct process {
	__u32 pid;
	char comm[TASK_COMM_LEN];
};

struct waits {
	__u64 major;
	__u64 swapins;
	__u64 swapped_in;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_PROCESSES);
	__type(key, struct process);
	__type(value, struct waits);
} processes SEC(".maps");

BPFLEET_FAILED_INSERTS(processes);
BPFLEET_NEW_KEYS(processes);

static const struct faults no_faults;
static const struct waits no_waits;

static __always_inline void count_fault(bool user, bool write)
{
	struct command key = {};
	struct faults *mine;

	bpf_get_current_comm(key.comm, sizeof(key.comm));
	mine = bpfleet_get_or_make(faults, &key, &no_faults);
	if (!mine)
		return;
	if (user)
		mine->user++;
	else
		mine->kernel++;
	if (write)
		mine->write++;
}

/* x86 (and RISC-V) have tracepoints, whose third argument is x86's error code. */
SEC("tp_btf/page_fault_user")
int BPF_PROG(user_fault, unsigned long address, struct pt_regs *regs, unsigned long error)
{
	count_fault(true, error & PF_WRITE);
	return 0;
}

SEC("tp_btf/page_fault_kernel")
int BPF_PROG(kernel_fault, unsigned long address, struct pt_regs *regs, unsigned long error)
{
	count_fault(false, error & PF_WRITE);
	return 0;
}

static __always_inline bool from_user(struct bpf_perf_event_data *ctx)
{
#if defined(__TARGET_ARCH_x86)
	return ctx->regs.cs & 3;
#elif defined(__TARGET_ARCH_arm64)
	return !(ctx->regs.pstate & 0xf); /* PSR_MODE_EL0t */
#else
	return true;
#endif
}

/* Elsewhere the kernel's own count of them. */
SEC("?perf_event")
int any_fault(struct bpf_perf_event_data *ctx)
{
	count_fault(from_user(ctx), false);
	return 0;
}

static __always_inline struct waits *current_process(void)
{
	struct process key = {.pid = bpf_get_current_pid_tgid() >> 32};

	bpf_get_current_comm(key.comm, sizeof(key.comm));
	return bpfleet_get_or_make_lru(processes, &key, &no_waits);
}

SEC("perf_event")
int major_fault(struct bpf_perf_event_data *ctx)
{
	struct waits *mine = current_process();

	if (mine)
		__sync_fetch_and_add(&mine->major, 1);
	return 0;
}

/*
 * A page that only swap can fill: it is swap's (anonymous memory, tmpfs), locked, and not filled yet. Direct I/O into such
 * memory finds it filled. `flags` are the first word of a page in every kernel, whatever their type is called.
 */
static __always_inline bool waits_for_swap(struct page *page)
{
	unsigned long flags = 0;

	bpf_probe_read_kernel(&flags, sizeof(flags), page);
	return flags & 1UL << bpf_core_enum_value(enum pageflags, PG_swapbacked) &&
	       flags & 1UL << bpf_core_enum_value(enum pageflags, PG_locked) &&
	       !(flags & 1UL << bpf_core_enum_value(enum pageflags, PG_uptodate));
}

/*
 * Runs in whoever wants the page. One read is told again at each device below (a volume, a crypt, a loop): those are made
 * while the first is being submitted (bio_list), or by kernel workers.
 */
SEC("tp_btf/block_bio_queue")
int BPF_PROG(on_bio, struct bio *bio)
{
	struct task_struct___faults *task;
	struct waits *mine;

	if ((bio->bi_opf & REQ_OP_MASK) != REQ_OP_READ || !bio->bi_io_vec)
		return 0;
	task = (void *)bpf_get_current_task_btf();
	if (task->bio_list || task->flags & PF_WQ_WORKER)
		return 0;
	if (!waits_for_swap(bio->bi_io_vec->bv_page))
		return 0;
	mine = current_process();
	if (!mine)
		return 0;
	__sync_fetch_and_add(&mine->swapins, 1);
	__sync_fetch_and_add(&mine->swapped_in, bio->bi_iter.bi_size);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
