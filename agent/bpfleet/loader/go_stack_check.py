"""What a Go function does first: it looks whether its stack has room, and begins once more when it has a
larger one.

The runtime asks for the CPU in the same way: it sets the limit so that no stack pointer is good enough.
"""

from __future__ import annotations

import re

__all__ = ["LONGEST_CHECK", "after_stack_check"]

LONGEST_CHECK = 48
"""Bytes of code that hold it."""

# cmd/internal/obj/x86/obj6.go, stacksplit(): the limit is in the goroutine, at +16 (or at +24, of functions
# that run on the thread's own stack), and that in R14; before Go 1.17 in RCX, read from thread-local storage.
# Of a frame beyond 128 bytes the rest of its size is taken off first, and where that is more than 4096 bytes
# the difference may be below zero.
_CHECK = re.compile(
    rb"""
    (?: (?: \x64\x4c\x8b\x34\x25.{4} )?                              # mov r14, fs:[-8], in assembly
        (?: \x49\x3b\x66[\x10\x18]                                   # cmp rsp, [r14+16]
          | (?: \x4c\x8d\x64\x24. | \x4c\x8d\xa4\x24.{4}             # lea r12, [rsp-N]
              | \x49\x89\xe4\x49\x81\xec.{4} (?: \x72. | \x0f\x82.{4} ) # mov r12, rsp; sub r12, N; jb
            )
            \x4d\x3b\x66[\x10\x18]                                   # cmp r12, [r14+16]
        )
      | \x64\x48\x8b\x0c\x25.{4}                                     # mov rcx, fs:[-8]
        (?: \x48\x3b\x61[\x10\x18]                                   # cmp rsp, [rcx+16]
          | (?: \x48\x8d\x44\x24. | \x48\x8d\x84\x24.{4} )           # lea rax, [rsp-N]
            \x48\x3b\x41[\x10\x18]                                   # cmp rax, [rcx+16]
        )
    )
    (?: \x76. | \x0f\x86.{4} )                                       # jbe
    """,
    re.DOTALL | re.VERBOSE,
)


def after_stack_check(code: bytes) -> int:
    """Where the instruction behind it begins, in x86-64 code from a function's start; 0 if it does none."""
    found = _CHECK.match(code)
    return found.end() if found else 0
