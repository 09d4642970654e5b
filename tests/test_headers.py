"""Kernel headers made from BTF: what compiles with them, and whether what it reads is true."""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from apart import apart, source_file
from bpfleet import kernel
from bpfleet.errors import BpfleetError
from bpfleet.loader import headers
from bpfleet.loader.bcc import open_bcc
from bpfleet.loader.btf_dump import KERNEL_BTF
from bpfleet.loader.headers import header_tree, includes_of, installed_headers, kernel_types
from bpfleet.protocol import Load

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not KERNEL_BTF.exists() or installed_headers() is not None,
    reason="needs root, the kernel's BTF, and a host without headers of its own",
)


def value_at(fd: int, key: int = 0) -> int:
    """The u64 at an array's index."""
    index, value = ctypes.c_uint32(key), ctypes.c_uint64()
    assert kernel.lookup(fd, ctypes.addressof(index), ctypes.addressof(value))
    return value.value


def seen_at_a_system_call(source: Path) -> list[int]:
    """The four values of map `seen` after a sched_getscheduler(2), then the process's getppid and getpid."""

    def run() -> list[int]:
        opened = open_bcc(Load(collector="c", kind="bcc", source=str(source)), source.read_text())
        opened.attach([])
        os.sched_getscheduler(0)
        fd = next(one.fd for one in opened.maps() if one.name == "seen")
        return [value_at(fd, index) for index in range(4)] + [os.getppid(), os.getpid()]

    return apart(run)


KERNEL_READER = """
#include <linux/sched.h>
#include <linux/nsproxy.h>
#include <net/sock.h>
BPF_ARRAY(seen, u64, 4);
static __always_inline void keep(int at, u64 value) { seen.update(&at, &value); }
TRACEPOINT_PROBE(syscalls, sys_enter_sched_getscheduler) {
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();

	keep(0, task->real_parent->tgid);
	keep(1, task->tgid);
	keep(2, task->start_time);
	keep(3, AF_INET6 * 1000 + EAGAIN * 100 + IPPROTO_UDP);
	return 0;
}
"""


def test_kernel_structs_are_read_by_the_running_kernels_layout(tmp_path: Path) -> None:
    parent, own, started, constants, getppid, getpid = seen_at_a_system_call(
        source_file(tmp_path, KERNEL_READER)
    )
    assert (parent, own) == (getppid, getpid)
    assert started > 0
    assert constants == socket.AF_INET6 * 1000 + 11 * 100 + socket.IPPROTO_UDP


def test_members_that_the_kernel_names_by_macro_compile(tmp_path: Path) -> None:
    text = """
#include <net/sock.h>
#include <linux/dcache.h>
struct name { char name[DNAME_INLINE_LEN]; };
BPF_HASH(families, u16);
BPF_HASH(names, struct name);
int probe(struct pt_regs *ctx, struct sock *sk) {
	families.increment(sk->sk_family + (sk->sk_state == TCP_LISTEN));
	return 0;
}
"""
    source = source_file(tmp_path, text)

    def sizes() -> list[int]:
        opened = open_bcc(Load(collector="c", kind="bcc", source=str(source)), text)
        return sorted(kernel.map_info(one.fd).key_size for one in opened.maps())

    assert apart(sizes) in ([2, 32], [2, 40])


def test_a_program_without_kernel_structs_needs_no_types(tmp_path: Path) -> None:
    text = """
#include <uapi/linux/ptrace.h>
#include <linux/sched.h>
struct key { char comm[TASK_COMM_LEN]; u64 argument; bool yes; };
BPF_HASH(calls, struct key);
int probe(struct pt_regs *ctx) {
	struct key key = {.argument = PT_REGS_PARM1(ctx), .yes = true};
	calls.increment(key);
	return 0;
}
"""
    source = source_file(tmp_path, text)

    def compiled() -> int:
        def unusable(_: Path) -> Path:
            raise AssertionError("the kernel's types were made")

        headers._types_for = unusable  # type: ignore[assignment]
        return len(open_bcc(Load(collector="c", kind="bcc", source=str(source)), text).maps())

    # `struct key` is a type of the kernel's too: with its types this would not compile.
    assert apart(compiled) == 1


