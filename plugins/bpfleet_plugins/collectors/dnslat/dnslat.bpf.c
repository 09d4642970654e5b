/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-3-Clause)
 *
 * Latency of host name lookups: libc's getaddrinfo, gethostbyname and gethostbyname2, from call to return.
 * BCC dialect. Reads no kernel struct, so it compiles without kernel headers.
 */
#include <uapi/linux/ptrace.h>

#define BPF_LICENSE Dual BSD/GPL

/* Knobs: entries of the two maps */
#ifndef MAX_COMMS
#define MAX_COMMS 1024
#endif
#ifndef MAX_HOSTS
#define MAX_HOSTS 4096
#endif

#define SLOTS 32
#define HOST_SIZE 64 /* 63 characters and the NUL; longer names are cut */

/* What a uretprobe's stack pointer has gained since the call: x86 pops the return address. */
#if defined(__x86_64__)
#define POPPED 8
#else
#define POPPED 0
#endif

struct dnslat_comm {
	char comm[TASK_COMM_LEN];
};

struct dnslat_latency {
	u64 slots[SLOTS]; /* slot 0: 0 and 1 us; slot i: 2^i up to 2^(i+1) us */
	u64 count;
	u64 total_ns;
};

struct dnslat_host {
	char host[HOST_SIZE];
};

struct dnslat_host_stats {
	u64 count;
	u64 total_ns;
	u64 max_ns;
};

/* A call is known by its thread and its stack frame: a lookup inside a lookup is a call of its own, and
 * what a thread that died in a call left behind is never taken for another's.
 */
struct dnslat_call {
	u64 pid_tgid;
	u64 frame;
};

struct dnslat_start {
	u64 at;
	u64 name; /* where the caller keeps it */
	struct dnslat_host host;
};

BPF_HASH(latency, struct dnslat_comm, struct dnslat_latency, MAX_COMMS);
BPF_ARRAY(latency_failed_inserts, u64, 1);
BPF_ARRAY(latency_zero, struct dnslat_latency, 1); /* never written: too large for the stack */
BPF_TABLE("lru_hash", struct dnslat_host, struct dnslat_host_stats, hosts, MAX_HOSTS);
BPF_ARRAY(hosts_failed_inserts, u64, 1);
BPF_ARRAY(hosts_new_keys, u64, 1);
/* LRU: calls that never return (the thread died, longjmp) make room by themselves. */
BPF_TABLE("lru_hash", struct dnslat_call, struct dnslat_start, calls, 10240);

static __always_inline u32 log2_slot(u64 n)
{
	u32 slot = 0;

	if (n >> 32)
		return SLOTS - 1;
	if (n >> 16) {
		n >>= 16;
		slot += 16;
	}
	if (n >> 8) {
		n >>= 8;
		slot += 8;
	}
	if (n >> 4) {
		n >>= 4;
		slot += 4;
	}
	if (n >> 2) {
		n >>= 2;
		slot += 2;
	}
	return slot + (n >> 1 ? 1 : 0);
}

/* A lookup that `latency` has no room for */
static __always_inline void latency_refused(void)
{
	int first = 0;
	u64 *failed = latency_failed_inserts.lookup(&first);

	if (failed)
		__sync_fetch_and_add(failed, 1);
}

static __always_inline void hosts_refused(void)
{
	int first = 0;
	u64 *failed = hosts_failed_inserts.lookup(&first);

	if (failed)
		__sync_fetch_and_add(failed, 1);
}

static __always_inline void hosts_made(void)
{
	int first = 0;
	u64 *made = hosts_new_keys.lookup(&first);

	if (made)
		__sync_fetch_and_add(made, 1);
}

static __always_inline void count_latency(u64 ns)
{
	struct dnslat_latency *found, *zero;
	struct dnslat_comm key = {};
	u32 slot = log2_slot(ns / 1000);
	int first = 0;

	bpf_get_current_comm(&key.comm, sizeof(key.comm));
	found = latency.lookup(&key);
	if (!found) {
		zero = latency_zero.lookup(&first);
		/* Another CPU may insert in between: insert() then leaves its entry alone, and both add to it. */
		if (zero)
			latency.insert(&key, zero);
		found = latency.lookup(&key);
	}
	if (!found) {
		latency_refused();
		return;
	}
	if (slot < SLOTS)
		__sync_fetch_and_add(&found->slots[slot], 1);
	__sync_fetch_and_add(&found->total_ns, ns);
	__sync_fetch_and_add(&found->count, 1);
}

static __always_inline void count_host(struct dnslat_host *key, u64 ns)
{
	struct dnslat_host_stats zero = {}, *found;
	u64 longest, seen;

	found = hosts.lookup(key);
	if (!found) {
		if (!hosts.insert(key, &zero))
			hosts_made();
		found = hosts.lookup(key);
	}
	if (!found) {
		hosts_refused();
		return;
	}
	__sync_fetch_and_add(&found->count, 1);
	__sync_fetch_and_add(&found->total_ns, ns);
	longest = found->max_ns;
	/* Each failed exchange means that another CPU has raised it; after that many the last one stands. */
	for (int i = 0; i < 16 && longest < ns; i++) {
		seen = __sync_val_compare_and_swap(&found->max_ns, longest, ns);
		if (seen == longest)
			break;
		longest = seen;
	}
}

int lookup_starts(struct pt_regs *ctx)
{
	struct dnslat_call call = {};
	struct dnslat_start start = {};

	/* No name: an address to listen on is asked for, not a lookup. */
	start.name = PT_REGS_PARM1(ctx);
	if (!start.name)
		return 0;
	call.pid_tgid = bpf_get_current_pid_tgid();
	call.frame = PT_REGS_SP(ctx) + POPPED;
	bpf_probe_read_user_str(&start.host, sizeof(start.host), (void *)start.name);
	start.at = bpf_ktime_get_ns();
	if (calls.update(&call, &start)) {
		/* It will be missing in both. */
		latency_refused();
		hosts_refused();
	}
	return 0;
}

int lookup_ends(struct pt_regs *ctx)
{
	struct dnslat_call call = {};
	struct dnslat_start *start;
	struct dnslat_host host;
	u64 ns;

	call.pid_tgid = bpf_get_current_pid_tgid();
	call.frame = PT_REGS_SP(ctx);
	start = calls.lookup(&call);
	if (!start)
		return 0; /* called before this was attached */
	ns = bpf_ktime_get_ns() - start->at;
	host = start->host;
	/* A name in memory that was not paged in can't be read at the call; the lookup has read it since. */
	if (!host.host[0])
		bpf_probe_read_user_str(&host, sizeof(host), (void *)start->name);
	calls.delete(&call);
	count_latency(ns);
	count_host(&host, ns);
	return 0;
}
