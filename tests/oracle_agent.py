"""An agent of the oracle test, as a process of its own that may be killed at any moment.

    python oracle_agent.py spool|sink ENDPOINT[,ENDPOINT…] DIRECTORY STATE AGENT [SERVER-KEY PUBLIC SECRET]

`spool` speaks the protocol itself and keeps its records in SQLite until they are acknowledged, so that a kill
loses none. `sink` is the real zmq sink with its own, in STATE; in DIRECTORY is written down what it promised.
Each record has a number, in its rows. SIGTERM: no more records, deliver all that is there, exit.
"""

from __future__ import annotations

import faulthandler
import random
import signal
import sqlite3
import sys
import time
import uuid
from collections import deque
from contextlib import suppress
from pathlib import Path

import numpy as np
import zmq

from bpfleet import Duration, Frame, SinkContext, SinkError, SinkFull
from bpfleet.errors import WireError
from bpfleet.keys import KeyPair, write_pair
from bpfleet.wire import Column, Origin, Schema, Snapshot, encode_schema, encode_snapshot
from bpfleet.wire.messages import Ack, Bye, Data, Hello, Nack, Welcome, decode, encode
from bpfleet_plugins.sinks.zmq import ZmqSettings, ZmqSink

SCHEMA = Schema(
    "oracle",
    "1",
    "records",
    "",
    (
        Column("name", "key", "char", 16, "label"),
        Column("number", "value", "u64", None, "gauge"),
    ),
)
SCHEMA_FRAME = encode_schema(SCHEMA)
YEARS = 10 * 365 * 86400 * 10**9
PERIOD = 0.02
DEADLINE = 2.0
BATCH = 5

chosen = random.Random()


def clock_step(number: int) -> int:
    """By how much its host's clock is set when record `number` is made."""
    return {3: -YEARS, 7: YEARS}.get(number % 10, 0)


def record(agent: str, number: int) -> Frame:
    """Record `number`; now and then its host's clock has just been set by years."""
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    step = clock_step(number)
    snapshot = Snapshot(
        schema=SCHEMA,
        origin=Origin(agent, "oracle", "boot", 1),
        generation=1,
        seq=number,
        t0=now,
        t1=now,
        wall_offset=time.time_ns() - now + step,
        rows=1,
        columns=[np.array([b"oracle"], "S16"), np.array([number], "<u8")],
        method="walk",
        complete=True,
        entries=1,
        max_entries=1,
    )
    (made,) = encode_snapshot(snapshot, SCHEMA_FRAME)
    return made


class Spool:
    """Records on disk until they are acknowledged; each has the number that is its seq."""

    def __init__(self, directory: Path, agent: str) -> None:
        self._agent = agent
        self._replayed = (directory / "replayed").open("ab", 0)
        self._database = sqlite3.connect(directory / "spool.sqlite", isolation_level=None)
        # A killed process loses nothing that was written, synced or not.
        self._database.execute("PRAGMA synchronous = OFF")
        self._database.execute("CREATE TABLE IF NOT EXISTS pending (seq INTEGER PRIMARY KEY, frame)")
        self._database.execute("CREATE TABLE IF NOT EXISTS made (number INTEGER PRIMARY KEY)")
        self._database.execute("CREATE TABLE IF NOT EXISTS name (id)")
        if self._database.execute("SELECT count(*) FROM name").fetchone() == (0,):
            self._database.execute("INSERT INTO name VALUES (?)", (uuid.uuid4().hex,))
        (self.id,) = self._database.execute("SELECT id FROM name").fetchone()
        (self.last,) = self._database.execute("SELECT coalesce(max(number), 0) FROM made").fetchone()
        rows = self._database.execute("SELECT seq, frame FROM pending ORDER BY seq")
        self.pending: deque[tuple[int, bytes]] = deque(rows)
        self.latest: tuple[int, bytes] | None = None
        """The record acknowledged last."""

    def make(self) -> None:
        """One more record."""
        seq = self.last + 1
        frame = bytes(record(self._agent, seq).data)
        self._database.execute("BEGIN")
        self._database.execute("INSERT INTO made VALUES (?)", (seq,))
        self._database.execute("INSERT INTO pending VALUES (?, ?)", (seq, frame))
        self._database.execute("COMMIT")
        self.last = seq
        self.pending.append((seq, frame))

    def replay(self) -> tuple[int, bytes] | None:
        """The record acknowledged last, once more; now and then."""
        if self.latest is not None and chosen.random() < 0.01:
            self._replayed.write(b".")
            return self.latest
        return None

    def settled(self, seq: int) -> None:
        """Every record up to it is safe."""
        while self.pending and self.pending[0][0] <= seq:
            self.latest = self.pending.popleft()
        self._database.execute("DELETE FROM pending WHERE seq <= ?", (seq,))


