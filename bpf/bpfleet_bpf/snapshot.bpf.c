/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-3-Clause)
 *
 * The snapshot program: walks one map inside the kernel and writes fixed-width rows into an array
 * that the worker has mapped into its memory.
 *
 * Loaded once per map that is read by `walk`. `target` stands for that map: the loader gives it the real map's sizes and fd
 * (bpf_map__reuse_fd), so key_size, value_size and the row's width are constants to the verifier, and what a map does not
 * need (folding, odd tails) is dead code that it removes.
 *
 * A row is the key, padded to 8 bytes, then the value, padded to 8 bytes.
 */
#include <bpfleet/bpfleet.h>

#define MAX_FOLDS 64
#define UNROLLED 32 /* words copied without a call */
#define MAX_FEW_CPUS 16
#define DIRECT 128  /* values up to this size are read from other CPUs by address */

enum fold_op {
	FOLD_SUM = 0,
	FOLD_MIN = 1, /* ignores 0: a CPU that never touched the key */
	FOLD_MAX = 2,
	FOLD_SMIN = 3,
	FOLD_SMAX = 4,
};

/* One run of `count` equal numbers of `width` bytes at `offset` of the value. */
struct fold_step {
	__u32 offset;
	__u16 count;
	__u8 width;
	__u8 op;
};

const volatile __u32 key_size = 4;
const volatile __u32 value_size = 8;
const volatile __u32 cpus = 0;		 /* possible CPUs of a per-CPU map; 0: not per-CPU */
const volatile __u32 few_cpus = 8;	 /* up to so many, at most MAX_FEW_CPUS, they are folded in a plain loop */
const volatile bool keep_last = false;	 /* some field is not folded: its value is the last writer's */
const volatile __s32 newest_offset = -1; /* where a timestamp (u64) tells who wrote last */
const volatile __u32 fold_count = 0;
const volatile struct fold_step folds[MAX_FOLDS] = {};

struct {
	__uint(type, BPF_MAP_TYPE_HASH); /* replaced by the loader */
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} target SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} rows SEC(".maps");

/* In .bss, which is mapped too: what the last walk did. */
struct {
	__u64 seen;    /* entries met */
	__u64 written; /* rows written; fewer where the buffer was too small */
} last_walk;

/*
 * How far each CPU's copy of a per-CPU value lies from this CPU's. It is the same for every value, so it is measured once
 * a walk, on `yardstick`; a lookup per CPU and key would hash the key again each time. The worker does not get these maps.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} yardstick SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* the loader sets it to `cpus` */
	__type(key, __u32);
	__type(value, __s64);
} distances SEC(".maps");

struct walk {
	__u64 seen;
	__u64 written;
	void *key;
	void *to;    /* the row's value */
	__u64 here;  /* address of this CPU's value */
	void *mark;  /* this CPU's copy of `yardstick` … */
	__u64 mark_address; /* … and its address as a number */
	__u64 newest;
	__u32 base;  /* the CPU whose value is copied; the others are folded into it */
};

static __always_inline __u32 padded(__u32 bytes)
{
	return (bytes + 7) & ~7U;
}

/*
 * Copy `size` bytes, a constant to the verifier. Offsets are constants to the compiler, so what is left after the
 * verifier's dead-code removal is a straight run of loads and stores. Volatile: else clang makes calls of it.
 */
static __always_inline void copy(void *to, const void *from, __u32 size)
{
	__u32 tail = size & ~7U;

	if (size > UNROLLED * 8) {
		bpf_probe_read_kernel(to, size, from);
		return;
	}
#pragma clang loop unroll(full)
	for (__u32 i = 0; i < UNROLLED; i++) {
		if (size < (i + 1) * 8)
			break;
		*(volatile __u64 *)(to + i * 8) = *(const volatile __u64 *)(from + i * 8);
	}
	if (size & 4) {
		*(volatile __u32 *)(to + tail) = *(const volatile __u32 *)(from + tail);
		tail += 4;
	}
	if (size & 2) {
		*(volatile __u16 *)(to + tail) = *(const volatile __u16 *)(from + tail);
		tail += 2;
	}
	if (size & 1)
		*(volatile __u8 *)(to + tail) = *(const volatile __u8 *)(from + tail);
}

/* Fold one number of `from` into the same place of `to`. */
#define FOLD(utype, stype)                                                      \
	do {                                                                    \
		utype *to_u = to, from_u = *(utype *)from;                      \
		stype to_s = (stype)*to_u, from_s = (stype)from_u;              \
		if (op == FOLD_SUM)                                             \
			*to_u += from_u;                                        \
		else if (op == FOLD_MAX && from_u > *to_u)                      \
			*to_u = from_u;                                         \
		else if (op == FOLD_MIN && from_u && (!*to_u || from_u < *to_u)) \
			*to_u = from_u;                                         \
		else if (op == FOLD_SMAX && from_s > to_s)                      \
			*to_u = from_u;                                         \
		else if (op == FOLD_SMIN && from_s && (!to_s || from_s < to_s)) \
			*to_u = from_u;                                         \
	} while (0)

