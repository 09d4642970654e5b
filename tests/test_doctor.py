"""`bpfleet doctor` against what other programs say of this host, and with things taken away for real."""

from __future__ import annotations

import ctypes
import json
import os
import pty
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.specifiers import SpecifierSet

from agent_process import BPFLEET
from bpfleet import doctor
from bpfleet.btf_types import Kind
from bpfleet.doctor import attaching, reading, tools
from bpfleet.doctor.agent import subject_of
from bpfleet.doctor.child import Child, ChildFailed, in_child
from bpfleet.doctor.finding import Finding, State, Subject, ok
from bpfleet.doctor.kernel import judge_config, judge_lockdown, judge_release, release_numbers
from bpfleet.doctor.kernel_btf import KERNEL_BTF, type_ids
from bpfleet.doctor.kernel_config import KernelConfig, read_config
from bpfleet.doctor.privileges import judge_kptr_restrict, judge_namespaces, judge_unprivileged_bpf
from bpfleet.kernel import _number
from bpfleet.loader.compile import core_sources, object_for
from bpfleet.supervisor.launch import _needs_cap_bpf

Found = dict[str, dict[str, Any]]


class Run:
    """One run of the doctor: exit code, findings by name, summary."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        assert done.stderr == ""
        assert "Traceback" not in done.stdout
        *lines, self.summary = (json.loads(line) for line in done.stdout.splitlines())
        self.status = done.returncode
        self.lines: list[dict[str, Any]] = lines
        self.found: Found = {}
        for line in lines:
            self.found.setdefault(line["what"], line)

    def state(self, what: str) -> str:
        return str(self.found[what]["state"])

    def detail(self, what: str) -> str:
        return str(self.found[what]["detail"])

    def missing(self) -> list[str]:
        return [line["what"] for line in self.lines if line["state"] == "missing"]


def examine(
    *arguments: str | Path,
    under: Sequence[str] = (),
    program: Sequence[str] = (BPFLEET,),
    first: Callable[[], object] | None = None,
    **environment: str,
) -> Run:
    """Run it in the shell-less command `under`, after `first` in the new process."""
    done = subprocess.run(
        [*under, *program, "doctor", "--format", "json", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=first,
        env={**os.environ, **environment},
    )
    return Run(done)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """This host as it is."""
    return examine("--config", config_file(tmp_path_factory.mktemp("here")))


def config_file(folder: Path, text: str = "[collectors.execve]\n[sinks.stdout]\n", agent: str = "") -> Path:
    path = folder / "bpfleet.toml"
    state = "" if "state" in agent else f'state = "{folder / "state"}"\n'
    path.write_text(f"[agent]\n{state}{agent}\n{text}")
    return path


def said_by(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


# ---- other programs' word


@pytest.fixture(scope="module")
def features() -> dict[str, Any]:
    probed: dict[str, Any] = json.loads(said_by("bpftool", "-j", "feature", "probe", "kernel"))
    return probed


def test_what_can_be_attached_is_of_a_kind_that_bpftool_can_load(here: Run, features: dict[str, Any]) -> None:
    kinds = {
        "tracepoint": "tracepoint",
        "raw_tp": "raw_tracepoint",
        "perf_event": "perf_event",
        "uprobe": "kprobe",
        "syscall program": "syscall",
    }
    assert {name: here.state(name) == "ok" for name in kinds} == {
        name: features["program_types"][f"have_{kind}_prog_type"] for name, kind in kinds.items()
    }


@pytest.mark.parametrize(
    ("what", "section"),
    [
        ("fentry", "fentry/do_send_sig_info"),
        ("fexit", "fexit/do_send_sig_info"),
        ("tp_btf", "tp_btf/signal_generate"),
        ("iter", "iter/task"),
    ],
)
def test_trampolines_are_here_where_bpftool_can_load_one(
    here: Run, what: str, section: str, tmp_path: Path
) -> None:
    source, made = tmp_path / "one.bpf.c", tmp_path / "one.bpf.o"
    source.write_text(
        f'__attribute__((section("{section}"))) int one(void *c) {{ return 0; }}\n'
        '__attribute__((section("license"))) char gpl[] = "GPL";\n'
    )
    said_by("clang", "-g", "-O2", "-target", "bpf", "-c", str(source), "-o", str(made))
    script = f"mount -t bpf bpf /sys/fs/bpf && bpftool prog load {made} /sys/fs/bpf/one"
    loaded = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, check=False)
    assert (here.state(what) == "ok") == (loaded.returncode == 0), loaded.stderr


def test_a_program_that_sees_no_event_is_not_called_working(monkeypatch: pytest.MonkeyPatch) -> None:
    def found() -> dict[str, str]:
        monkeypatch.setattr(attaching, "stir", lambda: None)
        return {one.what: one.detail for one in attaching.attaching(subject_of(None))}

    # The others see what any process does; a uprobe is put into this one alone.
    assert in_child(found)["uprobe"] == "not here: it attaches, and sees no event"


@pytest.mark.parametrize("probe", ["kprobe", "uprobe"])
def test_probes_are_here_where_the_kernel_has_their_event_source(here: Run, probe: str) -> None:
    there = Path("/sys/bus/event_source/devices", probe).exists()
    assert (here.state(probe) == "ok") == there
    if not there:
        assert here.detail(probe).startswith("not here: ")
        assert f"no event source {probe}" in here.detail(probe)


def test_map_kinds_are_those_that_bpftool_can_make(here: Run, features: dict[str, Any]) -> None:
    lines = [line for line in here.lines if line["what"] == "map kinds" and line["state"] == "ok"]
    made = set(lines[0]["detail"].split(", "))
    assert made == {
        name for name in reading._KINDS if features["map_types"].get(f"have_{name}_map_type", name in made)
    }
    assert {"hash", "percpu_hash", "array", "ringbuf"} <= made


def test_types_have_the_ids_that_bpftool_reads() -> None:
    wanted = {
        "task_struct": Kind.STRUCT,
        "do_send_sig_info": Kind.FUNC,
        "btf_trace_sched_switch": Kind.TYPEDEF,
        "bpf_map_type": Kind.ENUM,
        "bpf_iter__task": Kind.STRUCT,
    }
    dump = said_by("bpftool", "btf", "dump", "file", str(KERNEL_BTF), "format", "raw")
    found = {}
    for name, kind in wanted.items():
        match = re.search(rf"^\[(\d+)\] {kind.name} '{name}' ", dump, re.MULTILINE)
        assert match, name
        found[name] = int(match.group(1))
    assert type_ids({**wanted, "no_such_function": Kind.FUNC}) == found
    assert type_ids({"task_struct": Kind.FUNC}) == {}


def test_options_are_those_that_bpftool_reads(features: dict[str, Any]) -> None:
    config = read_config()
    assert config is not None
    theirs = {name: value for name, value in features["system_config"].items() if name.startswith("CONFIG_")}
    assert {name: config.options.get(name.removeprefix("CONFIG_")) for name in theirs} == theirs


def test_sysctls_are_those_that_bpftool_reads(here: Run, features: dict[str, Any]) -> None:
    for name in ("unprivileged_bpf_disabled", "bpf_jit_enable"):
        assert here.detail(name).startswith(f"{features['system_config'][name]}: ")


def test_versions_are_those_that_packages_have(here: Run) -> None:
    def installed(package: str) -> str:
        return said_by("dpkg-query", "--show", "--showformat=${Version}", package)

    def begins(what: str, package: str) -> bool:
        return installed(package).partition(":")[2].startswith(version(what)) or installed(
            package
        ).startswith(version(what))

    def version(what: str) -> str:
        return here.detail(what).partition(",")[0]

    assert begins("libbpf", "libbpf1")
    assert begins("bcc", "python3-bpfcc")
    assert version("clang") in said_by("clang", "--version")
    listed = json.loads(said_by(sys.executable, "-m", "pip", "list", "--format", "json"))
    versions = {one["name"]: one["version"] for one in listed}
    told = dict(pair.split(" ") for pair in here.detail("packages").split(", "))
    assert told.items() <= versions.items()
    assert {"bpfleet", "numpy", "msgpack", "pluggy"} <= told.keys()


@pytest.mark.parametrize("bounds", [">=1.7,<2", ">=0.19", "==26.4", "<3", ">2.1,<=2.10.3", "!=1.0"])
def test_versions_are_compared_as_pip_does(bounds: str) -> None:
    for has in (
        "0.9",
        "1.6.9",
        "1.7",
        "1.7.0",
        "1.10",
        "2",
        "2.0",
        "2.1",
        "2.10.3",
        "2.9.1",
        "26.4",
        "26.4.0",
    ):
        assert tools.within(has, bounds) == (has in SpecifierSet(bounds)), (has, bounds)


# ---- this host as it is


def test_a_host_that_runs_the_agent_lacks_nothing_needed(here: Run) -> None:
    assert here.missing() == []
    assert here.status == 0
    assert here.summary["missing"] == 0


def test_the_worker_reads_a_map_by_every_method(here: Run) -> None:
    assert here.detail("reading as worker").endswith(": mmap, walk, walk per CPU, batch, key")
    assert here.state("snapshot program") == "ok"


def test_all_that_is_not_well_has_a_remedy(here: Run) -> None:
    for line in here.lines:
        assert bool(line["remedy"]) == (line["state"] != "ok"), line
        assert line["detail"]
        assert "\n" not in line["detail"] + line["remedy"]


def test_the_summary_counts_the_lines(here: Run) -> None:
    for state in ("ok", "warn", "missing"):
        assert here.summary[state] == sum(line["state"] == state for line in here.lines)
    assert here.summary["not_looked_at"] == 0
    assert set(doctor.AREAS) == {line["area"] for line in here.lines}


def test_every_finding_is_explained(here: Run) -> None:
    page = (Path(__file__).parents[1] / "docs/doctor.md").read_text()
    for area in doctor.AREAS:
        _, _, section = page.partition(f"\n## {area}\n")
        told = set(re.findall(r"`([^`]+)`", section.partition("\n## ")[0]))
        for line in here.lines:
            if line["area"] == area and not line["what"].startswith("CAP_"):
                assert line["what"] in told, line


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    mounts = Path("/proc/self/mountinfo")
    before, pinned = mounts.read_text(), list(Path("/sys/fs/bpf").iterdir())
    config = config_file(tmp_path)
    with adopting_orphans():
        others = children()  # of fixtures that outlive this test
        examine("--config", config)
        # No process is left, so no fd is, and with its last fd each map, program and link is gone.
        assert children() == others
    assert (mounts.read_text(), list(Path("/sys/fs/bpf").iterdir())) == (before, pinned)
    assert [one.name for one in tmp_path.iterdir()] == [config.name]


def test_its_processes_end_when_it_is_killed() -> None:
    with adopting_orphans():
        others = set(children())
        process = subprocess.Popen([BPFLEET, "doctor"], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        while not children(process.pid) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        process.kill()
        process.wait()
        while (left := set(children()) - others) and time.monotonic() < deadline:
            for pid in left:
                os.waitpid(pid, os.WNOHANG)
        assert not left


class adopting_orphans:
    """While entered, orphans of our children are ours."""

    def __enter__(self) -> None:
        self._set(1)

    def __exit__(self, *error: object) -> None:
        self._set(0)

    def _set(self, on: int) -> None:
        assert ctypes.CDLL(None).prctl(36, on, 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER


def children(pid: int | None = None) -> list[int]:
    # This process's other threads (of other tests' fixtures) have children too.
    tasks = Path(f"/proc/{pid or os.getpid()}/task")
    try:
        return [int(one) for task in tasks.iterdir() for one in (task / "children").read_text().split()]
    except OSError:
        return []


# ---- taken away


def test_without_the_kernels_types_no_core_program_can_be_loaded() -> None:
    script = f'mount -t tmpfs none {KERNEL_BTF.parent} && exec "$0" "$@"'
    run = examine(under=["unshare", "--mount", "sh", "-c", script])
    assert (run.status, run.missing()) == (1, ["BTF"])
    assert "No such file" in run.detail("BTF")
    for what in ("tp_btf", "iter", "kernel headers"):
        assert run.state(what) == "warn"
    assert run.state("raw_tp") == "ok"
    assert run.state("snapshot program") == "ok"


def test_a_file_that_is_no_btf_is_told(tmp_path: Path) -> None:
    wrong = tmp_path / "vmlinux"
    wrong.write_bytes(b"\x7fELF" + bytes(100))
    script = f'mount --bind {wrong} {KERNEL_BTF} && exec "$0" "$@"'
    run = examine(under=["unshare", "--mount", "sh", "-c", script])
    assert run.missing() == ["BTF"]
    assert "its magic is 0x457f" in run.detail("BTF")


def test_without_root_it_says_what_it_did_not_look_at(tmp_path: Path) -> None:
    run = examine(under=["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"], HOME=str(tmp_path))
    assert (run.status, run.missing()) == (1, ["user"])
    assert "root" in run.found["user"]["remedy"]
    blind = {line["what"] for line in run.lines if not line["looked"]}
    assert {"attaching", "map kinds", "snapshot program", "reading", "code", "state directory"} <= blind
    assert run.summary["not_looked_at"] == len(blind)
    for what in ("release", "BTF", "libbpf", "packages", "configuration"):
        assert run.state(what) == "ok"


@pytest.mark.parametrize("lacking", ["setpcap", "kill", "setuid"])
def test_a_capability_that_is_lacking_is_named(lacking: str) -> None:
    run = examine(under=["setpriv", f"--bounding-set=-{lacking}", "--inh-caps=-all"])
    assert run.status == 1
    assert f"CAP_{lacking.upper()}" in run.missing()
    assert lacking.upper() not in run.detail("capabilities").split(", ")
    can_become_worker = lacking == "kill"
    assert (run.state("reading as worker") == "ok") == can_become_worker
    assert (run.state("code") == "ok") == can_become_worker


def test_without_the_right_to_mount_the_remedy_is_told() -> None:
    run = examine(under=["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-all"])
    assert {"CAP_SYS_ADMIN", "code"} & set(run.missing()) == {"CAP_SYS_ADMIN"}
    if not Path("/sys/kernel/tracing/events").exists():
        assert "refused" in run.detail("tracefs")
        assert run.state("tracefs") == "missing"
        assert "No such file" in run.detail("tracepoint")
    assert run.state("raw_tp") == "ok"


def test_root_of_a_user_namespace_is_told_from_root() -> None:
    run = examine(under=["unshare", "--user", "--map-root-user"])
    assert run.status == 1
    assert {"container", "map kinds", "tracing"} <= set(run.missing())
    assert "user namespace of its own" in run.detail("container")
    # All kinds are refused alike, which is said once.
    assert [line["what"] for line in run.lines if line["area"] == "attaching"] == ["tracing"]


def test_a_pid_namespace_is_a_warning() -> None:
    run = examine(under=["unshare", "--pid", "--fork", "--mount-proc"])
    assert (run.status, run.state("container")) == (0, "warn")
    assert "pid namespace" in run.detail("container")


def deny_bpf() -> None:
    """seccomp: bpf(2) gives EPERM, as under a container runtime's usual profile."""
    instructions = ((0x20, 0, 0, 0), (0x15, 0, 1, _number()), (0x06, 0, 0, 0x50001), (0x06, 0, 0, 0x7FFF0000))

    class Instruction(ctypes.Structure):
        _fields_ = (
            ("code", ctypes.c_uint16),
            ("jt", ctypes.c_uint8),
            ("jf", ctypes.c_uint8),
            ("k", ctypes.c_uint32),
        )

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_uint16), ("filter", ctypes.POINTER(Instruction)))

    filter = (Instruction * 4)(*(Instruction(*one) for one in instructions))
    libc = ctypes.CDLL(None)
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
    assert libc.prctl(22, 2, ctypes.byref(Program(4, filter)), 0, 0) == 0  # PR_SET_SECCOMP, MODE_FILTER


