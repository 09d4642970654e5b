"""`bpfleet trace`: what programs print with bpf_printk, from the real kernel."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent_process import BPFLEET, run
from bpfleet.cli.trace_lines import Lines, _pattern

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

SOURCE = """
#include <bpfleet/bpfleet.h>

SEC("tracepoint/syscalls/sys_enter_execve")
int on_execve(void *ctx)
{
    bpf_printk("WORD says %d of 100%%", bpf_get_current_pid_tgid() >> 32);
    return 0;
}

char LICENSE[] SEC("license") = "GPL";
"""


class Trace:
    """A running `bpfleet trace`."""

    def __init__(self, *arguments: str) -> None:
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [BPFLEET, "trace", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self._came = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._came:
                self.lines.append(line.rstrip("\n"))
                self._came.notify()

    def wait_for(self, pattern: str, tries: Callable[[], object]) -> None:
        """Do `tries` until a line matches."""
        for _ in range(150):
            tries()
            with self._came:
                if self._came.wait_for(lambda: any(re.search(pattern, one) for one in self.lines), 0.2):
                    return
        raise AssertionError(f"no line {pattern!r} in {self.lines[-5:]}")

    def stop(self, number: int = signal.SIGINT) -> tuple[int, str]:
        """Its exit code, and what it said on stderr."""
        self.process.send_signal(number)
        assert self.process.stderr is not None
        said = self.process.stderr.read()
        code = self.process.wait(20)
        self._reader.join(5)
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()
        return code, said


@contextmanager
def tracing(*arguments: str) -> Iterator[Trace]:
    trace = Trace(*arguments)
    try:
        yield trace
    finally:
        if trace.process.poll() is None:
            trace.stop(signal.SIGTERM)


def program(folder: Path, word: str) -> str:
    source = folder / f"{word}.bpf.c"
    source.write_text(SOURCE.replace("WORD", word))
    return str(source)


def start_one() -> int:
    """A program started; its pid."""
    started = subprocess.Popen(["/bin/true"])
    started.wait()
    return started.pid


def test_every_line_of_a_program_is_shown_once(shared_path: Path) -> None:
    with tracing(program(shared_path, "hello")) as trace:
        trace.wait_for("hello says", start_one)
        before = len(trace.lines)
        started = [start_one() for _ in range(200)]
        trace.wait_for(f"hello says {started[-1]} ", lambda: None)
        code, said = trace.stop()
    assert code == 0
    assert said == ""
    shown = [
        int(m.group(1)) for one in trace.lines[before:] if (m := re.search(r"hello says (\d+) of 100%$", one))
    ]
    mine = set(started)
    assert [pid for pid in shown if pid in mine] == started


def test_lines_of_other_programs_are_left_out_and_counted(shared_path: Path) -> None:
    with tracing(program(shared_path, "one")) as one, tracing(program(shared_path, "two")) as two:
        one.wait_for("one says", start_one)
        two.wait_for("two says", start_one)
        assert all("one says" in line for line in one.lines)
        assert all("two says" in line for line in two.lines)
        code, said = one.stop()
        assert code == 0
        assert re.search(r"\d+ lines of other programs are not shown; --all shows them", said)


def test_without_a_program_all_lines_of_the_host_are_shown(shared_path: Path) -> None:
    with tracing(program(shared_path, "one")) as one:
        one.wait_for("one says", start_one)
        with tracing() as everything:
            everything.wait_for("one says", start_one)
            assert everything.stop(signal.SIGINT) == (0, "")


def test_it_ends_after_its_duration_and_leaves_nothing_behind(shared_path: Path) -> None:
    done = run("trace", program(shared_path, "short"), "--duration", "1s")
    assert done.returncode == 0
    assert buffers() == []


def test_a_buffer_that_was_left_behind_is_removed(shared_path: Path) -> None:
    with tracing(program(shared_path, "killed")) as trace:
        trace.wait_for("killed says", start_one)
        assert buffers() == [f"bpfleet-{trace.process.pid}"]
        (agent,) = Path(f"/proc/{trace.process.pid}/task/{trace.process.pid}/children").read_text().split()
        trace.stop(signal.SIGKILL)
    assert ended(int(agent))
    assert run("trace", "--duration", "100ms").returncode == 0
    assert buffers() == []


def ended(pid: int) -> bool:
    """Whether the process is gone within some seconds."""
    for _ in range(200):
        if not Path(f"/proc/{pid}").exists():
            return True
        time.sleep(0.05)
    return False


def buffers() -> list[str]:
    """The trace buffers of our own, seen in a mount namespace of this look."""
    script = "mount -t tracefs tracefs /sys/kernel/tracing && ls /sys/kernel/tracing/instances"
    shown = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", script],
        capture_output=True,
        text=True,
        check=True,
    )
    return [name for name in shown.stdout.split() if name.startswith("bpfleet-")]


def test_a_program_that_does_not_load_is_told_of(shared_path: Path) -> None:
    source = shared_path / "broken.bpf.c"
    source.write_text("int broken(")
    done = run("trace", str(source), "--duration", "20s")
    assert done.returncode != 0
    assert "broken.bpf.c" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_host_without_tracefs_is_told_what_to_do(shared_path: Path) -> None:
    """An empty file system on top of the place stands for a kernel without it, as the mount is refused."""
    script = (
        "mount -t tmpfs none /sys/kernel/tracing && "
        f"exec setpriv --bounding-set=-sys_admin --inh-caps=-sys_admin {BPFLEET} trace --duration 1s"
    )
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert "remedy:" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("form", "text", "ours"),
    [
        ("hello %d", "hello -17", True),
        ("hello %d", "hullo -17", False),
        ("%s", "anything", True),
        ("at %pI4: %5.2lld%%\n", "at 10.0.0.1:    17%", True),
        ("at %pI4: %5.2lld%%\n", "at 10.0.0.1:    17", False),
        ("a.b", "axb", False),
        ("first %d\nsecond", "first 1", True),
    ],
)
def test_a_line_is_ours_by_its_format(form: str, text: str, ours: bool) -> None:
    assert bool(_pattern(form).match(text)) == ours


def test_lines_that_the_kernel_lost_are_counted_and_lines_cut_in_two_put_together() -> None:
    lines = Lines(everything=False)
    head = b"  true-1 [000] ...1. 1.0: bpf_trace_printk: "
    assert list(lines.take(head + b"early\n")) == []
    lines.formats = [_pattern("early"), _pattern("hello %d")]
    assert len(list(lines.take(head + b"hel"))) == 1
    shown = list(
        lines.take(b"lo 1\nCPU:1 [LOST 40 EVENTS]\n" + head + b"other\n" + b"goes on\n" + head + b"hello 2\n")
    )
    assert [one.rpartition(": ")[2] for one in shown] == ["hello 1", "hello 2"]
    assert list(lines.notes()) == [
        "40 lines were lost: they came faster than they could be read",
        "1 lines of other programs are not shown; --all shows them",
    ]
