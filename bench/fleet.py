"""A fleet of simulated agents against a running aggregator: `python -m bench.fleet --agents 10000`.

Each agent is a DEALER socket of its own that speaks the delivery protocol: HELLO, schemas, records within the
credit, ACKs, BYE, and a new socket after a deadline. Its snapshots are bytes made once, with agent, seq and
time written over, so that thousands of agents cost little beside the aggregator that is measured. Nothing of
the wire is simulated. A record keeps its number until it is acknowledged: what is `lost` was refused, or
still waited a minute after the end. Where one process may not open enough files there are several.
"""

from __future__ import annotations

import argparse
import random
import resource
import select
import struct
import sys
import time
import uuid
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import zmq

from bpfleet.errors import WireError
from bpfleet.settings import Duration
from bpfleet.wire import Column, Origin, Schema, Snapshot, compress, encode_schema, encode_snapshot
from bpfleet.wire.messages import Ack, Bye, Data, Hello, Nack, Welcome, decode, encode

__all__ = ["Fleet", "Options", "main"]

_BASE = 1 << 40
"""Numbers from here on take nine bytes in msgpack, so that one can be written over another."""
_FILES_PER_AGENT, _FILES_BESIDE = 2, 200
_HELLO_TIMEOUT, _ACK_TIMEOUT, _BACKOFF = 20.0, 60.0, 5.0
_U64 = struct.Struct(">Q")


@dataclass(frozen=True, slots=True)
class Options:
    """What is simulated."""

    endpoint: str
    agents: int = 1000
    interval: float = 10.0
    maps: int = 5
    rows: int = 100
    duration: float = 60.0
    window: int = 8
    lead: float = 3.0
    """Seconds for connecting, before the first records."""
    compression: str = "none"
    server_key: str = ""
    pid: int = 0
    """The aggregator's, to measure it."""


class Template:
    """One map's snapshot as bytes, with the places of what changes."""

    def __init__(self, number: int, rows: int, agent: str) -> None:
        columns = (
            Column("pid", "key", "u32", None, "label"),
            Column("comm", "key", "char", 16, "label"),
            Column("cpu_ns", "value", "u64", None, "counter"),
        )
        schema = Schema(f"fleet{number}", "1", "processes", "", columns)
        made = np.random.default_rng(number)
        names = np.array([b"kworker/u8:2", b"python3", b"sshd", b"systemd"], "S16")
        snapshot = Snapshot(
            schema=schema,
            origin=Origin(agent, "bench-host", str(uuid.uuid4()), _BASE),
            generation=_BASE,
            seq=_BASE,
            t0=_BASE,
            t1=_BASE + 1,
            wall_offset=time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME),
            rows=rows,
            columns=[
                made.integers(1, 1 << 22, rows, dtype=np.uint32),
                names[made.integers(0, len(names), rows)],
                made.integers(0, 1 << 40, rows, dtype=np.uint64),
            ],
            method="walk",
            complete=True,
            entries=rows,
            max_entries=10240,
            losses={"failed_insert": 0},
        )
        frame = encode_schema(schema)
        self.schema = bytes(frame.data)
        (made_frame,) = encode_snapshot(snapshot, frame)
        self._bytes = bytearray(made_frame.data)
        self._agent = self._bytes.index(agent.encode())
        self._seq, self._t0, self._t1 = (
            self._bytes.index(bytes([0xA0 | len(name)]) + name + b"\xcf") + len(name) + 2
            for name in (b"seq", b"t0", b"t1")
        )

    def frame(self, agent: bytes, seq: int) -> bytes:
        """The record `seq` of an agent, read now."""
        data, now = self._bytes, time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        data[self._agent : self._agent + len(agent)] = agent
        _U64.pack_into(data, self._seq, seq)
        _U64.pack_into(data, self._t0, now)
        _U64.pack_into(data, self._t1, now)
        return bytes(data)


