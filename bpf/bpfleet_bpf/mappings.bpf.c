/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-3-Clause)
 *
 * The agent's own iterator over the executable mappings of processes: one row for each file that a wanted process has
 * mapped to run. So the worker, which has no right to read /proc/PID/maps of others, can name their functions.
 *
 * The worker puts the wanted processes into `wanted`, reads the iterator, and takes them out again.
 */
#include <bpfleet/bpfleet.h>

#define PAGE_SHIFT 12 /* x86-64, and arm64 and riscv64 as distributions build them */
#define VM_EXEC 4
#define PATH_BYTES 512

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct seq_file;

struct path {
};

struct inode {
	unsigned long i_ino;
};

struct file {
	struct inode *f_inode;
	struct path f_path; /* only its place is asked for */
};

struct vm_area_struct {
	unsigned long vm_start;
	unsigned long vm_end;
	unsigned long vm_flags;
	unsigned long vm_pgoff;
	struct file *vm_file;
};

struct bpf_iter_meta {
	struct seq_file *seq;
};

struct bpf_iter__task_vma {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	struct vm_area_struct *vma;
};

#pragma clang attribute pop

/* MAPPING in symbols/processes.py has the same layout. */
struct mapping {
	__u32 process;
	__u32 pad;
	__u64 start;
	__u64 end;
	__u64 offset; /* in the file, bytes */
	__u64 inode;
	char path[PATH_BYTES];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, __u32);
} wanted SEC(".maps");

/* The stack of a program has room for 512 bytes in all. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct mapping);
} scratch SEC(".maps");

/* iter/task_vma: since 5.12. */
SEC("iter/task_vma")
int mappings(struct bpf_iter__task_vma *ctx)
{
	struct vm_area_struct *vma = ctx->vma;
	struct task_struct *task = ctx->task;
	struct mapping *row;
	struct file *file;
	__u32 process, zero = 0;

	if (!task || !vma || task->pid != task->tgid || !(vma->vm_flags & VM_EXEC))
		return 0;
	process = task->tgid;
	if (!bpf_map_lookup_elem(&wanted, &process))
		return 0;
	file = vma->vm_file;
	row = bpf_map_lookup_elem(&scratch, &zero);
	if (!file || !row)
		return 0;
	row->process = process;
	row->start = vma->vm_start;
	row->end = vma->vm_end;
	row->offset = (__u64)vma->vm_pgoff << PAGE_SHIFT;
	row->inode = file->f_inode->i_ino;
	if (bpf_d_path(&file->f_path, row->path, sizeof(row->path)) < 0)
		row->path[0] = 0;
	bpf_seq_write(ctx->meta->seq, row, sizeof(*row));
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
