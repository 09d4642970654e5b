/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-3-Clause)
 *
 * Every kind of member that a key or a value can have.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

typedef _Bool bool;
typedef unsigned char octet;
typedef const volatile octet often_qualified;

enum plain { PLAIN_A, PLAIN_B };
enum below_zero { BELOW = -1, ABOVE = 1 };
enum tiny { TINY_A, TINY_B } __attribute__((packed));

struct task;
#define __kptr __attribute__((btf_type_tag("kptr")))

struct inner {
	__u16 port;
	__u8 family;
};

struct numbers {
	__u8 a;
	__u16 b;
	__u32 c;
	__u64 d;
	__s8 e;
	__s16 f;
	__s32 g;
	__s64 h;
	bool flag;
	char letter;
	signed char small;
	often_qualified octet;
	float single_precision;
	double double_precision;
	__int128 wide;
	void *pointer;
	enum plain plain;
	enum below_zero below_zero;
	enum tiny tiny;
};

struct arrays {
	char text[16];
	octet address[6];
	__u64 slots[32];
	__s32 grid[2][3];
	char lines[4][8];
	bool flags[3];
	void *pointers[2];
	enum plain states[2];
	struct inner structs[3];
	union { __u32 v4; __u8 v6[16]; } unions[2];
	struct inner none[0];
	__u8 tail[];
};

struct nested {
	struct inner peer;
	struct {
		__u32 anonymous_a;
		struct { __u8 deep; };
	};
	struct { struct inner local; __u64 since; } connection;
	union { __u32 v4; __u8 v6[16]; } address;
	union { __u32 number; __u8 raw[8]; };
	union { __u32 only; };
	union { struct { __u16 lo, hi; }; __u32 both; };
	struct { union { __u8 left; __u16 right; }; union { __u16 single; }; } choice;
	struct { } empty;
};

struct bits {
	__u8 before;
	__u32 low : 3, mid : 7, high : 9;
	__u32 : 0;
	__u32 alone : 1;
	__u8 after;
	__u16 whole : 16;
	__u64 wide : 40;
};

struct kernels {
	struct bpf_spin_lock lock;
	__u32 pad;
	struct bpf_timer timer;
	struct task __kptr *owner;
	__u8 __pad1[4];
	__u8 _padding;
	__u16 padlock;
	__u64 count;
};

struct packed {
	__u8 a;
	__u64 b;
	struct { __u8 c; __u32 d; } __attribute__((packed)) inside;
} __attribute__((packed));

struct twice {
	__u32 pid;
	__u64 count;
};

#define MAP(map_name, key_type, value_type)             \
	struct {                                        \
		__uint(type, BPF_MAP_TYPE_HASH);        \
		__uint(max_entries, 16);                \
		__type(key, key_type);                  \
		__type(value, value_type);              \
	} map_name SEC(".maps")

typedef char command[16];
typedef struct inner pair[2];
typedef union { __u32 a; __u64 b; } one_union;

MAP(of_numbers, struct inner, struct numbers);
MAP(of_arrays, command, struct arrays);
MAP(of_nested, struct nested, struct nested);
MAP(of_bits, __u32, struct bits);
MAP(of_kernels, __u64, struct kernels);
MAP(of_packed, struct packed, struct packed);
MAP(of_pairs, pair, one_union);
MAP(of_twice, struct twice, struct twice);

SEC("syscall")
int nothing(void *ctx)
{
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