@dataclass(slots=True, eq=False)
class SimulatedAgent:
    """One agent: a spool of records that are not acknowledged, and a session or none."""

    id: str
    spool: str
    next_tick: float
    socket: zmq.Socket[bytes] | None = None
    fd: int = -1
    welcomed: bool = False
    credit: int = 0
    last: int = 0
    """The highest seq given."""
    sent: int = 0
    """The highest seq sent in this session."""
    pending: deque[tuple[int, int, float]] = field(default_factory=deque)
    """(seq, map, when it was made), not acknowledged."""
    deadline: float = 0.0
    failures: int = 0


class Fleet:
    """All the agents, in one thread with one epoll."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        self._context.set(zmq.MAX_SOCKETS, options.agents * 2 + 100)
        self._epoll = select.epoll()
        self._templates = [Template(n, options.rows, str(uuid.uuid4())) for n in range(options.maps)]
        self._by_fd: dict[int, SimulatedAgent] = {}
        now = time.monotonic()
        step = options.interval / max(1, options.agents)
        self.agents = [
            SimulatedAgent(str(uuid.uuid4()), uuid.uuid4().hex, now + options.lead + n * step)
            for n in range(options.agents)
        ]
        self._client_keys = zmq.curve_keypair() if options.server_key else None
        self.acked = self.resent = self.lost = self.sessions = self.failures = 0
        self.latencies: list[float] = []
        self._level = 3 if options.compression == "zstd" else None

    def run(self) -> None:
        """Until the duration is over and everything is acknowledged, or a minute later."""
        began = time.monotonic()
        for agent in self.agents:
            self._connect(agent)
        ends = began + self._options.duration
        self._told = began
        due = deque(self.agents)
        while True:
            now = time.monotonic()
            while due and due[0].next_tick <= now and now < ends:
                agent = due.popleft()
                self._tick(agent, now)
                agent.next_tick += self._options.interval
                due.append(agent)
            for fd, _ in self._epoll.poll(0.01, 1000):
                agent = self._by_fd.get(fd)
                if agent is not None:
                    self._receive(agent)
            if now - self._told >= 5:
                self._check_deadlines(now)
                self._progress(now)
            if now >= ends and (now > ends + 60 or not any(agent.pending for agent in self.agents)):
                break
        self.lost += sum(len(agent.pending) for agent in self.agents)

    def close(self) -> None:
        """BYE from everybody."""
        for agent in self.agents:
            if agent.socket is not None:
                self._send(agent, encode(Bye()))
                self._disconnect(agent)
        self._epoll.close()
        self._context.term()

    def _connect(self, agent: SimulatedAgent) -> None:
        socket = agent.socket = self._context.socket(zmq.DEALER)
        socket.linger, socket.immediate, socket.sndhwm = 0, True, 64
        socket.reconnect_ivl = random.randint(100, 1000)
        if self._client_keys is not None:
            socket.curve_publickey, socket.curve_secretkey = self._client_keys
            socket.curve_serverkey = self._options.server_key.encode()
        socket.connect(self._options.endpoint)
        agent.fd = socket.getsockopt(zmq.FD)
        self._by_fd[agent.fd] = agent
        self._epoll.register(agent.fd, select.EPOLLIN | select.EPOLLET)
        agent.welcomed, agent.sent, agent.credit = False, -1, 0
        agent.deadline = time.monotonic() + _HELLO_TIMEOUT
        self.sessions += 1
        self._receive(agent)

    def _disconnect(self, agent: SimulatedAgent) -> None:
        self._epoll.unregister(agent.fd)
        del self._by_fd[agent.fd]
        assert agent.socket is not None
        agent.socket.close(linger=100)
        agent.socket = None

    def _fail(self, agent: SimulatedAgent) -> None:
        """The session is over; another begins after a pause that is random up to its whole length."""
        self._disconnect(agent)
        self.failures += 1
        agent.failures += 1
        longest = min(30.0, _BACKOFF * 2 ** (agent.failures - 1))
        agent.deadline = time.monotonic() + random.uniform(0, longest)

    def _tick(self, agent: SimulatedAgent, now: float) -> None:
        for number in range(self._options.maps):
            agent.last += 1
            agent.pending.append((agent.last, number, now))
        if agent.welcomed:
            if agent.pending[0][0] > agent.sent:
                agent.deadline = now + _ACK_TIMEOUT
            self._deliver(agent)
            # A send may have swallowed the edge that told of an answer.
            self._receive(agent)

    def _deliver(self, agent: SimulatedAgent) -> None:
        window = min(self._options.window, agent.credit)
        id_bytes = agent.id.encode()
        for index, (seq, number, _) in enumerate(agent.pending):
            if index >= window:
                return
            if seq <= agent.sent:
                continue
            frame = self._templates[number].frame(id_bytes, _BASE + seq)
            if self._level is not None:
                frame = compress(frame, self._level)
            if not self._send(agent, encode(Data(spool=agent.spool, seq=seq, frame=frame))):
                return
            agent.sent = seq

    def _send(self, agent: SimulatedAgent, parts: Sequence[bytes | memoryview]) -> bool:
        try:
            assert agent.socket is not None
            agent.socket.send_multipart(parts, zmq.DONTWAIT)
        except zmq.Again:
            return False
        return True

    def _receive(self, agent: SimulatedAgent) -> None:
        """Edge-triggered: everything that is there, and whatever can be sent now."""
        while agent.socket is not None:
            events = agent.socket.getsockopt(zmq.EVENTS)
            if agent.sent < 0 and events & zmq.POLLOUT:
                first = agent.pending[0][0] if agent.pending else agent.last + 1
                hello = Hello(agent=agent.id, spool=agent.spool, first=first, last=agent.last)
                if self._send(agent, encode(hello)):
                    agent.sent = 0
                continue
            if not events & zmq.POLLIN:
                return
            try:
                self._heard(agent, decode(agent.socket.recv_multipart(zmq.DONTWAIT)))
            except zmq.Again:
                return
            except WireError:
                self._fail(agent)

    def _heard(self, agent: SimulatedAgent, message: object) -> None:
        if isinstance(message, Welcome):
            if message.refused:
                self._fail(agent)
                return
            agent.welcomed, agent.credit, agent.failures = True, message.credit, 0
            agent.sent = message.durable
            self._settle(agent, message.durable)
            for template in self._templates:
                self._send(agent, encode(Data(spool=agent.spool, seq=0, frame=template.schema)))
            agent.deadline = time.monotonic() + _ACK_TIMEOUT
            self.resent += len(agent.pending)
        elif isinstance(message, Ack):
            agent.credit = message.credit
            self._settle(agent, message.seq)
        elif isinstance(message, Nack) and message.fatal:
            self.lost += 1
            agent.pending = deque(one for one in agent.pending if one[0] != message.seq)
        else:
            self._fail(agent)
            return
        self._deliver(agent)

    def _settle(self, agent: SimulatedAgent, seq: int) -> None:
        now = time.monotonic()
        while agent.pending and agent.pending[0][0] <= seq:
            self.latencies.append(now - agent.pending.popleft()[2])
            self.acked += 1
            agent.deadline = now + _ACK_TIMEOUT

    def _check_deadlines(self, now: float) -> None:
        for agent in self.agents:
            if agent.socket is None:
                if now >= agent.deadline:
                    self._connect(agent)
            elif now >= agent.deadline and (agent.pending or not agent.welcomed):
                self._fail(agent)

    def _progress(self, now: float) -> None:
        waiting = sum(len(agent.pending) for agent in self.agents)
        welcomed = sum(agent.welcomed and agent.socket is not None for agent in self.agents)
        self._told = now
        text = f"{welcomed:,} of {len(self.agents):,} agents, {self.acked:,} acked, {waiting:,} waiting"
        memory = f", aggregator {pss(self._options.pid) >> 20} MiB" if self._options.pid else ""
        print(text + memory, file=sys.stderr, flush=True)


def pss(pid: int) -> int:
    """The process's proportional memory, in bytes."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) << 10
    return 0


