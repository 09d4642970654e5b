/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-3-Clause)
 *
 * For collectors of system calls: whether one is a 32-bit program's, whose numbers and arguments are others.
 */
#ifndef BPFLEET_COMPAT_H
#define BPFLEET_COMPAT_H

#include <bpfleet/bpfleet.h>

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct thread_info___compat {
	unsigned long flags;
	__u32 status; /* x86 only */
};

struct task_struct___compat {
	struct thread_info___compat thread_info;
};

#pragma clang attribute pop

/* Of the system call that `task` is in. */
static __always_inline bool bpfleet_is_32_bit(struct task_struct *task)
{
	struct task_struct___compat *seen = (void *)task;

	if (bpf_core_field_exists(seen->thread_info.status))
		return seen->thread_info.status & 2; /* TS_COMPAT */
	return seen->thread_info.flags & 1UL << 22; /* arm64's TIF_32BIT */
}

#endif
