"""A small real aggregator for tests: a ROUTER and SQLite, in a thread or as a process of its own.

It keeps the protocol of docs/delivery.md; a test overrides `answer` to break it.

    python aggregator_peer.py ENDPOINT DATABASE
"""

from __future__ import annotations

import sqlite3
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import zmq

from bpfleet import WireError
from bpfleet.wire.messages import Ack, Bye, Data, Hello, Message, Welcome, decode, encode

Parts = Sequence[bytes | memoryview]


class Store:
    """Records by (agent, spool, seq); the high-water mark is committed with the rows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._open() as database:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("CREATE TABLE IF NOT EXISTS rows (agent, spool, seq, frame)")
            database.execute(
                "CREATE TABLE IF NOT EXISTS marks (agent, spool, seq, PRIMARY KEY (agent, spool))"
            )
        database.close()

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=10)

    def mark(self, agent: str, spool: str) -> int:
        """The highest seq that is durable."""
        database = self._open()
        row = database.execute(
            "SELECT seq FROM marks WHERE agent = ? AND spool = ?", (agent, spool)
        ).fetchone()
        database.close()
        return int(row[0]) if row else 0

    def add(self, agent: str, data: Data) -> bool:
        """Make one record durable; False where it is a repeat. A schema (seq 0) is always taken."""
        if data.seq and data.seq <= self.mark(agent, data.spool):
            return False
        database = self._open()
        with database:
            row = (agent, data.spool, data.seq, bytes(data.frame))
            database.execute("INSERT INTO rows VALUES (?, ?, ?, ?)", row)
            if data.seq:
                database.execute("INSERT OR REPLACE INTO marks VALUES (?, ?, ?)", row[:3])
        database.close()
        return True

    def rows(self) -> list[tuple[str, str, int, bytes]]:
        """Everything stored, in the order of arrival."""
        database = self._open()
        found = database.execute("SELECT agent, spool, seq, frame FROM rows ORDER BY rowid").fetchall()
        database.close()
        return found


class Peer:
    """The aggregator at `endpoint`; `answer` says what it replies to each message."""

    credit = 8
    max_size = 1 << 20

    def __init__(self, store: Store, endpoint: str = "tcp://127.0.0.1:*") -> None:
        self.store = store
        self.repeats = 0
        self.heard: list[Message] = []
        self.sessions: dict[bytes, Hello] = {}
        self.failed: BaseException | None = None
        self._stop = threading.Event()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self._context.socket(zmq.ROUTER)
        self.socket.linger = 0
        self.socket.bind(endpoint)
        self.endpoint = self.socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def start(self) -> Peer:
        """Serve in a thread."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Close the socket as a killed process would: without a word."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(10)
            assert not self._thread.is_alive()
        if self.failed is not None:
            raise self.failed

    def stop_soon(self) -> None:
        """The same, called from `answer`: nothing more is sent."""
        self._stop.set()

    def _serve(self) -> None:
        try:
            self.serve()
        except BaseException as error:
            self.failed = error

    def serve(self) -> None:
        """Until stopped: receive, answer."""
        try:
            while not self._stop.is_set():
                if not self.socket.poll(20):
                    continue
                identity, *parts = self.socket.recv_multipart()
                message = decode(parts)
                self.heard.append(message)
                for reply in self.answer(identity, message):
                    if self._stop.is_set():
                        break
                    sent = encode(reply) if not isinstance(reply, list) else reply
                    self.socket.send_multipart([identity, *sent])
        finally:
            self.socket.close(linger=0)
            self._context.term()

    def answer(self, identity: bytes, message: Message) -> list[Message | list[bytes]]:
        """What a good aggregator says."""
        if isinstance(message, Hello):
            self.sessions[identity] = message
            durable = self.store.mark(message.agent, message.spool)
            return [Welcome(durable=durable, credit=self.credit, max_size=self.max_size)]
        if isinstance(message, Bye):
            self.sessions.pop(identity, None)
            return []
        if identity not in self.sessions:
            return [Bye(reason="say HELLO first")]
        if isinstance(message, Data):
            agent = self.sessions[identity].agent
            if not self.store.add(agent, message):
                self.repeats += 1
            if message.seq:
                return [Ack(seq=self.store.mark(agent, message.spool), credit=self.credit)]
            return []
        raise WireError(f"an agent sent {message.op}")

    def data(self) -> list[Data]:
        """The records heard, schemas left out."""
        return [message for message in self.heard if isinstance(message, Data) and message.seq]


if __name__ == "__main__":
    peer = Peer(Store(Path(sys.argv[2])), sys.argv[1])
    print(peer.endpoint, flush=True)
    peer.serve()
