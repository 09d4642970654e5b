"""Simulated agents for the fleet: real sockets, real frames, the delivery protocol, many in one thread."""

from __future__ import annotations

import random
import select
import struct
import sys
import time
import uuid
from array import array
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import zmq

from bpfleet.errors import WireError
from bpfleet.wire import Column, Origin, Schema, Snapshot, compress, encode_schema, encode_snapshot
from bpfleet.wire.messages import Ack, Bye, Data, Hello, Nack, Welcome, decode, encode

__all__ = ["Fleet", "Options"]

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
    keys: Sequence[tuple[bytes, bytes]] = ()
    """(public, secret) of each agent, for CURVE."""


class Template:
    """One map's snapshot as bytes, with the places of what changes."""

    def __init__(self, number: int, rows: int, agent: str, boot: str) -> None:
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
            origin=Origin(agent, "bench-host", boot, _BASE),
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
    number: int
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


@dataclass(slots=True)
class Seen:
    """What a fleet has seen; times are CLOCK_MONOTONIC's seconds."""

    acked: int = 0
    resent: int = 0
    lost: int = 0
    sessions: int = 0
    failures: int = 0
    latencies: array[float] = field(default_factory=lambda: array("d"))
    """From a record's making to its ACK, in seconds."""
    acked_at: array[float] = field(default_factory=lambda: array("d"))
    welcomed_at: array[float] = field(default_factory=lambda: array("d"))
    samples: list[tuple[float, int, int, int]] = field(default_factory=list)
    """Once a second: (time, agents in session, records not acknowledged, records acknowledged)."""
    cpu: float = 0.0


class Fleet:
    """All the agents, in one thread with one epoll."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        self._context.set(zmq.MAX_SOCKETS, options.agents * 2 + 100)
        self._epoll = select.epoll()
        agent, boot = str(uuid.uuid4()), str(uuid.uuid4())
        self._templates = [Template(n, options.rows, agent, boot) for n in range(options.maps)]
        self._by_fd: dict[int, SimulatedAgent] = {}
        now = time.monotonic()
        step = options.interval / max(1, options.agents)
        self.agents = [
            SimulatedAgent(str(uuid.uuid4()), uuid.uuid4().hex, now + options.lead + n * step, n)
            for n in range(options.agents)
        ]
        self._level = 3 if options.compression == "zstd" else None
        self.seen = Seen()
        self._welcomed = self._waiting = 0

    def run(self) -> None:
        """Until the duration is over and everything is acknowledged, or a minute later."""
        began = time.monotonic()
        for agent in self.agents:
            self._connect(agent)
        ends = began + self._options.duration
        self._told = sampled = began
        due = deque(self.agents)
        while True:
            now = time.monotonic()
            while due and due[0].next_tick <= now and now < ends:
                agent = due.popleft()
                self._tick(agent, now)
                agent.next_tick += self._options.interval
                due.append(agent)
            for fd, _ in self._epoll.poll(0.01, 1000):
                if (ready := self._by_fd.get(fd)) is not None:
                    self._receive(ready)
            if now - sampled >= 1:
                sampled = now
                self.seen.samples.append((now, self._welcomed, self._waiting, self.seen.acked))
                self._check_deadlines(now)
            if now - self._told >= 5:
                self._progress(now)
            if now >= ends and (now > ends + 60 or not self._waiting):
                break
        self.seen.lost += self._waiting

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
        if self._options.keys:
            socket.curve_publickey, socket.curve_secretkey = self._options.keys[agent.number]
            socket.curve_serverkey = self._options.server_key.encode()
        socket.connect(self._options.endpoint)
        agent.fd = int(socket.getsockopt(zmq.FD))
        self._by_fd[agent.fd] = agent
        self._epoll.register(agent.fd, select.EPOLLIN | select.EPOLLET)
        agent.sent, agent.credit = -1, 0
        agent.deadline = time.monotonic() + _HELLO_TIMEOUT
        self.seen.sessions += 1
        self._receive(agent)

    def _disconnect(self, agent: SimulatedAgent) -> None:
        self._epoll.unregister(agent.fd)
        del self._by_fd[agent.fd]
        assert agent.socket is not None
        agent.socket.close(linger=100)
        agent.socket = None
        self._welcomed -= agent.welcomed
        agent.welcomed = False

    def _fail(self, agent: SimulatedAgent) -> None:
        """The session is over; another begins after a pause that is random up to its whole length."""
        self._disconnect(agent)
        self.seen.failures += 1
        agent.failures += 1
        longest = min(30.0, _BACKOFF * 2 ** (agent.failures - 1))
        agent.deadline = time.monotonic() + random.uniform(0, longest)

    def _tick(self, agent: SimulatedAgent, now: float) -> None:
        for number in range(self._options.maps):
            agent.last += 1
            agent.pending.append((agent.last, number, now))
        self._waiting += self._options.maps
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
            events = int(agent.socket.getsockopt(zmq.EVENTS))
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
            self._welcomed += not agent.welcomed
            self.seen.welcomed_at.append(time.monotonic())
            agent.welcomed, agent.credit, agent.failures = True, message.credit, 0
            agent.sent = message.durable
            self._settle(agent, message.durable)
            for template in self._templates:
                self._send(agent, encode(Data(spool=agent.spool, seq=0, frame=template.schema)))
            agent.deadline = time.monotonic() + _ACK_TIMEOUT
            self.seen.resent += len(agent.pending)
        elif isinstance(message, Ack):
            agent.credit = message.credit
            self._settle(agent, message.seq)
        elif isinstance(message, Nack) and message.fatal:
            kept = deque(one for one in agent.pending if one[0] != message.seq)
            self.seen.lost += len(agent.pending) - len(kept)
            self._waiting -= len(agent.pending) - len(kept)
            agent.pending = kept
        else:
            self._fail(agent)
            return
        self._deliver(agent)

    def _settle(self, agent: SimulatedAgent, seq: int) -> None:
        now, seen = time.monotonic(), self.seen
        while agent.pending and agent.pending[0][0] <= seq:
            seen.latencies.append(now - agent.pending.popleft()[2])
            seen.acked_at.append(now)
            seen.acked += 1
            self._waiting -= 1
            agent.deadline = now + _ACK_TIMEOUT

    def _check_deadlines(self, now: float) -> None:
        for agent in self.agents:
            if agent.socket is None:
                if now >= agent.deadline:
                    self._connect(agent)
            elif now >= agent.deadline and (agent.pending or not agent.welcomed):
                self._fail(agent)

    def _progress(self, now: float) -> None:
        self._told = now
        text = f"{self._welcomed:,} of {len(self.agents):,} agents, {self.seen.acked:,} acked"
        print(f"{text}, {self._waiting:,} waiting", file=sys.stderr, flush=True)
