"""Runs the tests of this folder on Debian's stock kernels, each in a virtual machine over this file system.

    python tests/kernels/virtual_machines.py [--kernel 6.1] [PYTEST ARGUMENT…]

The machines run at once, on an emulated processor: nothing in them is fast, and nothing is compiled there
but bcc's programs. The file system is read-only to them, under a layer in memory; results come out through a
folder of their own, `build/kernels/RELEASE`: `junit.xml`, `facts.jsonl` (the cells of docs/kernels.md) and
`console.log`.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from table import differences, facts_of

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build" / "kernels"
PARTS = ("agent", "plugins", "bpf", "aggregator", "tests")
"""Folders of the checkout that are copied first, so that a change meanwhile does not reach what runs."""
VERSIONS = ("6.1", "6.12")
"""Kernels of Debian 12: its own, and the one of its backports."""
PATIENCE = 12
"""How many times longer than usual things may take in there."""

# KVM can't be counted on in a virtual machine. Without a processor named, numpy's AVX path gives wrong
# results under emulation.
_QEMU = "-cpu Nehalem -accel tcg,thread=multi,tb-size=512"
# What guards against other processors' flaws costs an emulated one most of its time: with a page table for
# the kernel alone every system call empties what stands for the TLB.
_KERNEL = "mitigations=off rcupdate.rcu_expedited=1"
_MACHINE = ("--force-9p", "--disable-kvm", "--force-initramfs", "--disable-microvm")

# The root file system once more, with a cache that virtme-ng's own mount lacks: without it every process
# reads its libraries anew from the host.
_GUEST = """
set -e
mkdir -p /run/below /run/above /run/all
mount -t 9p -o ro,trans=virtio,version=9p2000.L,access=any,cache=loose,msize=524288 everything /run/below
mount -t tmpfs -o size=1500m above /run/above
mkdir /run/above/changes /run/above/work
mount -t overlay -o lowerdir=/run/below,upperdir=/run/above/changes,workdir=/run/above/work all /run/all
for folder in proc sys dev; do mount --rbind /$folder /run/all/$folder; done
mount -t tmpfs tmp /run/all/tmp
chmod 1777 /run/all/tmp
case {root} in /tmp/*)  # then it has just been covered
	mkdir -p /run/all{root} /run/above/checkout /run/above/of_checkout
	above=upperdir=/run/above/checkout,workdir=/run/above/of_checkout
	mount -t overlay -o lowerdir=/run/below{root},$above checkout /run/all{root}
esac
for part in {parts}; do mount --bind /run/all{tree}/$part /run/all{root}/$part; done
mkdir -p /run/all/results
mount -t 9p -o rw,trans=virtio,version=9p2000.L,access=any,msize=524288 results /run/all/results
ip link set lo up
cd /
exec chroot /run/all /bin/sh -c {inner}
"""
_INNER = """
cd {root}
export HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin PYTHONDONTWRITEBYTECODE=1
export BPFLEET_TEST_PATIENCE={patience} BPFLEET_KERNEL_FACTS=/results/facts.jsonl
{python} -m pytest -p no:cacheprovider --timeout {timeout} --junit-xml /results/junit.xml {arguments}
echo $? >/results/exit
"""


@dataclass
class Machine:
    """One kernel in its machine."""

    version: str
    image: Path
    results: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def release(self) -> str:
        """What uname(1) says there."""
        return self.image.name.removeprefix("vmlinuz-")


def image_of(version: str) -> Path | None:
    """The newest stock kernel of a version; the cloud variants lack the file system that machines use."""
    form = re.compile(rf"vmlinuz-{re.escape(version)}\.\d+\S*-amd64")
    found = [one for one in Path("/boot").glob("vmlinuz-*") if form.fullmatch(one.name)]
    found = [one for one in found if "cloud" not in one.name and "-rt-" not in one.name]
    return max(found, key=lambda one: [int(part) for part in re.findall(r"\d+", one.name)], default=None)


def start(machine: Machine, arguments: list[str], seconds: int) -> None:
    """Boot it; the tests run by themselves and the machine ends with them."""
    shutil.rmtree(machine.results, ignore_errors=True)
    machine.results.mkdir(parents=True)
    tree = machine.results / "tree"
    for part in PARTS:
        shutil.copytree(ROOT / part, tree / part)
    inner = _INNER.format(
        root=ROOT,
        patience=PATIENCE,
        python=sys.executable,
        timeout=seconds,
        arguments=shlex.join(arguments),
    )
    script = machine.results / "guest.sh"
    script.write_text(_GUEST.format(inner=shlex.quote(inner), parts=" ".join(PARTS), tree=tree, root=ROOT))
    share = "-virtfs local,path={path},mount_tag={tag},id={tag},security_model=none,multidevs=remap"
    shared = (
        share.format(path="/", tag="everything")
        + ",readonly=on "
        + share.format(path=machine.results, tag="results")
    )
    command = [
        *("vng", "--run", str(machine.image), "--user", "root", "--memory", "3G", "--cpus", "2", *_MACHINE),
        *("--append", _KERNEL, f"--qemu-opts={_QEMU} {shared}", "--exec", f"sh {script}"),
    ]
    # virtme-ng runs other programs of its own package, by name.
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with open(machine.results / "console.log", "wb") as console:
        machine.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PATH": path},
            start_new_session=True,
        )


def on_this_kernel(arguments: list[str]) -> int:
    """The same tests here and now, for the table's last column."""
    results = BUILD / os.uname().release
    shutil.rmtree(results, ignore_errors=True)
    results.mkdir(parents=True)
    command = [sys.executable, "-m", "pytest", *(arguments or [str(HERE)])]
    facts = {"BPFLEET_KERNEL_FACTS": str(results / "facts.jsonl"), "BPFLEET_TEST_PATIENCE": "4"}
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **facts}, check=False).returncode


def wait(machines: list[Machine], seconds: int) -> None:
    """Until all have ended, or the time is over: what still runs then is killed, with all that it started."""
    deadline = time.monotonic() + seconds
    for one in machines:
        assert one.process is not None
        try:
            one.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            print(f"{one.release}: not done after {seconds} s, so it is ended", file=sys.stderr)
            end(one)


def broke_down(machine: Machine) -> bool:
    """Whether it ended by itself before its tests did: the emulator, or the kernel in it, and nothing says
    which."""
    assert machine.process is not None
    killed = machine.process.returncode == -signal.SIGKILL
    return not killed and not (machine.results / "exit").exists()


def end(machine: Machine) -> None:
    """Kill what still runs of it: it has a process group of its own."""
    if machine.process is not None and machine.process.poll() is None:
        os.killpg(machine.process.pid, signal.SIGKILL)
        machine.process.wait()


def report(machine: Machine) -> bool:
    """Print what became of the tests; returns whether all is well."""
    try:
        cases = list(ElementTree.parse(machine.results / "junit.xml").iter("testcase"))
    except (OSError, ElementTree.ParseError):
        print(f"\n{machine.release}: no results; the end of {machine.results / 'console.log'}:")
        print("".join((machine.results / "console.log").read_text(errors="replace").splitlines(True)[-30:]))
        return False
    failed = [one for one in cases if one.find("failure") is not None or one.find("error") is not None]
    reasons = Counter(str(skip.get("message")) for one in cases for skip in one.iter("skipped"))
    skipped = sum(reasons.values())
    print(
        f"\n{machine.release}: {len(cases) - len(failed) - skipped} passed, {len(failed)} failed, "
        f"{skipped} skipped"
    )
    for reason, count in sorted(reasons.items()):
        print(f"  skipped {count}: {reason}")
    for one in failed:
        print(f"  FAILED {one.get('classname')}::{one.get('name')}")
        for said in (*one.iter("failure"), *one.iter("error")):
            print("    " + "\n    ".join((said.text or "").splitlines()[-25:]))
    facts = machine.results / "facts.jsonl"  # not there where none of the tests chosen tells any
    changed = differences(machine.version, facts_of(facts)) if facts.exists() and not failed else []
    for line in changed:
        print(f"  docs/kernels.md is out of date (make kernels-table): {line}")
    return bool(cases) and not failed and not changed


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kernel", action="append", choices=VERSIONS, help="only this one")
    parser.add_argument("--seconds", type=int, default=2400, help="how long the machines may run")
    chosen, arguments = parser.parse_known_args()
    machines = []
    for version in chosen.kernel or VERSIONS:
        image = image_of(version)
        if image is None:
            print(f"there is no kernel {version} in /boot: make test-kernels installs it", file=sys.stderr)
            return 2
        name = image.name.removeprefix("vmlinuz-")
        machines.append(Machine(version, image, BUILD / name))
    make_ready()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
    try:
        for one in machines:
            start(one, arguments or [str(HERE)], chosen.seconds)
        here = None if chosen.kernel else on_this_kernel(arguments)
        wait(machines, chosen.seconds)
        broken = [one for one in machines if broke_down(one)]
        for one in broken:
            print(f"{one.release}: the machine broke down; it is started once more", flush=True)
            start(one, arguments or [str(HERE)], chosen.seconds)
        wait(broken, chosen.seconds)
    finally:
        for one in machines:
            end(one)
    well = [report(one) for one in machines]
    return 0 if all(well) and here in (0, None) else 1


def make_ready() -> None:
    """Compile ahead of time: nothing in a machine runs clang."""
    sys.path[:0] = [str(HERE), str(HERE.parent)]
    from bpfleet.loader.compile import core_sources, object_for
    from probes import build, build_go_program

    for source in core_sources(ROOT / "plugins", ROOT / "bpf"):
        object_for(source)
    build()
    build_go_program()


if __name__ == "__main__":
    sys.exit(main())