def test_a_name_that_the_kernel_has_taken_is_said_to_be(tmp_path: Path) -> None:
    text = (
        "struct key { u32 a; };\nBPF_HASH(m, struct key);\nint p(struct task_struct *t) { return t->pid; }\n"
    )
    source = source_file(tmp_path, text)
    with pytest.raises(BpfleetError, match="redefinition of 'key'") as error:
        apart(lambda: open_bcc(Load(collector="c", kind="bcc", source=str(source)), text) and None)
    assert "rename yours" in error.value.remedy


def test_the_environment_is_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BCC_KERNEL_SOURCE", raising=False)
    with header_tree(frozenset({"linux/nothing.h"}), typed=False) as tree:
        assert os.environ["BCC_KERNEL_SOURCE"] == str(tree)
        assert (tree / "include/linux/nothing.h").read_text() == ""
    assert "BCC_KERNEL_SOURCE" not in os.environ
    assert not tree.exists()


def test_a_header_tree_that_the_user_names_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "include/linux").mkdir(parents=True)
    (tmp_path / "include/linux/kconfig.h").touch()
    monkeypatch.setenv("BCC_KERNEL_SOURCE", str(tmp_path))
    assert installed_headers() == tmp_path


def test_types_are_dumped_once_per_kernel(tmp_path: Path) -> None:
    made = kernel_types(tmp_path / "cache")
    before = made.stat()
    assert "struct task_struct {" in made.read_text()
    assert made.parent.name.startswith(os.uname().release)
    assert made.parent.stat().st_mode & 0o777 == 0o755
    assert kernel_types(tmp_path / "cache") == made
    assert made.stat() == before
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [made.parent.name]


def test_the_dump_declares_the_structs_that_bpftool_declares(tmp_path: Path) -> None:
    bpftool = shutil.which("bpftool") or "/usr/sbin/bpftool"
    if not Path(bpftool).exists():
        pytest.skip("bpftool is not installed")
    theirs = subprocess.run(
        [bpftool, "btf", "dump", "file", str(KERNEL_BTF), "format", "c"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    ours = kernel_types(tmp_path).read_text()

    def names(text: str) -> set[str]:
        return {line for line in text.splitlines() if line.startswith(("struct ", "union ", "enum "))}

    assert names(ours) == names(theirs)
    assert len(names(ours)) > 1000


def test_loaders_that_dump_at_once_agree(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from bpfleet.loader.headers import kernel_types; "
        "print(kernel_types(Path(sys.argv[1])))"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "cache")], stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    told = {one.communicate(timeout=60)[0].strip() for one in running}
    assert len(told) == 1
    assert Path(told.pop()).exists()
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_cache_that_others_can_write_to_is_not_trusted(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(0o777)
    with pytest.raises(PermissionError, match="others can write"):
        kernel_types(cache)


def test_includes_are_followed_through_the_authors_own_files(tmp_path: Path) -> None:
    (tmp_path / "own.h").write_text('#include <net/sock.h>\n#include "deeper/own.h"\n')
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper/own.h").write_text('# include <linux/fs.h>\n#include "own.h"\nint DEPTH;\n')
    found = includes_of('#include "own.h"\n#include <uapi/linux/ptrace.h>\n', [tmp_path])
    assert found.kernel == {"net/sock.h", "linux/fs.h", "uapi/linux/ptrace.h"}
    assert "int DEPTH;" in found.text


@pytest.mark.parametrize(
    "name",
    ["linux/../../../../tmp/x.h", "/etc/passwd", "../linux/a.h", "lnux/sched.h", "linux/", "bcc/proto.h"],
)
def test_no_file_is_made_for_a_name_that_is_no_kernel_headers(name: str, tmp_path: Path) -> None:
    assert includes_of(f"#include <{name}>\n", [tmp_path]).kernel == frozenset()


def test_a_missing_file_of_the_authors_is_said_to_be_missing(tmp_path: Path) -> None:
    text = '#include "missing.h"\nBPF_HASH(m);\n'
    source = source_file(tmp_path, text)
    with pytest.raises(BpfleetError, match=r"'missing.h' file not found"):
        apart(lambda: open_bcc(Load(collector="c", kind="bcc", source=str(source)), text) and None)
