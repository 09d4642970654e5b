/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-3-Clause)
 *
 * libbpf's own header, and what later versions of it have.
 */
#include_next <bpf/bpf_tracing.h>

#ifndef BPF_UPROBE /* 1.2 */
#define BPF_UPROBE(name, arguments...) BPF_KPROBE(name, ##arguments)
#define BPF_URETPROBE(name, arguments...) BPF_KRETPROBE(name, ##arguments)
#endif
