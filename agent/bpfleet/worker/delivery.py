"""A sink's queue and thread: a slow, blocked or broken sink delays nobody and loses nothing silently."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from bpfleet.errors import BpfleetError, SinkError, SinkFull, SinkGone
from bpfleet.plugins import State
from bpfleet.spec import Sink
from bpfleet.wire import Frame, Origin
from bpfleet.worker.ledger import Ledger
from bpfleet.worker.losses import Losses

__all__ = ["Delivery"]

log = logging.getLogger("bpfleet.sink")

_BATCH_BYTES = 4 << 20
_ATTEMPTS = 3
_LONGEST_PAUSE = 30.0
_PAUSE_WHEN_FULL = 2.0
_BLOCKED_AFTER = 10.0


class Delivery:
    """One sink's bounded queue, and the thread that empties it.

    `open_sink` is called in the thread, again after each failure. `limit` is in bytes; beyond it
    the oldest records go, and a `gap` in their place says so."""

    def __init__(
        self,
        name: str,
        kind: str,
        open_sink: Callable[[Delivery], Sink],
        *,
        limit: int,
        origin: Origin,
        ledger: Ledger,
        changed: Callable[[], None],
    ) -> None:
        self.name, self.kind = name, kind
        self.state, self.error = State.RUNNING, None
        self.written = self.dropped = 0
        self.gone = False
        """Whether the sink will never take records again."""
        self.spool: Mapping[str, float] = {}
        """What waits behind the sink, as the sink says."""
        self._trouble: BpfleetError | None = None
        self._open_sink, self._limit, self._origin, self._ledger = open_sink, limit, origin, ledger
        self._changed = changed
        self._queue: deque[Frame] = deque()
        self._queued_bytes = 0
        self._in_hand = 0
        """Records that the sink is being given right now."""
        self._lost = Losses()
        self._lock = threading.Condition()
        self._stopping = threading.Event()
        self._deadline = float("inf")
        self._busy_since = 0.0
        self._sink: Sink | None = None
        self._schemas: set[int] = set()
        self._failures = 0
        self._tell_of_the_worker_before()
        # A daemon: a sink that never comes back must not keep the process alive.
        self._thread = threading.Thread(target=self._run, name=f"sink {name}", daemon=True)

    error: BpfleetError | None

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def offer(self, frame: Frame) -> None:
        """Queue one record; never blocks."""
        with self._lock:
            if self.gone:
                self.dropped += 1
                return
            self._queue.append(frame)
            self._queued_bytes += len(frame.data)
            while self._queued_bytes > self._limit and len(self._queue) > 1:
                self._note(self._take_one(), "queue_full")
            self._lock.notify()

    def lost(self, frames: Sequence[Frame], reason: str) -> None:
        """Tell of records that the sink gave up."""
        with self._lock:
            for frame in frames:
                if frame.seq:
                    self._note(frame, reason)

    def note_state(self, error: BpfleetError | None, spool: Mapping[str, float]) -> None:
        """Take what the sink says of its delivery behind `write`."""
        self.spool = spool
        told, self._trouble = self._trouble, error
        if str(told) != str(error):
            self._became(State.QUARANTINED if error else State.RUNNING, error)

    @property
    def stopping(self) -> bool:
        """Whether the agent is shutting down."""
        return self._stopping.is_set()

    @property
    def time_left(self) -> float:
        """Seconds until nobody waits for the sink any more; inf before the agent is shutting down."""
        return max(0.0, self._deadline - time.monotonic())

    @property
    def queued(self) -> tuple[int, int]:
        """(records, bytes) that wait."""
        return len(self._queue), self._queued_bytes

    @property
    def blocked_for(self) -> float:
        """Seconds that the sink has been in one call; 0 where that is not long."""
        busy = time.monotonic() - self._busy_since if self._busy_since else 0.0
        return busy if busy > _BLOCKED_AFTER else 0.0

    def begin_to_stop(self, deadline: float) -> None:
        """Deliver what waits until `deadline` (monotonic), then close; does not wait for it."""
        self._deadline = deadline
        self._stopping.set()
        with self._lock:
            self._lock.notify()

    def stop(self, deadline: float) -> int:
        """The same, and wait; returns the records left over."""
        self.begin_to_stop(deadline)
        self._thread.join(max(0.1, deadline - time.monotonic()))
        return len(self._queue) + self._in_hand

    # ---- in the thread

    def _run(self) -> None:
        while True:
            frames = self._next_batch()
            if not frames:
                break
            self._in_hand = sum(frame.kind != "gap" for frame in frames)
            try:
                self._write(frames)
            except SinkGone as error:
                self._give_up(frames, error)
                break
            except Exception as error:
                self._failed(frames, error)
            else:
                self._in_hand = 0
                if time.monotonic() > self._deadline:
                    break
        self._close()

    def _next_batch(self) -> list[Frame]:
        """The records to write next; none once the agent is stopping and the queue is empty."""
        with self._lock:
            while not self._queue and not self._lost:
                if self._stopping.is_set():
                    return []
                self._lock.wait()
            batch: list[Frame] = self._gaps()
            size = 0
            while self._queue and size < _BATCH_BYTES:
                frame = self._take_one()
                size += len(frame.data)
                batch.append(frame)
            return batch

    def _write(self, frames: list[Frame]) -> None:
        self._busy_since = time.monotonic()
        try:
            if self._sink is None:
                self._sink, self._schemas = self._open_sink(self), set()
            self._sink.write(self._with_schemas(frames))
        finally:
            self._busy_since = 0.0
        self.written += len(frames)
        self._failures = 0
        seqs = [frame.seq for frame in frames if frame.kind != "gap"]
        if seqs:
            self._ledger.set_delivered(self.name, seqs[-1])
        self._became(State.QUARANTINED if self._trouble else State.RUNNING, self._trouble)

    def _with_schemas(self, frames: list[Frame]) -> list[Frame]:
        """Each schema before the first snapshot that needs it, since the sink was opened."""
        complete: list[Frame] = []
        for frame in frames:
            if frame.schema is not None and id(frame.schema) not in self._schemas:
                self._schemas.add(id(frame.schema))
                complete.append(frame.schema)
            complete.append(frame)
        return complete

    def _failed(self, frames: list[Frame], error: Exception) -> None:
        """Put the records back, or give them up where the sink is at fault again and again; then pause."""
        full = isinstance(error, SinkFull)
        if full:
            self._schemas = set()  # of the write that failed: they come again
        else:
            self._close()
        self._failures += 1
        expected = error if isinstance(error, BpfleetError) else None
        if expected is None and self._failures >= _ATTEMPTS:
            self.lost([frame for frame in frames if frame.kind != "gap"], "sink_error")
            self._failures = 0
        else:
            with self._lock:
                self._queue.extendleft(reversed(frames))
                self._queued_bytes += sum(len(frame.data) for frame in frames)
        self._in_hand = 0
        self._became(State.QUARANTINED, expected or _defect(self.name, error))
        pause = min(_PAUSE_WHEN_FULL if full else _LONGEST_PAUSE, 0.25 * 2 ** min(self._failures, 8))
        self._stopping.wait(min(pause, max(0.0, self._deadline - time.monotonic())))
        if self._stopping.is_set():
            time.sleep(0.2)  # no busy loop while a failing sink is drained

    def _give_up(self, frames: list[Frame], error: SinkGone) -> None:
        """Nobody is there to tell of a gap either: the count of what was dropped is all that stays."""
        with self._lock:
            self.gone = True
            self.dropped += len(frames) + len(self._queue)
            self._queue.clear()
            self._queued_bytes = self._in_hand = 0
        self._became(State.QUARANTINED, error)

    def _close(self) -> None:
        sink, self._sink = self._sink, None
        self._trouble = None
        if sink is not None:
            try:
                sink.close()
            except Exception as error:
                self.error = _defect(self.name, error)

    # ---- bookkeeping

    def _take_one(self) -> Frame:
        frame = self._queue.popleft()
        self._queued_bytes -= len(frame.data)
        return frame

    def _note(self, frame: Frame, reason: str) -> None:
        """Count one lost record; runs of them become one gap."""
        if frame.kind == "gap":
            return
        self.dropped += 1
        self._lost.one(frame.seq, reason)

    def _gaps(self) -> list[Frame]:
        seq = self._queue[0].seq if self._queue else self._ledger.next_seq
        return self._lost.taken(self._origin, self.name, seq)

    def _tell_of_the_worker_before(self) -> None:
        """Records that a worker before us made and this sink was not safe with are gone with it."""
        safe, following = self._ledger.delivered(self.name), self._ledger.next_seq
        self.resumed = safe is not None
        if safe is not None and safe + 1 < following:
            self._lost.all_between(safe + 1, following - 1, "worker_restart")
        elif safe is None:
            self._ledger.set_delivered(self.name, following - 1)

    def _became(self, state: State, error: BpfleetError | None) -> None:
        before = self.error
        told = (self.state, str(before)) == (state, str(error))
        self.state, self.error = state, error
        if told:
            return
        if error is not None and not isinstance(error, SinkGone):  # of that the sink tells in its own way
            log.warning("sink %r: %s", self.name, error)
        elif error is None and before is not None:
            log.warning("sink %r works again", self.name)
        self._changed()


def _defect(name: str, error: Exception) -> SinkError:
    return SinkError(
        f"the sink raised {type(error).__name__}: {error}",
        where=f"[sinks.{name}]",
        remedy="this is a defect of the sink's plugin: report it to its authors",
    )