def test_a_seccomp_filter_that_denies_bpf_shows() -> None:
    run = examine(first=deny_bpf)
    assert run.status == 1
    assert {"map kinds", "tracing", "reading"} <= set(run.missing())
    assert run.state("seccomp") == "warn"
    assert "Operation not permitted" in run.detail("map kinds")


def test_few_open_files_are_a_warning() -> None:
    run = examine(first=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256)))
    assert (run.status, run.state("open files")) == (0, "warn")
    assert "256" in run.detail("open files")


def test_without_libbpf_the_package_is_named(here: Run) -> None:
    library = here.detail("libbpf").partition(", ")[2]
    script = f'mount --bind /dev/null {library} && exec "$0" "$@"'
    run = examine(under=["unshare", "--mount", "sh", "-c", script])
    assert (run.status, run.missing()) == (1, ["libbpf"])
    assert "apt-get install libbpf1" in run.found["libbpf"]["remedy"]
    assert run.state("snapshot program") == "warn"
    assert run.detail("reading as worker").endswith(": mmap, batch, key")


def test_without_clang_a_host_with_objects_is_well() -> None:
    for source in core_sources(tools.SNAPSHOT.parent, *tools._plugin_folders()):
        object_for(source)  # beside it, as in a wheel
    run = examine(PATH="/nonexistent")
    assert (run.status, run.state("clang")) == (0, "warn")
    assert "not on PATH, and not needed" in run.detail("clang")


