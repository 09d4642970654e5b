/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-3-Clause)
 *
 * What a bcc program expects of kernel headers and BTF can't give: macros. Included before the program
 * where no kernel headers are installed (bpfleet.loader.headers). Only what no kernel version changes;
 * errno, AF_*, SOCK_*, IPPROTO_* and SIG* numbers are added from the running system's own tables.
 */
#ifndef BPFLEET_BCC_CONSTANTS_H
#define BPFLEET_BCC_CONSTANTS_H

/* The language */
#define NULL ((void *)0)
#define __always_inline inline __attribute__((always_inline))
#define __maybe_unused __attribute__((unused))
#define __packed __attribute__((packed))
#define __aligned(bytes) __attribute__((aligned(bytes)))
#define __user
#define __kernel
#define __force
#define __iomem
#define __percpu
#define __rcu
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define offsetof(type, member) __builtin_offsetof(type, member)
#define container_of(pointer, type, member) \
	((type *)((char *)(pointer) - __builtin_offsetof(type, member)))
#define ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))
#define BIT(n) (1UL << (n))
#define BIT_ULL(n) (1ULL << (n))
#define READ_ONCE(x) (*(const volatile __typeof__(x) *)&(x))
#define WRITE_ONCE(x, value) (*(volatile __typeof__(x) *)&(x) = (value))
#define barrier() asm volatile("" ::: "memory")

/* bcc sizes BPF_STACK_TRACE with it */
#define roundup_pow_of_two(n) ((n) <= 1 ? 1UL : 1UL << (64 - __builtin_clzl((unsigned long)(n) - 1)))

/* Pointers that say an error: include/linux/err.h */
#define MAX_ERRNO 4095
#define IS_ERR_VALUE(x) ((unsigned long)(void *)(x) >= (unsigned long)-MAX_ERRNO)
#define IS_ERR(pointer) IS_ERR_VALUE((unsigned long)(pointer))
#define PTR_ERR(pointer) ((long)(pointer))

/* Byte order */
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define __constant_htons(x) ((__be16)__builtin_bswap16(x))
#define htons(x) ((__be16)__builtin_bswap16(x))
#define htonl(x) ((__be32)__builtin_bswap32(x))
#define ntohs(x) __builtin_bswap16(x)
#define ntohl(x) __builtin_bswap32(x)
#define cpu_to_be16(x) ((__be16)__builtin_bswap16(x))
#define cpu_to_be32(x) ((__be32)__builtin_bswap32(x))
#define cpu_to_be64(x) ((__be64)__builtin_bswap64(x))
#define be16_to_cpu(x) __builtin_bswap16(x)
#define be32_to_cpu(x) __builtin_bswap32(x)
#define be64_to_cpu(x) __builtin_bswap64(x)
#else
#define __constant_htons(x) ((__be16)(x))
#define htons(x) ((__be16)(x))
#define htonl(x) ((__be32)(x))
#define ntohs(x) ((__u16)(x))
#define ntohl(x) ((__u32)(x))
#define cpu_to_be16(x) ((__be16)(x))
#define cpu_to_be32(x) ((__be32)(x))
#define cpu_to_be64(x) ((__be64)(x))
#define be16_to_cpu(x) ((__u16)(x))
#define be32_to_cpu(x) ((__u32)(x))
#define be64_to_cpu(x) ((__u64)(x))
#endif

/* Time: include/vdso/time64.h */
#define NSEC_PER_USEC 1000L
#define NSEC_PER_MSEC 1000000L
#define NSEC_PER_SEC 1000000000L
#define USEC_PER_MSEC 1000L
#define USEC_PER_SEC 1000000L
#define MSEC_PER_SEC 1000L

/* Tasks: include/linux/sched.h. The states above these were renumbered in 4.14 and in 6.x. */
#define TASK_COMM_LEN 16
#define TASK_RUNNING 0x0000
#define TASK_INTERRUPTIBLE 0x0001
#define TASK_UNINTERRUPTIBLE 0x0002
#define PF_EXITING 0x00000004
#define PF_KTHREAD 0x00200000

/* The network: include/uapi/linux/if.h, if_ether.h */
#define IFNAMSIZ 16
#define ETH_ALEN 6
#define ETH_HLEN 14
#define ETH_P_IP 0x0800
#define ETH_P_ARP 0x0806
#define ETH_P_8021Q 0x8100
#define ETH_P_8021AD 0x88A8
#define ETH_P_IPV6 0x86DD
#define ETH_P_ALL 0x0003

/* Devices: include/linux/kdev_t.h */
#define MINORBITS 20
#define MINORMASK ((1U << MINORBITS) - 1)
#define MAJOR(dev) ((unsigned int)((dev) >> MINORBITS))
#define MINOR(dev) ((unsigned int)((dev) & MINORMASK))
#define MKDEV(major, minor) (((major) << MINORBITS) | (minor))

/* Block devices: include/linux/blkdev.h, blk_types.h */
#define DISK_NAME_LEN 32
#define REQ_OP_BITS 8
#define REQ_OP_MASK ((1U << REQ_OP_BITS) - 1)

#define PATH_MAX 4096
#define NAME_MAX 255

#endif
