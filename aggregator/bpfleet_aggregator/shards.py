"""Several ROUTER sockets in processes of their own, behind what `Router` offers: see shard.py.

One process uses one core for its Python. Where that is not enough, `[aggregator] shards` has several receive,
decrypt and answer. All listen on the same ports (SO_REUSEPORT: the kernel spreads connections), so agents
know nothing of it. One that ends is started again; its agents' sessions end, and they say HELLO again.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import zmq

from bpfleet.wire.messages import Bye, Message
from bpfleet.wire.messages import encode as encode_message
from bpfleet_aggregator.config import AggregatorSettings
from bpfleet_aggregator.listening import Listening
from bpfleet_aggregator.passing import Answer, Orders, Passed, Plan, decode_passed, encode
from bpfleet_aggregator.report import Report
from bpfleet_aggregator.router import MOST_AT_ONCE, Arrived, Router
from bpfleet_aggregator.shard import BATCHES

__all__ = ["Incoming", "Receiver", "Shards"]

_ANSWERS_AT_ONCE = 1000
_PAUSE = 1.0
"""Seconds before a shard that has ended is started again."""
_END = 3.0


class _Shard:
    """One of them, as this process sees it."""

    def __init__(self, number: int) -> None:
        self.prefix = bytes([number])
        """What its agents' names begin with here."""
        self.name = f"shard {number + 1}"
        self.fds: list[int] = []
        self.paths: dict[str, int] = {}
        self.socket: zmq.Socket[bytes] | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self.answers: list[Answer] = []
        self.orders: deque[bytes] = deque()
        """Not sent yet: it has not connected, or has just ended."""
        self.starts = 0
        self.again = 0.0
        """When to start it, on the monotonic clock."""

    def order(self, orders: Orders) -> None:
        """Have it do that, after what it was told before."""
        self.orders.append(encode(orders))
        self.push()

    def push(self) -> None:
        """Send what can be sent now."""
        while self.socket is not None and self.orders:
            try:
                self.socket.send(self.orders[0], zmq.DONTWAIT)
            except zmq.Again:
                return
            self.orders.popleft()


