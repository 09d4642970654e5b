/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-3-Clause)
 *
 * libbpf's own header, and what later versions of it have: sources are written for any of them.
 */
#include_next <bpf/bpf_helpers.h>

#ifndef BPFLEET_LATER_HELPERS_H
#define BPFLEET_LATER_HELPERS_H

#ifndef __kptr_untrusted /* 1.2 */
#define __kptr_untrusted __attribute__((btf_type_tag("kptr_untrusted")))
#endif
#ifndef __percpu_kptr /* 1.3 */
#define __percpu_kptr __attribute__((btf_type_tag("percpu_kptr")))
#endif

#ifndef __arg_ctx /* 1.4 */
#define __arg_ctx __attribute__((btf_decl_tag("arg:ctx")))
#define __arg_nonnull __attribute__((btf_decl_tag("arg:nonnull")))
#define __arg_nullable __attribute__((btf_decl_tag("arg:nullable")))
#define __arg_trusted __attribute__((btf_decl_tag("arg:trusted")))
#define __arg_arena __attribute__((btf_decl_tag("arg:arena")))
#endif

#ifndef bpf_ksym_exists /* 1.2 */
#define bpf_ksym_exists(name) (!!(name))
#endif

#ifndef bpf_for /* 1.2; a kernel of 6.4 */
struct bpf_iter_num;
extern int bpf_iter_num_new(struct bpf_iter_num *it, int start, int end) __weak __ksym;
extern int *bpf_iter_num_next(struct bpf_iter_num *it) __weak __ksym;
extern void bpf_iter_num_destroy(struct bpf_iter_num *it) __weak __ksym;

/* The iterator of a loop, which whatever leaves the loop ends. clang keeps a function's type only where it is named
 * outside of an attribute, too. */
#define bpfleet_iterator(kind, arguments...)                                                                         \
	struct bpf_iter_##kind bpfleet_it __attribute__((aligned(8), cleanup(bpf_iter_##kind##_destroy))),           \
		*bpfleet_begun __attribute__((unused)) =                                                             \
			(bpf_iter_##kind##_new(&bpfleet_it, ##arguments), (void)bpf_iter_##kind##_destroy, (void *)0)

#define bpf_for_each(kind, item, arguments...)                                                                       \
	for (bpfleet_iterator(kind, ##arguments); ((item) = bpf_iter_##kind##_next(&bpfleet_it));)

/* The verifier learns the bounds of `number` from the comparison. */
#define bpf_for(number, start, end)                                                                                  \
	for (bpfleet_iterator(num, (start), (end)); ({                                                               \
		     int *bpfleet_next = bpf_iter_num_next(&bpfleet_it);                                             \
		     bpfleet_next && ((number) = *bpfleet_next, (number) >= (start) && (number) < (end));            \
	     });)

#define bpf_repeat(times) for (bpfleet_iterator(num, 0, (times)); bpf_iter_num_next(&bpfleet_it);)
#endif

#endif
