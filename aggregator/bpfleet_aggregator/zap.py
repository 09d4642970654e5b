"""Who may connect: ZeroMQ asks this thread about each CURVE key before it lets a connection be."""

from __future__ import annotations

import threading
from collections.abc import Callable

import zmq
from zmq.utils import z85

from bpfleet_aggregator.report import Report

__all__ = ["DOMAIN", "Gatekeeper"]

DOMAIN = b"bpfleet"
_ENDPOINT = "inproc://zeromq.zap.01"
_LOOK_AROUND_MS = 100


class Gatekeeper:
    """Answers by `admits`. Whoever runs it must watch `failed`: without it nobody is let in any more."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], admits: Callable[[str], bool], report: Report
    ) -> None:
        self._admits, self._report = admits, report
        self._stop = threading.Event()
        self.failed: BaseException | None = None
        self._socket = context.socket(zmq.REP)
        self._socket.linger = 0
        # Before any socket listens: a connection that finds no answer would be let in, or stall.
        self._socket.bind(_ENDPOINT)
        self._thread = threading.Thread(target=self._run, name="gatekeeper", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it."""
        self._stop.set()
        self._thread.join(5)

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                if self._socket.poll(_LOOK_AROUND_MS):
                    self._socket.send_multipart(self._answer(self._socket.recv_multipart()))
        except BaseException as error:
            self.failed = error
        finally:
            self._socket.close(linger=0)

    def _answer(self, request: list[bytes]) -> list[bytes]:
        """ZeroMQ RFC 27: the request is version, id, domain, address, identity, mechanism, credentials."""
        version, number, domain, address, _identity, mechanism, *credentials = request
        key = ""
        if (version, domain, mechanism) == (b"1.0", DOMAIN, b"CURVE") and len(credentials) == 1:
            key = z85.encode(credentials[0]).decode()
        if key and self._admits(key):
            return [b"1.0", number, b"200", b"OK", key.encode(), b""]
        where = address.decode("utf-8", "replace")
        self._report.note(f"refused: a connection from {where}: its key {key} is not in the list of keys")
        # 400 and not 300: this client's socket won't try again, the agent's next one will.
        return [b"1.0", number, b"400", b"not admitted", b"", b""]
