/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-3-Clause)
 *
 * gouprobe: calls of a function of a Go program, by an integer and a string among its arguments; goroutines that start.
 */
#include <asm/ptrace.h>
#include <bpfleet/bpfleet.h>

/* Which word of the arguments; -1: none. A string is two words: where it is, and its length. */
const volatile __s32 integer_at = 0;
const volatile __s32 string_at = 1;
/* Arguments are on the stack, as before Go 1.17. */
const volatile bool on_stack = false;

#define MAX_ARGUMENTS 4096

struct arguments {
	__s64 integer;
	char string[64];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_ARGUMENTS);
	__type(key, struct arguments);
	__type(value, __u64);
} by_arguments SEC(".maps");

BPFLEET_FAILED_INSERTS(by_arguments);

/* All of them, also those whose arguments the map has no room for. */
__u64 calls = 0;
__u64 goroutines = 0;

static const __u64 zero;

#if defined(__TARGET_ARCH_x86)
#define STACK(ctx) (ctx)->rsp

static __always_inline __u64 in_register(struct pt_regs *ctx, __u32 at)
{
	__u64 words[] = {
		ctx->rax, ctx->rbx, ctx->rcx, ctx->rdi, ctx->rsi, ctx->r8, ctx->r9, ctx->r10, ctx->r11,
	};

	return at < sizeof(words) / sizeof(words[0]) ? words[at] : 0;
}
#elif defined(__TARGET_ARCH_arm64)
#define STACK(ctx) (ctx)->sp

static __always_inline __u64 in_register(struct pt_regs *ctx, __u32 at)
{
	__u64 words[] = {
		ctx->regs[0], ctx->regs[1], ctx->regs[2], ctx->regs[3], ctx->regs[4], ctx->regs[5], ctx->regs[6],
		ctx->regs[7], ctx->regs[8],
	};

	return at < sizeof(words) / sizeof(words[0]) ? words[at] : 0;
}
#endif

static __always_inline __u64 argument(struct pt_regs *ctx, __s32 at)
{
	__u64 word = 0;

	if (!on_stack)
		return in_register(ctx, at);
	/* The return address is first. */
	bpf_probe_read_user(&word, sizeof(word), (void *)(STACK(ctx) + 8 + 8 * at));
	return word;
}

/* Sleepable: since 6.0. */
SEC("uprobe.s")
int on_call(struct pt_regs *ctx)
{
	struct arguments key = {};
	__u64 *count, length;
	void *place;

	__sync_fetch_and_add(&calls, 1);
	if (integer_at >= 0)
		key.integer = argument(ctx, integer_at);
	if (string_at >= 0) {
		length = argument(ctx, string_at + 1);
		if (length > sizeof(key.string) - 1)
			length = sizeof(key.string) - 1;
		place = (void *)argument(ctx, string_at);
		/* What lies in a file and was not looked at yet has to be read from there, for which the program may sleep. */
		if (bpf_probe_read_user(key.string, length, place))
			bpf_copy_from_user(key.string, length, place);
	}
	count = bpfleet_get_or_make(by_arguments, &key, &zero);
	if (count)
		__sync_fetch_and_add(count, 1);
	return 0;
}

/* runtime.newproc1: once for each goroutine that starts. */
SEC("uprobe")
int on_goroutine(struct pt_regs *ctx)
{
	__sync_fetch_and_add(&goroutines, 1);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
