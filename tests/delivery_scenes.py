"""What tests of the zmq sink share: what has arrived, what was told, peers that answer otherwise."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from aggregator_peer import Peer, Store
from bpfleet import BpfleetError, Frame, SinkContext
from bpfleet.wire import Gap, Schema, Snapshot, Status
from bpfleet.wire.messages import Hello, Message
from sample_records import COUNTS_FRAME, decoded, frame

Reply = Message | list[bytes]


def wait_until(true: Callable[[], object], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def free_endpoint() -> str:
    """A port where nobody listens."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{found.getsockname()[1]}"


def arrived(store: Store) -> list[Snapshot | Status | Gap]:
    """The records in the store but schemas, in the order of arrival."""
    records = decoded([COUNTS_FRAME.data, *(data for *_, data in store.rows())])
    return [record for record in records if not isinstance(record, Schema)]


def stored(store: Store) -> list[int]:
    """The seqs of the snapshots and statuses in the store, in the order of arrival."""
    return [record.seq for record in arrived(store) if not isinstance(record, Gap)]


def arrive(store: Store, seqs: list[int], seconds: float = 30.0) -> None:
    """Wait until these are in the store, and see that no others are."""
    wait_until(lambda: len(stored(store)) >= len(seqs), seconds)
    assert stored(store) == seqs


def gaps(store: Store) -> list[Gap]:
    return [record for record in arrived(store) if isinstance(record, Gap)]


def some(first: int, last: int) -> list[Frame]:
    return [frame(seq) for seq in range(first, last + 1)]


def spool_of(peer: Peer) -> str:
    wait_until(lambda: peer.heard)
    hello = peer.heard[0]
    assert isinstance(hello, Hello)
    return hello.spool


def hellos(peer: Peer) -> int:
    return sum(isinstance(message, Hello) for message in peer.heard)


def dead_letters(around: SinkContext) -> Path:
    return around.state / "dead-letters" / "test.bpfleet"


def one_answer(*replies: Reply, to: type[Message] = Hello) -> type[Peer]:
    """A peer that answers each message of one kind with `replies`, the others as it should."""

    class Scripted(Peer):
        def answer(self, identity: bytes, message: Message) -> list[Reply]:
            good = super().answer(identity, message)
            return list(replies) if isinstance(message, to) else good

    return Scripted


class Told:
    """What a sink says of its delivery."""

    def __init__(self) -> None:
        self.error: BpfleetError | None = None
        self.errors: list[BpfleetError] = []
        self.spool: Mapping[str, float] = {}
        self.lost: list[tuple[list[int], str]] = []
        self._news = threading.Condition()

    def note(self, error: BpfleetError | None, spool: Mapping[str, float]) -> None:
        with self._news:
            self.error, self.spool = error, spool
            if error is not None:
                self.errors.append(error)
            self._news.notify_all()

    def wait_for_error(self, said: str, seconds: float = 20.0) -> BpfleetError:
        """The first error told that says `said`."""

        def found() -> BpfleetError | None:
            return next((one for one in self.errors if said in str(one)), None)

        with self._news:
            assert self._news.wait_for(found, seconds), f"told: {[str(one) for one in self.errors]}"
        error = found()
        assert error is not None
        return error