class Session:
    """One socket and what was said on it."""

    def __init__(self, endpoint: str, keys: list[str], spool: Spool, agent: str) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.linger, self.socket.immediate = 0, True
        if keys:
            self.socket.curve_serverkey, self.socket.curve_publickey, self.socket.curve_secretkey = (
                key.encode() for key in keys
            )
        self.socket.connect(endpoint)
        self._agent, self._spool = agent, spool
        self._said = self.welcomed = False
        self._sent = self._credit = 0
        self.progress = time.monotonic()

    def step(self) -> bool:
        """Hear and send what can be; False where the session is over."""
        if not self._said and self.socket.poll(20, zmq.POLLOUT):
            spool = self._spool
            first = spool.pending[0][0] if spool.pending else spool.last + 1
            hello = Hello(agent=self._agent, spool=spool.id, first=first, last=spool.last)
            self.socket.send_multipart(encode(hello))
            self._said = True
        while self.socket.poll(0 if self._spool.pending else 20):
            message = decode(self.socket.recv_multipart())
            if isinstance(message, Welcome) and not message.refused:
                self.welcomed, self._credit, self._sent = True, message.credit, message.durable
                self._spool.settled(message.durable)
                self._send(0, bytes(SCHEMA_FRAME.data))
            elif isinstance(message, Ack):
                self._credit = message.credit
                self._spool.settled(message.seq)
            else:
                assert not (isinstance(message, Nack) and message.fatal), message.reason
                return False
            self.progress = time.monotonic()
        return self._deliver()

    def _deliver(self) -> bool:
        if self.welcomed:
            again = self._spool.replay()
            if again is not None:
                self._send(*again)
            for index, (seq, frame) in enumerate(self._spool.pending):
                if index >= self._credit:
                    break
                if seq > self._sent:
                    self._send(seq, frame)
                    self._sent = seq
        if self.welcomed and not self._spool.pending:
            self.progress = time.monotonic()
        return time.monotonic() - self.progress < DEADLINE

    def _send(self, seq: int, frame: bytes) -> None:
        try:
            self.socket.send_multipart(encode(Data(spool=self._spool.id, seq=seq, frame=frame)), zmq.DONTWAIT)
        except zmq.Again:
            self.progress = 0.0  # over

    def close(self) -> None:
        """BYE where anybody listens."""
        with suppress(zmq.Again):
            self.socket.send_multipart(encode(Bye()), zmq.DONTWAIT)
        self.socket.close(linger=100)
        self._context.term()


def run_spool(endpoint: str, directory: Path, agent: str, keys: list[str], stopping: list[int]) -> None:
    """Until told to stop, and all is acknowledged."""
    spool = Spool(directory, agent)
    session: Session | None = None
    due = time.monotonic()
    while not stopping or spool.pending:
        now = time.monotonic()
        if now >= due and not stopping:
            spool.make()
            due = now + PERIOD
        if session is None:
            session = Session(chosen.choice(endpoint.split(",")), keys, spool, agent)
        try:
            goes_on = session.step()
        except WireError:
            goes_on = False
        if not goes_on:
            session.close()
            session = None
            time.sleep(chosen.uniform(0, 0.3))
        else:
            time.sleep(0.002)
    if session is not None:
        session.close()


def run_sink(
    endpoint: str, directory: Path, state: Path, agent: str, keys: list[str], stopping: list[int]
) -> None:
    """The real sink: numbers that it has taken, into its spool, are written down: it promised those."""
    (directory / "made").touch()
    made = sum(1 for _ in (directory / "made").open())
    if keys and not (state / "bpfleet.key").exists():
        write_pair(state / "bpfleet.key", KeyPair(public=keys[1], secret=keys[2]))
    settings = ZmqSettings(
        endpoints=tuple(endpoint.split(",")),
        move_after=Duration(1.0),
        window=64,
        hello_timeout=Duration(DEADLINE),
        ack_timeout=Duration(DEADLINE),
        backoff=Duration(0.1),
        curve="on" if keys else "off",
        server_key=tuple(keys[:1]),
    )
    context = SinkContext(
        name="zmq",
        state=state,
        agent=agent,
        host="oracle",
        user="root",
    )
    sink = opened(settings, context)
    with (directory / "made").open("a", 1) as making, (directory / "delivered").open("a", 1) as delivered:
        while not stopping:
            numbers = range(made + 1, made + 1 + BATCH)
            made += BATCH
            making.writelines(f"{number}\n" for number in numbers)
            frames = [record(agent, number) for number in numbers]
            while True:
                try:
                    sink.write(frames)
                    break
                except SinkFull:
                    time.sleep(0.05)
                except SinkError:
                    sink = reopened(sink, settings, context)
            delivered.writelines(f"{number}\n" for number in numbers)
            time.sleep(PERIOD * BATCH)
    # On until all is delivered: what an agent that stops leaves in its spool is not judged here.
    while len(sink._spool):
        time.sleep(0.1)
        if sink._sender.failed is not None:
            sink = reopened(sink, settings, context)
    sink.close()


def reopened(sink: ZmqSink, settings: ZmqSettings, context: SinkContext) -> ZmqSink:
    """As the agent does with a sink that can't go on: close it, and open it again."""
    sink.close()
    return opened(settings, context)


def opened(settings: ZmqSettings, context: SinkContext) -> ZmqSink:
    """The sink, as soon as there is room for its spool."""
    while True:
        try:
            return ZmqSink(settings, context)
        except SinkError:
            time.sleep(0.1)


def main() -> None:
    kind, endpoint, directory, state, agent, *keys = sys.argv[1:]
    faulthandler.register(signal.SIGUSR1)
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopping.append(number))
    print("ready", flush=True)
    if kind == "spool":
        run_spool(endpoint, Path(directory), agent, keys, stopping)
    else:
        run_sink(endpoint, Path(directory), Path(state), agent, keys, stopping)


if __name__ == "__main__":
    main()
