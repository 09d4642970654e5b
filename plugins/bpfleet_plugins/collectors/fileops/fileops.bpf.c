/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-3-Clause)
 *
 * fileops: reads, writes, opens and fsyncs of regular files, by command and file system.
 *
 * By system call, and the file behind the descriptor: vfs_read and its like would see no more (io_uring and nfsd go past
 * them), miss readv where the compiler inlines it, and are out of reach without kprobes and trampolines.
 */
#include <bpfleet/compat.h>

#define MAX_OPERATIONS 16384 /* commands times file systems times 4 */
#define MAX_ERRNO 4095
#define SLOTS 36
#define MAX_NR 512
#define S_IFMT 0170000
#define S_IFREG 0100000

enum operation { NONE, READ, WRITE, OPEN, FSYNC };

/* Numbers of include/uapi/asm-generic/unistd.h and arch/x86/entry/syscalls. */
#if defined(__TARGET_ARCH_x86)
static const __u8 native[MAX_NR] = {
	[0] = READ, /* read */
	[17] = READ, /* pread64 */
	[19] = READ, /* readv */
	[295] = READ, /* preadv */
	[327] = READ, /* preadv2 */
	[1] = WRITE, /* write */
	[18] = WRITE, /* pwrite64 */
	[20] = WRITE, /* writev */
	[296] = WRITE, /* pwritev */
	[328] = WRITE, /* pwritev2 */
	[2] = OPEN, /* open */
	[85] = OPEN, /* creat */
	[257] = OPEN, /* openat */
	[437] = OPEN, /* openat2 */
	[74] = FSYNC, /* fsync */
	[75] = FSYNC, /* fdatasync */
};
#else
static const __u8 native[MAX_NR] = {
	[63] = READ, /* read */
	[67] = READ, /* pread64 */
	[65] = READ, /* readv */
	[69] = READ, /* preadv */
	[286] = READ, /* preadv2 */
	[64] = WRITE, /* write */
	[68] = WRITE, /* pwrite64 */
	[66] = WRITE, /* writev */
	[70] = WRITE, /* pwritev */
	[287] = WRITE, /* pwritev2 */
	[56] = OPEN, /* openat */
	[437] = OPEN, /* openat2 */
	[82] = FSYNC, /* fsync */
	[83] = FSYNC, /* fdatasync */
};
#endif

/* 32-bit calls: i386, and arm's EABI, which has the same numbers but for those below. */
static const __u8 compat[MAX_NR] = {
	[3] = READ, /* read */
	[145] = READ, /* readv */
	[180] = READ, /* pread64 */
	[4] = WRITE, /* write */
	[146] = WRITE, /* writev */
	[181] = WRITE, /* pwrite64 */
	[5] = OPEN, /* open */
	[8] = OPEN, /* creat */
	[437] = OPEN, /* openat2 */
	[118] = FSYNC, /* fsync */
	[148] = FSYNC, /* fdatasync */
#if defined(__TARGET_ARCH_x86)
	[333] = READ, /* preadv */
	[378] = READ, /* preadv2 */
	[334] = WRITE, /* pwritev */
	[379] = WRITE, /* pwritev2 */
	[295] = OPEN, /* openat */
#else
	[361] = READ, /* preadv */
	[392] = READ, /* preadv2 */
	[362] = WRITE, /* pwritev */
	[393] = WRITE, /* pwritev2 */
	[322] = OPEN, /* openat */
#endif
};

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct super_block {
	__u32 s_dev;
};

struct inode {
	__u16 i_mode;
	struct super_block *i_sb;
};

struct file {
	struct inode *f_inode;
};

struct fdtable {
	unsigned int max_fds;
	struct file **fd;
};

struct files_struct {
	struct fdtable *fdt;
};

struct task_struct___files {
	struct files_struct *files;
};

struct pt_regs___x86 {
	unsigned long di;
	unsigned long bx;
};

struct pt_regs___arm64 {
	__u64 regs[31];
};

#pragma clang attribute pop

