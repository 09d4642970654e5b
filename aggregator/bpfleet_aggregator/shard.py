"""A shard: a process that has a ROUTER socket for a part of the agents, and passes what they say on.

    agents ──► ROUTER ──► [batch] ──► the process that stores (shards.py)
       ◄────────────────── answers ◄──┘

It keeps nothing: sessions, checks and marks are all in the process that stores. What it takes off that one is
encryption, sockets, and the many small steps for each message. Where nobody takes its batches it reads no
more, and TCP holds the agents back. It ends when told to, or when the process that started it has gone.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator

import zmq

from bpfleet.errors import BpfleetError
from bpfleet.wire.messages import Bye
from bpfleet.wire.messages import encode as encode_message
from bpfleet_aggregator.passing import Passed, Plan, decode_orders, decode_plan, encode
from bpfleet_aggregator.report import Report
from bpfleet_aggregator.router import Router
from bpfleet_aggregator.user import collect_seldom, die_with
from bpfleet_aggregator.zap import Gatekeeper

__all__ = ["BATCHES", "BATCH_BYTES", "main"]

BATCH_BYTES = 1 << 20
"""A batch is passed on once it has so many bytes."""
BATCHES = 2
"""So many may wait on each side."""
_LOOK_AROUND_MS = 500
_MOST_KNOWN = 65_536


class Shard:
    """One ROUTER socket, and the way up."""

    def __init__(self, plan: Plan) -> None:
        self._report = Report()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=plan.io_threads)
        self._up = self._context.socket(zmq.PAIR)
        self._up.sndhwm, self._up.rcvhwm, self._up.linger = BATCHES, 0, 0
        self._up.connect(plan.up)
        self._router = Router(self._context, window=plan.window, max_size=plan.max_size)
        self._gatekeeper: Gatekeeper | None = None
        self._admitted = frozenset(plan.admitted)
        if plan.secret:
            self._gatekeeper = Gatekeeper(self._context, lambda key: key in self._admitted, self._report)
            self._router.encrypt(plan.secret)
        for fd in plan.fds:
            self._router.listen("tcp://127.0.0.1:*", fd)
        for endpoint, fd in plan.paths.items():
            self._router.listen(endpoint, fd)
        self._known: set[bytes] = set()
        """Who has said HELLO: of whom the process that stores has been told key and address."""
        self._gone: list[Passed] = []

    def run(self) -> None:
        """Until it is told to end."""
        poller = zmq.Poller()
        open_up = True
        while True:
            # Who can't pass on what it reads does not read.
            poller.register(self._up, zmq.POLLIN if open_up else zmq.POLLIN | zmq.POLLOUT)
            poller.register(self._router.socket, zmq.POLLIN if open_up else 0)
            poller.poll(_LOOK_AROUND_MS)
            if not self._obey():
                return
            open_up = self._pass_on()
            if self._gatekeeper is not None and self._gatekeeper.failed is not None:
                raise self._gatekeeper.failed

    def close(self) -> None:
        """Close; what was said last still goes out."""
        self._router.close()
        self._up.close()
        if self._gatekeeper is not None:
            self._gatekeeper.stop()
        self._context.term()

    def _obey(self) -> bool:
        """Do as told, which is mostly to tell agents; False where that was the last of it."""
        while True:
            try:
                orders = decode_orders(self._up.recv(zmq.DONTWAIT))
            except zmq.Again:
                return True
            if orders.admitted is not None:
                self._admitted = frozenset(orders.admitted)
            for answer in orders.answers:
                if not self._router.send_head(answer.peer, answer.head):
                    self._is_gone(answer.peer)
            if orders.ends:
                return False

    def _is_gone(self, peer: bytes) -> None:
        """As if it had said BYE."""
        self._known.discard(peer)
        head = bytes(encode_message(Bye(reason="its connection has ended"))[0])
        self._gone.append(Passed(peer, (head,)))

    def _pass_on(self) -> bool:
        """Pass a batch on, if there is one; False where there is no room for it now."""
        if not self._up.poll(0, zmq.POLLOUT):
            return False
        batch, self._gone = self._gone, []
        size = 0
        for message in self._received():
            batch.append(message)
            size += sum(map(len, message.parts))
            if size >= BATCH_BYTES:
                break
        if batch:
            self._up.send(encode(batch), zmq.DONTWAIT)
        return True

    def _received(self) -> Iterator[Passed]:
        for arrived in self._router.received(self._known):
            if arrived.frame is None:
                yield Passed(arrived.peer, tuple(arrived.parts))
                continue
            if len(arrived.parts) == 1:  # HELLO, or BYE
                if len(self._known) >= _MOST_KNOWN:
                    self._known.clear()
                self._known.add(arrived.peer)
            yield Passed(arrived.peer, tuple(arrived.parts), arrived.key, arrived.address)


def main() -> int:
    """Read the plan from stdin, and serve."""
    # A terminal's Ctrl-C and a service manager's SIGTERM are for the process that stores: it tells us when
    # all is answered.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    plan = decode_plan(sys.stdin.buffer.read())
    die_with(plan.parent)
    collect_seldom()
    try:
        shard = Shard(plan)
    except BpfleetError as error:
        Report().note(f"shard: {error}")
        return 1
    try:
        shard.run()
    finally:
        shard.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
