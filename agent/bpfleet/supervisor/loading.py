"""Requests on their way through loaders: a few at once, each with a deadline, each ending in an answer."""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from bpfleet.errors import BpfleetError, LoadError
from bpfleet.ipc import ChannelClosed, close_all
from bpfleet.kernel import boottime_ns
from bpfleet.supervisor.holdings import Holdings
from bpfleet.supervisor.launch import Child, ending, start_loader

__all__ = ["Job", "Loaders", "failed"]

_AT_ONCE = 2
_LOADER_SECONDS = 30.0

Message = dict[str, Any]


@dataclass
class Job:
    """A request that a loader is working on."""

    request: Message
    child: Child
    deadline: float
    generation: int
    """Of what is held of the collector when the job began; 0 where nothing is."""


def failed(request: Message, error: BpfleetError) -> Message:
    """The answer to a request that could not be done."""
    return {"op": "failed", "collector": request["collector"], "error": error.to_plain()}


def _no_rings(collector: str, error: OSError) -> LoadError:
    return LoadError(
        f"its perf rings can't be mapped: {error.strerror}",
        where=f"collector {collector!r}",
        remedy="a smaller perf_buffer for this collector",
    )


class Loaders:
    """The loaders at work. What they bring goes into `holdings`; `answer` sends to the worker.

    A job's channel is registered with the selector under the job itself: when it is readable, call
    `take_answer`."""

    def __init__(
        self,
        holdings: Holdings,
        selector: selectors.BaseSelector,
        answer: Callable[[Message, list[int]], None],
    ) -> None:
        self._holdings, self._selector, self._answer = holdings, selector, answer
        self._waiting: list[Message] = []
        self._jobs: list[Job] = []

    def ask(self, request: Message) -> None:
        """Queue a request, once: one that is under way already is answered when it is done."""
        if request not in self._waiting and request not in [job.request for job in self._jobs]:
            self._waiting.append(request)

    def forget_waiting(self) -> None:
        """The worker that asked has ended."""
        self._waiting.clear()

    @property
    def deadline(self) -> float:
        """When the next job is overdue (monotonic); infinite where none is at work."""
        return min((job.deadline for job in self._jobs), default=float("inf"))

    def start(self) -> None:
        """Start loaders for what waits."""
        while self._waiting and len(self._jobs) < _AT_ONCE:
            request = self._waiting.pop(0)
            message, fds = request, list[int]()
            if request["op"] == "grow":
                held = self._holdings.map_of(request["collector"], request["map"])
                if held is None:
                    continue
                message = {
                    "op": "grow",
                    "collector": request["collector"],
                    "request": request,
                    "map": held[0],
                }
                fds = [held[1]]
            elif request["op"] == "rescan":
                there = self._holdings.rescan_of(request["collector"])
                if there is None:
                    continue
                message, fds = there
            seconds = float(request.get("timeout", _LOADER_SECONDS))
            generation = self._holdings.generation(request["collector"])
            job = Job(request, start_loader(), time.monotonic() + seconds, generation)
            self._jobs.append(job)
            self._selector.register(job.child.channel, selectors.EVENT_READ, job)
            # Where it has ended already, reading from it says so.
            with suppress(ChannelClosed):
                job.child.channel.send(message, fds)

    def take_answer(self, job: Job) -> None:
        """Read a loader's answer, or learn how it died; pass either on."""
        try:
            answer, fds = job.child.channel.receive()
        except ChannelClosed:
            self._lost(job, "")
            return
        name = job.request["collector"]
        if answer.get("op") == "loaded":
            answer["generation"] = boottime_ns()
            try:
                self._holdings.take(job.request, answer, fds)
            except OSError as error:
                close_all(fds)
                answer, fds = failed(job.request, _no_rings(name, error)), []
            # A loader with perf rings ends only when we have them; another one has gone.
            with suppress(ChannelClosed):
                job.child.channel.send({"op": "held"})
        self._finish(job)
        if answer.get("op") == "failed":
            self._answer(answer, fds)
        elif job.request["op"] == "rescan":
            attached = self._holdings.take_rescan(job.generation, answer, fds)
            if attached or answer["errors"]:
                said = {"attached": attached, "errors": answer["errors"]}
                self._answer({"op": "attached", "collector": name, **said}, [])
        elif job.request["op"] == "grow":
            self._holdings.replace_walker(name, answer, fds)
            walker = [fds[answer[part]] for part in ("walk_fd", "rows_fd", "state_fd")]
            grown = {"map": answer["name"], "capacity": answer["rows_capacity"]}
            self._answer({"op": "grown", "collector": name, **grown}, walker)
        else:
            self._answer(answer, fds)

    def enforce_deadlines(self) -> None:
        """Kill what is overdue."""
        now = time.monotonic()
        for job in [job for job in self._jobs if now > job.deadline]:
            job.child.kill()
            limit = job.request.get("timeout", _LOADER_SECONDS)
            self._lost(job, f"it took longer than {limit:g} s")

    def end(self) -> None:
        """Kill every loader: the agent ends."""
        for job in list(self._jobs):
            job.child.kill()
            self._finish(job)

    def _lost(self, job: Job, why: str) -> None:
        status = self._finish(job)
        request = job.request
        error = LoadError(
            f"the loader of collector {request['collector']!r} did not finish: {why or ending(status)}",
            where=str(request.get("source", request.get("map", ""))),
            remedy="bpfleet check tries it alone; [agent] load_timeout gives it more time",
        )
        self._answer(failed(request, error), [])

    def _finish(self, job: Job) -> int:
        self._selector.unregister(job.child.channel)
        self._jobs.remove(job)
        return job.child.reap()
