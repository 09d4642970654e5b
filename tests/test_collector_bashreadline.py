"""bashreadline, on the real kernel: against what is typed into a real bash on a terminal."""

from __future__ import annotations

import os
import pty
import pwd
import shutil
import subprocess
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent_process import PATIENCE, Agent
from bpfleet import Attach
from bpfleet.config import DEFAULT, parse
from bpfleet_plugins.collectors import bashreadline

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")

Start = Callable[..., Agent]
CONFIG = '[agent]\ninterval = "100ms"\nrescan = "500ms"\n[collectors.bashreadline]\n'
PROMPT = b"say-more> "


class Shell:
    """An interactive bash on a terminal of its own."""

    def __init__(self, *command: str) -> None:
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.environ.update(PS1=PROMPT.decode(), TERM="dumb", HISTFILE="/dev/null")
            os.execvp(command[0], [*command, "--norc", "--noprofile", "-i"])
        self._wait_for_prompt()

    def type(self, text: str) -> None:
        """Type, press Enter, wait until bash asks for more."""
        os.write(self._fd, text.encode() + b"\n")
        self._wait_for_prompt()

    def _wait_for_prompt(self) -> None:
        said = b""
        end = time.monotonic() + 20 * PATIENCE
        while not said.endswith(PROMPT):
            assert time.monotonic() < end, said
            said += os.read(self._fd, 4096)

    def end(self) -> None:
        """Ctrl-D."""
        os.write(self._fd, b"\x04")
        os.waitpid(self.pid, 0)
        os.close(self._fd)


@pytest.fixture
def open_shell() -> Iterator[Callable[..., Shell]]:
    opened: list[Shell] = []

    def begin(*command: str) -> Shell:
        opened.append(Shell(*(command or ("bash",))))
        return opened[-1]

    yield begin
    for one in opened:
        one.end()


def typed(agent: Agent, pid: int, last: str) -> list[dict[str, Any]]:
    """The events of one shell, up to a line that must come."""

    def found() -> list[dict[str, Any]]:
        rows = [row for one in agent.snapshots("bashreadline", "lines") for row in one["rows"]]
        mine = [row for row in rows if row["pid"] == pid]
        return mine if any(row["line"] == last for row in mine) else []

    rows: list[dict[str, Any]] = agent.wait_for(found)
    return rows


def test_each_line_is_told_once_as_it_was_typed(
    start_agent: Start, cgroup: Path, open_shell: Callable[..., Shell]
) -> None:
    agent = start_agent(CONFIG)
    agent.next_snapshot("bashreadline", "lines")
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    shell = open_shell()
    (cgroup / "cgroup.procs").write_text(str(shell.pid))
    long = ": " + "x" * 700
    for line in [
        "true 1",
        "true 'höher'",
        "",
        "true wrongly\x7f\x7f\x7f\x7f\x7f\x7f\x7fright",
        long,
        "!!; true 2",
    ]:
        shell.type(line)
    shell.type("true end")
    rows = typed(agent, shell.pid, "true end")
    # What bash makes of a line (its history's `!!`) comes after it was read.
    expected = ["true 1", "true 'höher'", "true right", long[:511], "!!; true 2", "true end"]
    assert [row["line"] for row in rows] == expected
    assert [row["cut"] for row in rows] == [0, 0, 0, 1, 0, 0]
    assert {(row["uid"], row["uid_uid"], row["comm"]) for row in rows} == {(0, "root", "bash")}
    assert {row["cgroup_id_cgroup"] for row in rows} == {f"/{cgroup.name}"}
    times = [row["time_ns"] for row in rows]
    assert before < times[0]
    assert times == sorted(times)
    assert times[-1] < time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def test_the_user_is_told(start_agent: Start, open_shell: Callable[..., Shell]) -> None:
    agent = start_agent(CONFIG)
    agent.next_snapshot("bashreadline", "lines")
    user = pwd.getpwnam("nobody")
    shell = open_shell("setpriv", "--reuid", str(user.pw_uid), "--clear-groups", "bash")
    shell.type("true who")
    (row,) = typed(agent, shell.pid, "true who")
    assert (row["uid"], row["uid_uid"]) == (user.pw_uid, "nobody")


def test_a_script_types_nothing(start_agent: Start, open_shell: Callable[..., Shell]) -> None:
    agent = start_agent(CONFIG)
    agent.next_snapshot("bashreadline", "lines")
    script = subprocess.Popen(["bash"], stdin=subprocess.PIPE, text=True)
    script.communicate("true 1\ntrue 2\n")
    subprocess.run(["bash", "-c", "true 3"], check=True)
    shell = open_shell()
    shell.type("true after")
    rows = typed(agent, shell.pid, "true after")
    assert [row["line"] for row in rows] == ["true after"]
    assert not [
        row
        for one in agent.snapshots("bashreadline", "lines")
        for row in one["rows"]
        if row["pid"] == script.pid
    ]


def test_another_copy_of_bash_as_in_a_container_is_found(
    start_agent: Start, open_shell: Callable[..., Shell]
) -> None:
    agent = start_agent(CONFIG)
    agent.next_snapshot("bashreadline", "lines")
    with tempfile.TemporaryDirectory() as folder:
        real = os.path.realpath("/bin/bash")
        copy = shutil.copy(real, folder)
        mount = f'mount --bind "{copy}" {real} && exec {real} "$@"'
        shell = open_shell("unshare", "--mount", "--propagation", "private", "sh", "-c", mount, "sh")

        def seen() -> list[dict[str, Any]]:
            shell.type("true copied")
            time.sleep(0.2)
            rows = [row for one in agent.snapshots("bashreadline", "lines") for row in one["rows"]]
            return [row for row in rows if row["pid"] == shell.pid]

        assert agent.wait_for(seen)[0]["line"] == "true copied"


LIBRARY = """
import ctypes
library = ctypes.CDLL("libreadline.so.8")
library.readline.restype = ctypes.c_void_p
while library.readline(b"say-more> "):
    pass
"""


def test_a_bash_without_a_readline_of_its_own_has_that_of_the_library(
    start_agent: Start, open_shell: Callable[..., Shell], tmp_path: Path
) -> None:
    """Debian's bash has its own: the second alternative is tried alone, by a program that calls it."""
    source = Path(bashreadline.__file__).with_name("bashreadline.bpf.c")
    shutil.copy(source, tmp_path / "library.bpf.c")
    (second,) = bashreadline.BASHREADLINE.ladders["line"][1:]
    assert isinstance(second, Attach)
    words = f'program = "{second.program}", kind = "{second.kind}", '
    words += f'target = "{second.target}", symbol = "{second.symbol}"'
    (tmp_path / "library.toml").write_text("[ladders]\nline = [{ " + words + " }]\n")
    agent = start_agent(f'[agent]\ninterval = "100ms"\n[collectors."{tmp_path}/library.bpf.c"]\n')
    agent.next_snapshot("library", "lines")
    shell = open_shell("/usr/bin/python3", "-c", LIBRARY)
    shell.type("true library")
    rows = agent.wait_for(lambda: [row for one in agent.snapshots("library", "lines") for row in one["rows"]])
    assert [(row["pid"], row["line"]) for row in rows] == [(shell.pid, "true library")]


def test_nothing_enables_it_but_a_configuration_that_names_it() -> None:
    assert "bashreadline" not in parse(DEFAULT, "default").collectors
    shipped = list((Path(__file__).parents[1] / "etc").glob("*.toml"))
    assert shipped
    for path in shipped:
        assert "bashreadline" not in tomllib.loads(path.read_text()).get("collectors", {})