def cpu(pid: int) -> float:
    """Seconds of CPU that the process has used."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / 100


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one process of the fleet has seen."""

    acked: int
    resent: int
    lost: int
    sessions: int
    failures: int
    latencies: np.ndarray[tuple[int], np.dtype[np.float64]]
    cpu: float


def simulate(options: Options) -> Outcome:
    """Run these agents in this process."""
    fleet = Fleet(options)
    with suppress(KeyboardInterrupt):
        fleet.run()
    fleet.close()
    latencies = np.array(fleet.latencies)
    return Outcome(
        fleet.acked, fleet.resent, fleet.lost, fleet.sessions, fleet.failures, latencies, time.process_time()
    )


def shares(options: Options) -> list[Options]:
    """The fleet in as many processes as the limit on open files asks for."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    most = (hard - _FILES_BESIDE) // _FILES_PER_AGENT
    count = -(-options.agents // most)
    sizes = [len(range(n, options.agents, count)) for n in range(count)]
    return [replace(options, agents=size) for size in sizes]


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.fleet", description=__doc__)
    parser.add_argument("--endpoint", default="tcp://127.0.0.1:7700")
    parser.add_argument("--agents", type=int, default=1000)
    parser.add_argument("--interval", type=Duration.parse, default=Duration(10))
    parser.add_argument("--maps", type=int, default=5)
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--duration", type=Duration.parse, default=Duration(60))
    parser.add_argument("--window", type=int, default=8)
    parser.add_argument("--lead", type=Duration.parse, default=Duration(15), help="time to connect in")
    parser.add_argument("--compression", choices=["none", "zstd"], default="none")
    parser.add_argument("--server-key", default="", help="the aggregator's public key, for CURVE")
    parser.add_argument("--pid", type=int, default=0, help="the aggregator's process, to measure it")
    options = Options(**vars(parser.parse_args()))
    before = cpu(options.pid) if options.pid else 0.0
    began = time.monotonic()
    parts = shares(options)
    with ProcessPoolExecutor(len(parts), get_context("spawn")) as pool:
        outcomes = list(pool.map(simulate, parts))
    took = time.monotonic() - began
    report(outcomes, options, took)
    if options.pid:
        used = (cpu(options.pid) - before) / took
        print(f"aggregator: CPU {used:.2f} of a core, memory {pss(options.pid) >> 20} MiB at the end")
    return 1 if any(one.lost for one in outcomes) else 0


def report(outcomes: Sequence[Outcome], options: Options, took: float) -> None:
    """Print what came of it."""
    acked, seconds = sum(one.acked for one in outcomes), options.duration - options.lead
    print(
        f"{options.agents:,} agents, {options.maps} maps of {options.rows} rows every {options.interval:g} s"
    )
    print(f"acked {acked:,} records ({acked * options.rows:,} rows) in {seconds:.0f} s: ", end="")
    print(f"{acked / seconds:,.0f} records/s, {acked * options.rows / seconds:,.0f} rows/s")
    names = ("lost", "resent", "sessions", "failures")
    print(", ".join(f"{name} {sum(getattr(one, name) for one in outcomes):,}" for name in names))
    latencies = np.concatenate([one.latencies for one in outcomes])
    if len(latencies):
        p50, p99, most = np.quantile(latencies, [0.5, 0.99, 1]) * 1e3
        print(f"acknowledged after p50 {p50:.0f} ms, p99 {p99:.0f} ms, max {most:.0f} ms")
    print(f"fleet: CPU {sum(one.cpu for one in outcomes) / took:.2f} of a core, {len(outcomes)} processes")


if __name__ == "__main__":
    sys.exit(main())
