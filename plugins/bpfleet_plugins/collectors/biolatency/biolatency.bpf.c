/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-3-Clause)
 *
 * biolatency: block I/O requests by disk and operation, from when the disk is given one until it has answered.
 */
#include <bpfleet/bpfleet.h>

#define MAX_DISKS 2048 /* disks times operations */
#define MAX_IN_FLIGHT 16384
#define SLOTS 27
#define MINOR_BITS 20
#define REQ_OP_MASK 0xff

extern int LINUX_KERNEL_VERSION __kconfig;
#define FIRST_IS_QUEUE (LINUX_KERNEL_VERSION < (5 << 16 | 11 << 8))

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct gendisk {
	int major;
	int first_minor;
};

struct request_queue {
	struct gendisk *disk; /* since 5.15 */
};

struct request {
	struct request_queue *q;
	__u32 cmd_flags;
	__u32 __data_len; /* bytes that are yet to come */
	__u64 start_time_ns; /* when it was made; 0 where the queue keeps no statistics */
};

struct request___5_16 {
	struct gendisk *rq_disk; /* until 5.16 */
};

#pragma clang attribute pop

struct disk {
	__u32 dev;
	__u32 op;
};

struct requests {
	__u64 count;
	__u64 errors;
	__u64 bytes;
	__u64 queued_ns;
	__u64 total_ns;
	__u64 slots[SLOTS];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_DISKS);
	__type(key, struct disk);
	__type(value, struct requests);
} disks SEC(".maps");

BPFLEET_FAILED_INSERTS(disks);

/* Requests that a disk has, by address: when it got each. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_IN_FLIGHT);
	__type(key, __u64);
	__type(value, __u64);
} issued SEC(".maps");

static const struct requests none;

/* One that is issued again (the disk was busy) counts from the last time: before, the disk did not take it. */
static __always_inline int issue(struct request *rq)
{
	__u64 key = (__u64)rq, now = bpf_ktime_get_ns();

	if (bpf_map_update_elem(&issued, &key, &now, BPF_ANY))
		__sync_fetch_and_add(&disks_failed_inserts, 1);
	return 0;
}

static __always_inline __u32 disk_of(struct request *rq)
{
	struct request___5_16 *old = (void *)rq;
	struct gendisk *disk;

	if (bpf_core_field_exists(old->rq_disk))
		disk = old->rq_disk;
	else
		disk = rq->q->disk;
	return disk ? disk->major << MINOR_BITS | disk->first_minor : 0; /* commands to a controller have none */
}

static __always_inline int complete(struct request *rq, __u32 error, __u32 bytes)
{
	__u64 rq_key = (__u64)rq, *issued_at, at, ns;
	struct requests *mine;
	struct disk key;
	__u32 slot;

	/* Not there: it was issued before we were attached, or is the outer half of a flush, which no disk sees. */
	issued_at = bpf_map_lookup_elem(&issued, &rq_key);
	if (!issued_at)
		return 0;
	at = *issued_at;
	key.dev = disk_of(rq);
	key.op = rq->cmd_flags & REQ_OP_MASK;
	mine = bpfleet_get_or_make(disks, &key, &none);
	if (mine && !error)
		__sync_fetch_and_add(&mine->bytes, bytes);
	/* A part of it: the rest goes on, and may even be issued anew. */
	if (bytes < rq->__data_len)
		return 0;
	bpf_map_delete_elem(&issued, &rq_key);
	if (!mine)
		return 0;

	ns = bpf_ktime_get_ns() - at;
	__sync_fetch_and_add(&mine->count, 1);
	__sync_fetch_and_add(&mine->total_ns, ns);
	if (error)
		__sync_fetch_and_add(&mine->errors, 1);
	if (rq->start_time_ns && rq->start_time_ns < at)
		__sync_fetch_and_add(&mine->queued_ns, at - rq->start_time_ns);
	slot = bpfleet_log2_slot(ns / 1000, SLOTS);
	if (slot < SLOTS)
		__sync_fetch_and_add(&mine->slots[slot], 1);
	return 0;
}

SEC("tp_btf/block_rq_issue")
int on_issue(__u64 *ctx)
{
	/* Until 5.10 the queue came first. */
	if (FIRST_IS_QUEUE)
		return issue((void *)ctx[1]);
	return issue((void *)ctx[0]);
}

/* `error` was an int (negative) until 5.15, and is a blk_status_t since. */
SEC("tp_btf/block_rq_complete")
int BPF_PROG(on_complete, struct request *rq, int error, unsigned int bytes)
{
	return complete(rq, error, bytes);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