def test_without_clang_a_source_that_must_be_compiled_is_named(tmp_path: Path) -> None:
    for package in ("agent/bpfleet", "bpf/bpfleet_bpf"):
        place = Path(doctor.__file__).parents[3] / package
        shutil.copytree(place, tmp_path / place.name, ignore=shutil.ignore_patterns("__pycache__"))
    header = next((tmp_path / "bpfleet_bpf/include").rglob("*.h"))
    header.write_text(header.read_text() + "\n/* changed */\n")
    objects = sorted((tmp_path / "bpfleet_bpf").glob("*.o*"))
    tmp_path.chmod(0o755)
    program = [sys.executable, "-c", "from bpfleet.cli import main; main()"]
    run = examine(program=program, PATH="/nonexistent", PYTHONPATH=str(tmp_path))
    assert run.missing() == ["clang"]
    assert "not on PATH, and" in run.detail("clang")
    assert "snapshot.bpf.c" in run.detail("clang")
    assert "there is no clang" in run.detail("snapshot program")
    assert sorted((tmp_path / "bpfleet_bpf").glob("*.o*")) == objects


def test_a_bcc_that_can_not_be_imported_says_why(tmp_path: Path) -> None:
    (tmp_path / "bcc.py").write_text("raise ImportError('libbcc.so.0: cannot open shared object file')")
    run = examine(PYTHONPATH=str(tmp_path))
    assert (run.status, run.state("bcc")) == (0, "warn")
    assert "libbcc.so.0: cannot open" in run.detail("bcc")
    assert "python3-bpfcc" in run.found["bcc"]["remedy"]