static __always_inline void fold_one(void *to, const void *from, __u8 width, __u8 op)
{
	if (width == 8)
		FOLD(__u64, __s64);
	else if (width == 4)
		FOLD(__u32, __s32);
	else if (width == 2)
		FOLD(__u16, __s16);
	else
		FOLD(__u8, __s8);
}

static __always_inline void fold(void *to, const void *from)
{
	for (__u32 i = 0; i < MAX_FOLDS && i < fold_count; i++) {
		__u32 offset = folds[i].offset;
		__u16 count = folds[i].count;
		__u8 width = folds[i].width;
		__u8 op = folds[i].op;

		for (__u32 n = 0; n < count; n++) {
			fold_one(to + offset, from + offset, width, op);
			offset += width;
		}
	}
}

/* Whether any byte of a CPU's value was ever written. */
static __always_inline bool touched(const void *value)
{
	__u32 at, whole = value_size & ~7U;

	for (at = 0; at < whole; at += 8)
		if (*(__u64 *)(value + at))
			return true;
	for (; at < value_size; at++)
		if (*(__u8 *)(value + at))
			return true;
	return false;
}

/* For bpf_loop: is this CPU the one that wrote the key last? */
static long find_last(__u32 cpu, struct walk *walk)
{
	const void *value = bpf_map_lookup_percpu_elem(&target, walk->key, cpu);
	__u64 time;

	if (!value)
		return 0;
	if (newest_offset < 0) {
		if (touched(value))
			walk->base = cpu;
		return 0;
	}
	time = *(__u64 *)(value + newest_offset);
	if (time > walk->newest) {
		walk->newest = time;
		walk->base = cpu;
	}
	return 0;
}

/* Fold one CPU's value into the row. */
static __always_inline void fold_from(__u32 cpu, struct walk *walk)
{
	const void *value;

	if (cpu == walk->base)
		return;
	if (value_size <= DIRECT) {
		__u64 there[DIRECT / 8];
		__s64 *distance = bpf_map_lookup_elem(&distances, &cpu);

		if (distance) {
			bpf_probe_read_kernel(there, value_size, (void *)(walk->here + *distance));
			fold(walk->to, there);
		}
		return;
	}
	value = bpf_map_lookup_percpu_elem(&target, walk->key, cpu);
	if (value)
		fold(walk->to, value);
}

/* For bpf_loop. */
static long fold_cpu(__u32 cpu, struct walk *walk)
{
	fold_from(cpu, walk);
	return 0;
}

static long visit(void *map, void *key, void *value, struct walk *walk)
{
	__u32 i = walk->written;
	void *row, *from = value;

	walk->seen++;
	row = bpf_map_lookup_elem(&rows, &i);
	if (!row)
		return 0; /* the buffer is too small: count on, the reader asks for a larger one */
	copy(row, key, key_size);
	row += padded(key_size);

	if (cpus) {
		walk->key = key;
		walk->to = row;
		/* `value` is this CPU's; where no field keeps the last writer's value, any CPU will do to begin with. */
		walk->base = bpf_get_smp_processor_id();
		walk->here = (__u64)value - (__u64)walk->mark + walk->mark_address;
		if (keep_last) {
			walk->base = 0;
			walk->newest = 0;
			bpf_loop(cpus, find_last, walk, 0);
			from = bpf_map_lookup_percpu_elem(&target, key, walk->base);
			if (!from) {
				walk->seen--; /* deleted just now */
				return 0;
			}
		}
	}
	copy(row, from, value_size);
	/* The verifier follows a loop through every turn, and a call once; the loop is half as fast again. */
	if (cpus > few_cpus)
		bpf_loop(cpus, fold_cpu, walk, 0);
	else
		for (__u32 cpu = 0; cpu < MAX_FEW_CPUS && cpu < cpus; cpu++)
			fold_from(cpu, walk);
	walk->written++;
	return 0;
}

/* For bpf_loop: measure the distance to this CPU's copies. */
static long measure(__u32 cpu, void *ctx)
{
	__u32 zero = 0;
	void *here = bpf_map_lookup_elem(&yardstick, &zero);
	void *there = bpf_map_lookup_percpu_elem(&yardstick, &zero, cpu);
	__s64 *distance = bpf_map_lookup_elem(&distances, &cpu);

	if (here && there && distance)
		*distance = (__s64)there - (__s64)here;
	return 0;
}

SEC("syscall")
int snapshot(void *ctx)
{
	struct walk walk = {};
	__u32 zero = 0;

	if (cpus) {
		bpf_loop(cpus, measure, NULL, 0);
		walk.mark = bpf_map_lookup_elem(&yardstick, &zero);
		if (!walk.mark)
			return 1;
		/* A pointer becomes a number by its difference from one whose number is known. */
		walk.mark_address = (__u64)walk.mark - (__u64)bpf_get_current_task_btf() + bpf_get_current_task();
	}
	bpf_for_each_map_elem(&target, visit, &walk, 0);
	last_walk.seen = walk.seen;
	last_walk.written = walk.written;
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