struct operations {
	char comm[TASK_COMM_LEN];
	__u32 dev;
	char op[8];
};

struct done {
	__u64 count;
	__u64 failed;
	__u64 bytes;
	__u64 total_ns;
	__u64 slots[SLOTS];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC); /* large, and most hosts have few */
	__uint(max_entries, MAX_OPERATIONS);
	__type(key, struct operations);
	__type(value, struct done);
} operations SEC(".maps");

BPFLEET_FAILED_INSERTS(operations);

/* The call on a file that a thread is in; `op` is NONE outside. It goes with the thread. */
struct entered {
	__u64 at;
	__u32 dev;
	__u32 op;
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct entered);
} entered SEC(".maps");

static const struct done no_calls;

static __always_inline __u32 first_argument(struct pt_regs *regs, bool is_compat)
{
	struct pt_regs___x86 *x86 = (void *)regs;
	struct pt_regs___arm64 *arm64 = (void *)regs;

	if (bpf_core_field_exists(x86->di))
		return is_compat ? x86->bx : x86->di;
	return arm64->regs[0];
}

/* The device of the file system of a regular file; 0 for all else. */
static __always_inline __u32 device_of(struct task_struct___files *task, __u32 fd)
{
	struct fdtable *table = task->files->fdt;
	struct file *file = NULL;
	struct inode *inode;

	if (fd >= table->max_fds)
		return 0;
	bpf_probe_read_kernel(&file, sizeof(file), table->fd + fd);
	if (!file)
		return 0;
	inode = BPF_CORE_READ(file, f_inode);
	if ((BPF_CORE_READ(inode, i_mode) & S_IFMT) != S_IFREG)
		return 0;
	return BPF_CORE_READ(inode, i_sb, s_dev);
}

SEC("tp_btf/sys_enter")
int BPF_PROG(on_enter, struct pt_regs *regs, long id)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct task_struct___files *seen = (void *)task;
	bool is_compat = bpfleet_is_32_bit(task);
	__u32 nr = id & (MAX_NR - 1), op, dev = 0;
	struct entered *mine;

	if (id != nr)
		return 0;
	op = is_compat ? compat[nr] : native[nr];
	if (op == NONE)
		return 0;
	if (op != OPEN) {
		dev = device_of(seen, first_argument(regs, is_compat));
		if (!dev)
			return 0;
	}
	mine = bpf_task_storage_get(&entered, task, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!mine)
		return 0;
	mine->op = op;
	mine->dev = dev;
	mine->at = bpf_ktime_get_ns();
	return 0;
}

static __always_inline void name_operation(char *name, __u32 op)
{
	static const char names[][8] = {"", "read", "write", "open", "fsync"};

	if (op <= FSYNC)
		__builtin_memcpy(name, names[op], 8);
}

SEC("tp_btf/sys_exit")
int BPF_PROG(on_exit, struct pt_regs *regs, long ret)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct entered *begin = bpf_task_storage_get(&entered, task, NULL, 0);
	struct operations key = {};
	struct done *mine;
	__u64 ns;
	__u32 op, slot;

	if (!begin || begin->op == NONE)
		return 0;
	ns = bpf_ktime_get_ns() - begin->at;
	op = begin->op;
	key.dev = begin->dev;
	begin->op = NONE;
	if (op == OPEN && ret >= 0) {
		/* A pipe, a device, a directory: not a file. */
		key.dev = device_of((void *)task, ret);
		if (!key.dev)
			return 0;
	}
	name_operation(key.op, op);
	bpf_get_current_comm(key.comm, sizeof(key.comm));
	mine = bpfleet_get_or_make(operations, &key, &no_calls);
	if (!mine)
		return 0;
	mine->count++;
	mine->total_ns += ns;
	if (ret < 0 && ret >= -MAX_ERRNO)
		mine->failed++;
	else if (op == READ || op == WRITE)
		mine->bytes += ret;
	slot = bpfleet_log2_slot(ns, SLOTS);
	if (slot < SLOTS)
		mine->slots[slot]++;
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
