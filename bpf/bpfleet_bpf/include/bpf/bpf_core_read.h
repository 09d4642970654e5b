/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-3-Clause)
 *
 * libbpf's own header, and what later versions of it have.
 */
#include <bpf/bpf_helpers.h>
#include_next <bpf/bpf_core_read.h>

#ifndef bpf_core_cast /* 1.4; a kernel of 6.2 */
#define bpf_core_cast(pointer, type)                                                                                 \
	({                                                                                                           \
		extern void *bpf_rdonly_cast(const void *, __u32) __ksym __weak;                                     \
		(typeof(type) *)bpf_rdonly_cast((pointer), bpf_core_type_id_kernel(type));                           \
	})
#endif
