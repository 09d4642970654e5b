/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-3-Clause)
 *
 * bashreadline: the lines that people type into interactive bash, as its readline() returns them.
 */
#include <bpfleet/bpfleet.h>
#include <asm/ptrace.h>

#define LINE_SIZE 512

struct typed {
	__u64 time_ns;
	__u64 cgroup_id;
	__u32 pid;
	__u32 uid;
	char comm[TASK_COMM_LEN];
	__u32 cut;
	char line[LINE_SIZE];
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 18);
} lines SEC(".maps");

BPFLEET_FAILED_INSERTS(lines);

const struct typed *unused __attribute__((unused)); /* keeps the type in the object */

SEC("uretprobe")
int on_line(struct pt_regs *ctx)
{
	const char *line = (const char *)PT_REGS_RC(ctx);
	struct typed *typed;
	long size;

	if (!line) /* end of file: Ctrl-D */
		return 0;
	typed = bpfleet_reserve(lines, struct typed);
	if (!typed)
		return 0;
	/* A ring is used again and again: what was typed before must not stand behind the line's end. */
	__builtin_memset(typed, 0, sizeof(*typed));
	size = bpf_probe_read_user_str(typed->line, sizeof(typed->line), line);
	if (size <= 1) { /* nothing typed; or not readable, which the string that was just made always is */
		bpf_ringbuf_discard(typed, 0);
		return 0;
	}
	bpf_get_current_comm(typed->comm, sizeof(typed->comm));
	typed->time_ns = bpf_ktime_get_boot_ns();
	typed->cgroup_id = bpf_get_current_cgroup_id();
	typed->pid = bpf_get_current_pid_tgid() >> 32;
	typed->uid = bpf_get_current_uid_gid();
	typed->cut = size == sizeof(typed->line);
	bpf_ringbuf_submit(typed, 0);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
