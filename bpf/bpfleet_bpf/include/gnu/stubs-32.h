/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-3-Clause) */
/* Empty on purpose. For BPF, which is not x86-64, glibc's headers (<stdint.h>, <errno.h>) ask for this one; only
 * libc6-dev-i386 has it. What it would tell (which functions are stubs) no BPF program needs. */
