"""Writes the table of system calls that the decoder `syscall` reads, from the headers of linux-libc-dev.

    python bpf/syscall_names.py > plugins/bpfleet_plugins/decoders/syscalls.txt

A line is `ABI NUMBER NAME`. It needs clang. Names that the headers are too old for are added from below.
"""

from __future__ import annotations

import re
import subprocess
import sys

_X86 = "/usr/include/x86_64-linux-gnu"
_HEADERS = {
    "x86_64": [f"-I{_X86}", "-include", "asm/unistd_64.h"],
    "i386": [f"-I{_X86}", "-include", "asm/unistd_32.h"],
    # What arm64's own <asm/unistd.h> says before it includes the generic table.
    "aarch64": [
        "-D__BITS_PER_LONG=64",
        "-D__ARCH_WANT_RENAMEAT",
        "-D__ARCH_WANT_NEW_STAT",
        "-D__ARCH_WANT_SET_GET_RLIMIT",
        "-D__ARCH_WANT_SYS_CLONE3",
        "-D__ARCH_WANT_MEMFD_SECRET",
        f"-I{_X86}",
        "-include",
        "asm-generic/unistd.h",
    ],
}
# Since 424 a call has one number everywhere. Linux 6.5 to 6.18: include/uapi/asm-generic/unistd.h.
_NEWER_FROM = 451
_NEWER = (
    "cachestat",
    "fchmodat2",
    "map_shadow_stack",
    "futex_wake",
    "futex_wait",
    "futex_requeue",
    "statmount",
    "listmount",
    "lsm_get_self_attr",
    "lsm_set_self_attr",
    "lsm_list_modules",
    "mseal",
    "setxattrat",
    "getxattrat",
    "listxattrat",
    "removexattrat",
    "open_tree_attr",
    "file_getattr",
    "file_setattr",
)
_DEFINED = re.compile(r"#define (__NR(?:3264)?_\w+) (\w+)$", re.MULTILINE)
_NO_CALLS = frozenset(["syscalls", "arch_specific_syscall"])


def table(abi: str) -> dict[int, str]:
    """The names of one ABI by number."""
    command = ["clang", "-E", "-dM", "-x", "c", *_HEADERS[abi], "/dev/null"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    defined = dict(_DEFINED.findall(text))
    found = dict(enumerate(_NEWER, _NEWER_FROM))
    for name, value in defined.items():
        value = defined.get(value, value)  # __NR_fcntl is __NR3264_fcntl
        plain = name.removeprefix("__NR_")
        if value.isdigit() and name.startswith("__NR_") and plain not in _NO_CALLS:
            found[int(value)] = plain
    return dict(sorted(found.items()))


def main() -> None:
    for abi in _HEADERS:
        for number, name in table(abi).items():
            sys.stdout.write(f"{abi} {number} {name}\n")


if __name__ == "__main__":
    main()