def test_the_unrelated_package_called_bcc_is_told(tmp_path: Path) -> None:
    (tmp_path / "bcc.py").write_text("class Lattice: ...")
    assert "unrelated package" in examine(PYTHONPATH=str(tmp_path)).detail("bcc")


def test_headers_of_another_kernel_are_a_warning(tmp_path: Path) -> None:
    for name, text in (
        ("linux/kconfig.h", ""),
        ("generated/utsrelease.h", '#define UTS_RELEASE "4.1.0-old"'),
    ):
        (tmp_path / "include" / name).parent.mkdir(parents=True)
        (tmp_path / "include" / name).write_text(text)
    run = examine(BCC_KERNEL_SOURCE=str(tmp_path))
    assert run.state("kernel headers") == "warn"
    assert "4.1.0-old" in run.detail("kernel headers")


# ---- the agent's own places


@pytest.fixture
def agent_area(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., dict[str, Finding]]:
    """What is found in the area `agent` alone, for a configuration whose worker is nobody."""

    def found(text: str = "[collectors.execve]\n[sinks.stdout]", agent: str = "") -> dict[str, Finding]:
        user = "" if "user" in agent else "user = 'nobody'\n"
        path = config_file(tmp_path, text, user + agent)
        return {one.what: one for one in doctor.examine(path)}

    monkeypatch.setattr(doctor, "AREAS", {"agent": doctor.AREAS["agent"]})
    return found


