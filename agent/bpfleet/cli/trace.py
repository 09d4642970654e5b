"""`bpfleet trace`: what programs print with bpf_printk, for their authors."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click

from bpfleet.cli.supervised import config_option, duration, is_path, supervisor_arguments
from bpfleet.cli.trace_instance import TraceInstance
from bpfleet.cli.trace_lines import Lines, formats_of

__all__ = ["command"]

_END_SECONDS = 15.0


@click.command("trace")
@click.argument("collector", metavar="[COLLECTOR]", required=False)
@config_option
@click.option("--duration", "seconds", callback=duration, metavar="TIME", help="Stop after this time.")
@click.option("--all", "everything", is_flag=True, help="Also what other programs on this host print.")
def command(collector: str | None, path: Path | None, seconds: float | None, everything: bool) -> int:
    """Show what programs print with bpf_printk, line by line.

    COLLECTOR is a collector's name, or the path of a .bpf.o or .bpf.c: it is loaded and attached, and its
    lines are shown, until Ctrl-C. Without it: the lines of every program that is loaded on this host.
    """
    from bpfleet.supervisor.privileges import die_with_parent, require_capabilities

    require_capabilities()
    # Told to end from elsewhere, it tidies up as after Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with TraceInstance() as instance:
        if collector is None:
            return _show(instance, None, seconds, everything=True)
        named = str(Path(collector).absolute()) if is_path(collector) else collector
        arguments = supervisor_arguments(path, {"mode": "trace", "collectors": [named]})
        with subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, preexec_fn=lambda: die_with_parent(signal.SIGTERM)
        ) as agent:
            try:
                return _show(instance, agent, seconds, everything=everything)
            finally:
                _end(agent)


def _show(
    instance: TraceInstance, agent: subprocess.Popen[bytes] | None, seconds: float | None, *, everything: bool
) -> int:
    """Print lines until the time is over, Ctrl-C, or the agent ends; returns the exit code."""
    lines = Lines(everything=everything)
    end = time.monotonic() + (seconds if seconds is not None else float("inf"))
    try:
        for data in _pieces(instance.pipe, end):
            if agent is not None and lines.formats is None:
                lines.formats = formats_of(agent.pid)
            for line in lines.take(data):
                click.echo(line)
            sys.stdout.flush()
            if agent is not None and agent.poll() is not None:
                return agent.returncode if agent.returncode > 0 else 1
    except KeyboardInterrupt:
        pass
    for said in lines.notes():
        click.echo(f"bpfleet: {said}", err=True)
    return 0


def _pieces(pipe: int, end: float) -> Iterator[bytes]:
    """What comes out of the pipe; empty now and then where nothing does."""
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    while (left := end - time.monotonic()) > 0:
        ready = poll.poll(min(left, 0.2) * 1000)
        try:
            yield os.read(pipe, 1 << 16) if ready else b""
        except BlockingIOError:
            yield b""


def _end(agent: subprocess.Popen[bytes]) -> None:
    # After Ctrl-C the terminal has told it already.
    agent.send_signal(signal.SIGTERM)
    try:
        agent.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        agent.kill()