class Shards:
    """What `Router` is, over several processes. For one thread."""

    def __init__(
        self,
        settings: AggregatorSettings,
        context: zmq.Context[zmq.Socket[bytes]],
        admitted: Callable[[], Sequence[str]],
        report: Report,
    ) -> None:
        self._settings, self._context, self._report = settings, context, report
        self._admitted = admitted
        self._shards = [_Shard(number) for number in range(settings.shards)]
        self._secret = ""
        self.endpoints: list[str] = []
        self._listening = Listening(settings.shards)
        self._folder: Path | None = None
        self._poller = zmq.Poller()

    def encrypt(self, secret: str) -> None:
        """Speak CURVE with that key; each shard has a gatekeeper."""
        self._secret = secret

    def bind(self, endpoints: Sequence[str]) -> None:
        """Begin to listen; raises ConfigError. Nobody is accepted before `start`."""
        self._listening.bind(endpoints)
        self.endpoints = self._listening.endpoints
        for shard, sockets in zip(self._shards, self._listening.ports, strict=True):
            shard.fds = [one.fileno() for one in sockets]
        self._shards[0].paths = {name: one.fileno() for name, one in self._listening.paths.items()}

    def wake_on(self, fd: int) -> None:
        """Let `wait` end when `fd` can be read, too."""
        self._poller.register(fd, zmq.POLLIN)

    def start(self) -> None:
        """Start the processes, as the user that we are now."""
        # Only this user can connect to what is in there.
        self._folder = Path(tempfile.mkdtemp(prefix="bpfleet-shards-"))
        for shard in self._shards:
            self._start(shard)

    def _start(self, shard: _Shard) -> None:
        shard.starts += 1
        shard.socket = self._context.socket(zmq.PAIR)
        shard.socket.rcvhwm, shard.socket.sndhwm = BATCHES, 0
        up = f"ipc://{self._folder}/{shard.prefix[0]}.{shard.starts}"
        shard.socket.bind(up)
        self._poller.register(shard.socket, zmq.POLLIN)
        plan = Plan(
            parent=os.getpid(),
            up=up,
            fds=shard.fds,
            paths=shard.paths,
            window=self._settings.window,
            max_size=int(self._settings.max_size),
            io_threads=self._settings.io_threads,
            secret=self._secret,
            admitted=self._admitted(),
        )
        # -P: nothing is imported from the current directory.
        words = [sys.executable, "-P", "-m", "bpfleet_aggregator.shard"]
        inherited = (*shard.fds, *shard.paths.values())
        try:
            shard.process = subprocess.Popen(words, stdin=subprocess.PIPE, pass_fds=inherited)
        except OSError as error:
            self._report.note(f"{shard.name} can't be started: {error.strerror}; it is tried again")
            self._end(shard)
            shard.again = time.monotonic() + _PAUSE
            return
        assert shard.process.stdin is not None
        # One that has ended already is noticed as one that ends later.
        with suppress(BrokenPipeError), shard.process.stdin as stdin:
            stdin.write(encode(plan))

    def wait(self, milliseconds: int) -> None:
        """Until there is something to do, or the time is over. What was to be sent is on its way by then."""
        self._flush()
        self._poller.poll(milliseconds)

    def received(self, known: Mapping[bytes, object]) -> Iterator[Passed]:
        """What has arrived; from a shard that has ended, a BYE of each of its agents."""
        for shard in self._ended():
            (head,) = encode_message(Bye(reason=f"{shard.name} has ended"))
            for peer in [peer for peer in known if peer[:1] == shard.prefix]:
                yield Passed(peer, (bytes(head),))
        for shard in self._shards:
            if shard.socket is None:
                continue
            taken = 0
            while taken < MOST_AT_ONCE:
                try:
                    batch = decode_passed(shard.socket.recv(zmq.DONTWAIT))
                except zmq.Again:
                    break
                taken += len(batch)
                for one in batch:
                    yield Passed(shard.prefix + one.peer, one.parts, one.key, one.address)

    def send(self, peer: bytes, message: Message) -> bool:
        """Have a message sent. That its peer has gone shows later: by a BYE in its name."""
        (head,) = encode_message(message)
        shard = self._shards[peer[0]]
        shard.answers.append(Answer(peer[1:], bytes(head)))
        if len(shard.answers) >= _ANSWERS_AT_ONCE:
            self._flush()
        return True

    def keys_changed(self) -> None:
        """Let each shard know who is admitted now."""
        for shard in self._shards:
            shard.order(Orders(admitted=self._admitted()))

    def close(self) -> None:
        """End the processes; what was said last still goes out."""
        self._flush()
        for shard in self._shards:
            shard.order(Orders(ends=True))
        for shard in self._shards:
            self._end(shard)
        self._listening.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    # ---- processes

    def _flush(self) -> None:
        for shard in self._shards:
            if shard.answers:
                answers, shard.answers = shard.answers, []
                shard.order(Orders(answers))
            shard.push()

    def _ended(self) -> Iterator[_Shard]:
        """Those that have ended since; they are started again after a pause."""
        now = time.monotonic()
        for shard in self._shards:
            if shard.process is None:
                if self._folder is not None and now >= shard.again:
                    self._start(shard)
            elif (code := shard.process.poll()) is not None:
                how = f"signal {-code}" if code < 0 else f"exit code {code}"
                self._report.note(
                    f"{shard.name} has ended ({how}) and is started again; its agents reconnect"
                )
                self._end(shard)
                shard.again = now + _PAUSE
                yield shard

    def _end(self, shard: _Shard) -> None:
        process, shard.process = shard.process, None
        if process is not None:
            try:
                process.wait(_END)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if shard.socket is not None:
            self._poller.unregister(shard.socket)
            shard.socket.close(linger=0)
            shard.socket = None
        shard.answers = []
        shard.orders.clear()


Receiver = Router | Shards
"""What the main path receives with."""
Incoming = Arrived | Passed
"""What it gets from there."""