@pytest.mark.parametrize(
    ("agent", "text", "what", "told"),
    [
        ("", "[colectors.execve]", "configuration", "no table [colectors]"),
        ("", "", "configuration", "enables no collector"),
        ("intervall = '1s'", "[collectors.execve]", "configuration", "intervall"),
        ("user = 'nosuchuser'", "[collectors.execve]", "worker's user", "no user 'nosuchuser'"),
        ("user = 'root'", "[collectors.execve]", "worker's user", "which is root"),
        ("state = '/proc/nowhere/state'", "[collectors.execve]", "state directory", "can't be made in /proc"),
        ("state = '/etc/passwd'", "[collectors.execve]", "state directory", "no directory"),
        ("state = '/var/lib'", "[collectors.execve]", "state directory", "as user nobody"),
    ],
)
def test_a_configuration_that_can_not_run_is_told(
    agent: str, text: str, what: str, told: str, agent_area: Callable[..., dict[str, Finding]]
) -> None:
    found = agent_area(text, agent)
    assert [one.what for one in found.values() if one.state is State.MISSING] == [what]
    assert told in found[what].detail
    assert found[what].remedy


def test_a_configuration_that_is_not_there_is_told(tmp_path: Path) -> None:
    run = examine("--config", tmp_path / "gone.toml")
    assert (run.status, run.missing()) == (1, ["configuration"])
    assert str(tmp_path / "gone.toml") in run.detail("configuration")


