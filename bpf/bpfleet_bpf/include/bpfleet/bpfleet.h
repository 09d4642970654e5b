/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-3-Clause)
 *
 * What a collector in libbpf's dialect includes, and nothing else: `#include <bpfleet/bpfleet.h>`.
 */
#ifndef BPFLEET_H
#define BPFLEET_H

#include <linux/bpf.h>
#include <linux/types.h>
#include <stdbool.h>
#include <stddef.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#include <bpfleet/kernel_types.h>

#define TASK_COMM_LEN 16

/*
 * Count the inserts that the kernel refused for `map` (it is full, or out of memory). The agent reads
 * `<map>_failed_inserts` by its name and tells it as a loss in every record.
 */
#define BPFLEET_FAILED_INSERTS(map) __u64 map##_failed_inserts

/*
 * Beside an LRU map: count the keys that were new to it. The agent reads `<map>_new_keys` by its name; what is not
 * there any more was thrown out, and is told as the loss `evicted`. So every key must be put in by bpfleet_get_or_make_lru, and
 * the program must delete none.
 */
#define BPFLEET_NEW_KEYS(map) __u64 map##_new_keys

/*
 * The value of `key`, made from `zero` where there is none yet; NULL (and counted) where the kernel refuses.
 * Two CPUs that make the same key at once get the same value.
 */
#define bpfleet_get_or_make(map, key, zero) __bpfleet_get_or_make(map, key, zero, (void)0)

/* The same in an LRU map with BPFLEET_NEW_KEYS beside it: only the CPU that made a key counts it. */
#define bpfleet_get_or_make_lru(map, key, zero)                                                \
	__bpfleet_get_or_make(map, key, zero, __sync_fetch_and_add(&map##_new_keys, 1))

#define __bpfleet_get_or_make(map, key, zero, when_made)                                       \
	({                                                                                     \
		void *__value = bpf_map_lookup_elem(&map, key);                                \
		if (!__value) {                                                                \
			if (!bpf_map_update_elem(&map, key, zero, BPF_NOEXIST))                \
				when_made;                                                     \
			__value = bpf_map_lookup_elem(&map, key);                              \
			if (!__value)                                                          \
				__sync_fetch_and_add(&map##_failed_inserts, 1);                \
		}                                                                              \
		__value;                                                                       \
	})

/*
 * Events, with an exact count of those that found no room: each needs BPFLEET_FAILED_INSERTS(map) beside the map.
 *
 * A ring buffer: bpfleet_reserve gives room for one event of `type`, or NULL (and counts); then bpf_ringbuf_submit
 * or bpf_ringbuf_discard. bpfleet_output copies `size` bytes. Both return as the kernel's helpers do.
 */
#define bpfleet_reserve(map, type)                                                             \
	({                                                                                     \
		type *__event = bpf_ringbuf_reserve(&map, sizeof(type), 0);                    \
		if (!__event)                                                                  \
			__sync_fetch_and_add(&map##_failed_inserts, 1);                        \
		__event;                                                                       \
	})

#define bpfleet_output(map, data, size)                                                        \
	({                                                                                     \
		long __failed = bpf_ringbuf_output(&map, data, size, 0);                       \
		if (__failed)                                                                  \
			__sync_fetch_and_add(&map##_failed_inserts, 1);                        \
		__failed;                                                                      \
	})

/* A queue or a stack. */
#define bpfleet_push(map, value)                                                               \
	({                                                                                     \
		long __failed = bpf_map_push_elem(&map, value, 0);                             \
		if (__failed)                                                                  \
			__sync_fetch_and_add(&map##_failed_inserts, 1);                        \
		__failed;                                                                      \
	})

/*
 * A perf event array, this CPU's ring. What the ring has no room for (-ENOSPC) the kernel counts itself; the rest is
 * counted here: a CPU that has no ring, since it came online after loading.
 */
#define bpfleet_perf_output(ctx, map, data, size)                                              \
	({                                                                                     \
		long __failed = bpf_perf_event_output(ctx, &map, BPF_F_CURRENT_CPU, data, size); \
		if (__failed && __failed != -28)                                               \
			__sync_fetch_and_add(&map##_failed_inserts, 1);                        \
		__failed;                                                                      \
	})

/*
 * The id of the current stack in `map`; BPF_F_USER_STACK in `flags` for the program's own. What could not be kept (another
 * stack has its place, or the map is full) is counted; a thread without such a stack is no loss.
 */
#define bpfleet_stack_id(ctx, map, flags)                                                      \
	({                                                                                     \
		long __id = bpf_get_stackid(ctx, &map, flags);                                 \
		if (__id < 0 && __id != -BPFLEET_NO_STACK)                                     \
			__sync_fetch_and_add(&map##_failed_inserts, 1);                        \
		(__s32)__id;                                                                   \
	})
#define BPFLEET_NO_STACK 14 /* EFAULT */

/* The slot of a log2 histogram: 0 for 0 and 1, i for [2^i, 2^(i+1)), the last slot for all above. */
static __always_inline __u32 bpfleet_log2_slot(__u64 value, __u32 slots)
{
	__u32 slot = 0;

#pragma clang loop unroll(full)
	for (__u32 bits = 32; bits; bits >>= 1) {
		if (value >> bits) {
			value >>= bits;
			slot += bits;
		}
	}
	return slot < slots ? slot : slots - 1;
}

#endif