def test_the_state_directory_is_found_but_not_made(
    agent_area: Callable[..., dict[str, Finding]], tmp_path: Path
) -> None:
    state = tmp_path / "state"
    assert "will be made" in agent_area()["state directory"].detail
    assert not state.exists()
    state.mkdir()
    assert agent_area()["state directory"].state is State.MISSING
    os.chown(state, 65534, 65534)
    found = agent_area()
    assert (found["state directory"].state, found["code"].state) == (State.OK, State.OK)
    # pytest's folders are root's alone, so the worker gets there by mounts of its own.
    assert "by mounts of the worker's own" in found["code"].detail
    assert list(state.iterdir()) == []


def test_the_agents_id_is_read_as_the_worker_would(
    agent_area: Callable[..., dict[str, Finding]], tmp_path: Path
) -> None:
    place = tmp_path / "state/agent-id"
    place.parent.mkdir()
    os.chown(place.parent, 65534, 65534)
    assert "none yet" in agent_area()["agent id"].detail
    place.write_text("12345678-1234-5678-1234-567812345678\n")
    assert agent_area()["agent id"].detail == "12345678-1234-5678-1234-567812345678"
    place.chmod(0o600)
    assert "Permission denied" in agent_area()["agent id"].detail
    place.chmod(0o644)
    place.write_text("mine\n")
    assert agent_area()["agent id"].state is State.WARN


def test_code_that_the_worker_can_not_run_is_told(
    agent_area: Callable[..., dict[str, Finding]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "msgpack.py").write_text("raise OSError('this one is broken')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)  # the supervisor's own path, which says what the worker needs
    found = agent_area()
    assert found["code"].state is State.MISSING
    assert "this one is broken" in found["code"].detail


# ---- other kernels and hosts: judged by what they would say, since they can't be had here


@pytest.mark.parametrize(
    ("release", "state", "lacks"),
    [
        ("4.19.0-27-amd64", "missing", ["batch", "walks", "without CAP_BPF"]),
        ("5.10.0-33-cloud", "warn", ["walks", "without CAP_BPF"]),
        ("5.15.0", "warn", ["without CAP_BPF"]),
        ("6.1.0-30-amd64", "ok", []),
        ("6.18.44-cloud", "ok", []),
        ("10.0", "ok", []),
    ],
)
def test_old_releases_say_what_they_lack(release: str, state: str, lacks: list[str]) -> None:
    finding = judge_release(release)
    assert finding.state == state
    lacking = finding.detail.partition("lacks ")[2]
    assert [name for name in ("batch reads", "walks", "without CAP_BPF") if f"{name}" in lacking] == [
        name.replace("batch", "batch reads") for name in lacks
    ]


@pytest.mark.parametrize("release", ["4.19", "5.4.0", "5.15.0-91-generic", "6.0.0", "6.1.0-30-amd64", "10.2"])
def test_the_worker_is_tried_with_the_capability_that_the_supervisor_would_leave_it(release: str) -> None:
    assert (release_numbers(release) < reading.NO_CAPABILITY_SINCE) == _needs_cap_bpf(release)


def test_reading_with_cap_bpf_alone_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """The release is pretended; the capability and the reading are real."""
    monkeypatch.setattr(reading, "release_numbers", lambda: (5, 15))
    found = in_child(
        lambda: [(one.what, one.state.value, one.detail) for one in reading.reading(subject_of(None))]
    )
    states = {what: state for what, state, _ in found}
    assert (states["reading as worker"], states["CAP_BPF"]) == ("ok", "warn")
    assert any("with CAP_BPF alone reads maps by fd: mmap, walk" in detail for _, _, detail in found)


def test_settings_of_other_hosts_are_judged() -> None:
    assert judge_lockdown("none integrity [confidentiality]\n").state is State.MISSING
    assert judge_lockdown("none [integrity] confidentiality\n").state is State.OK
    assert judge_kptr_restrict("kptr_restrict", 2).state is State.WARN
    assert judge_unprivileged_bpf("unprivileged_bpf_disabled", 0).state is State.WARN
    config = judge_config(KernelConfig("/boot/config", {"BPF_SYSCALL": "y", "KPROBES": "y"}))
    assert config.state is State.WARN
    assert "BPF_EVENTS (no tracing by BPF)" in config.detail
    assert "KPROBES" not in config.detail
    (alike,) = judge_namespaces({"user": 0xEFFFFFFD, "pid": 0xEFFFFFFC}, [])
    assert alike.state is State.OK


# ---- its own failures


def test_an_area_that_crashes_costs_only_what_it_had_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    crashing = ModuleType("bpfleet.doctor.crashing")

    def fine(subject: Subject) -> Iterator[Finding]:
        yield ok("fine", "before the crash")

    def wrong(subject: Subject) -> Iterator[Finding]:
        raise KeyError("a defect")

    def crash(subject: Subject) -> Iterator[Finding]:
        os.kill(os.getpid(), signal.SIGUSR1)
        yield ok("never", "")

    vars(crashing).update(fine=fine, wrong=wrong, crash=crash)
    monkeypatch.setitem(sys.modules, crashing.__name__, crashing)
    monkeypatch.setattr(
        doctor,
        "AREAS",
        {"odd": ("crashing", ("fine", "wrong", "crash")), "kernel": ("kernel", ("release",))},
    )
    first, defect, rest, release = doctor.examine()
    assert (first.what, first.state) == ("fine", State.OK)
    assert not defect.looked
    assert "KeyError: 'a defect'" in defect.detail
    assert "SIGUSR1" in rest.detail
    assert release.what == "release"


def test_a_child_that_hangs_or_raises_is_told() -> None:
    with pytest.raises(ChildFailed, match=r"took longer than 0\.2 s"):
        in_child(lambda: time.sleep(60), seconds=0.2)
    with pytest.raises(ChildFailed, match=r"test_doctor\.py:\d+: ZeroDivisionError"):
        in_child(lambda: 1 // 0)
    child = Child(lambda: iter([1, os.getpid()]), seconds=10)
    first, pid = child.results()
    assert first == 1
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


# ---- how it is printed


def test_a_pipe_gets_a_line_for_each_finding(here: Run, tmp_path: Path) -> None:
    text = said_by(BPFLEET, "doctor", "--config", str(config_file(tmp_path)))
    *lines, summary = text.splitlines()
    assert "\x1b" not in text
    assert [line.split()[:2] for line in lines] == [[line["area"], line["state"]] for line in here.lines]
    starts = {line.index(found["detail"][:8]) for line, found in zip(lines, here.lines, strict=True)}
    assert len(starts) == 1
    assert summary.startswith(f"{here.summary['ok']} ok, {here.summary['warn']} warnings, 0 missing")


def test_a_terminal_gets_tables_with_colour() -> None:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"}
    environment.pop("NO_COLOR", None)
    with subprocess.Popen([BPFLEET, "doctor"], stdout=theirs, stderr=theirs, env=environment):
        os.close(theirs)
        said = b""
        try:
            while part := os.read(ours, 4096):
                said += part
        except OSError:  # how Linux says that the other end of a terminal is closed
            pass
    os.close(ours)
    text = said.decode()
    assert "\x1b[32mok" in text
    assert "\x1b[1mkernel" in text
    assert "Traceback" not in text
