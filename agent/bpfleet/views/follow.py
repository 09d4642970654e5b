"""A stream of records as text for people: a table per snapshot, a line per gap and per change of state."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from bpfleet.views.drawing import Look, line
from bpfleet.views.parts import Assembler, map_key
from bpfleet.views.stacks import StackBook
from bpfleet.views.table import render_table
from bpfleet.views.units import safe_text, wall_time
from bpfleet.wire import Gap, Record, Snapshot, Status

__all__ = ["Follower"]

_ARROW = "\N{RIGHTWARDS ARROW}"


class Follower:
    """Turns records into text one by one, remembering what rates and changes need.

    Of at most `most` maps (and agents) it remembers the last snapshot; of more, those heard of longest ago
    are forgotten.
    """

    def __init__(self, look: Look | None = None, most: int = 256) -> None:
        self._look = look or Look()
        self._most = most
        self._parts = Assembler(most)
        self._stacks = StackBook(most)
        self._previous: OrderedDict[tuple[str, str, str], Snapshot] = OrderedDict()
        self._states: OrderedDict[str, dict[tuple[str, str], tuple[str, str]]] = OrderedDict()

    def show(self, record: Record) -> str:
        """The text for one record, whole lines; "" where there is nothing to show (yet)."""
        if isinstance(record, Snapshot):
            return self._snapshot(record)
        if isinstance(record, Gap):
            return line(_gap(record), self._look) + "\n"
        if isinstance(record, Status):
            return "".join(line(said, self._look) + "\n" for said in self._changes(record))
        return ""

    def _snapshot(self, part: Snapshot) -> str:
        snapshot = self._parts.add(part)
        if snapshot is None:
            return ""
        if self._stacks.learn(snapshot) and not any(snapshot.losses.values()):
            return ""  # its texts are shown where rows name them
        key = map_key(snapshot)
        previous = self._previous.pop(key, None)
        self._previous[key] = snapshot
        if len(self._previous) > self._most:
            self._previous.popitem(last=False)
        return render_table(snapshot, previous, self._look, self._stacks.of(snapshot))

    def _changes(self, status: Status) -> Iterator[str]:
        before = self._states.pop(status.origin.agent, None)
        states = dict(_states(status))
        self._states[status.origin.agent] = states
        if len(self._states) > self._most:
            self._states.popitem(last=False)
        when = f"{wall_time(status.t1 + status.wall_offset)}  {safe_text(status.origin.host)}"
        if before is None:
            yield f"{when}  {_summary(status, states)}"
        for (kind, name), (state, error) in states.items():
            was, old_error = (before or {}).get((kind, name), ("", ""))
            # On the first status only what is wrong is worth a line.
            if (state, error) == (was, old_error) or (before is None and state == "running" and not error):
                continue
            change = f"{was} {_ARROW} {state}" if was and was != state else state
            yield f"{when}  {kind} {name}: {change}" + (f": {error}" if error else "")
        for kind, name in (before or {}).keys() - states.keys():
            yield f"{when}  {kind} {name}: gone"


def _gap(gap: Gap) -> str:
    run = f"seq {gap.first}" if gap.first == gap.last else f"seq {gap.first} to {gap.last}"
    noun = "record" if gap.count == 1 else "records"
    return safe_text(
        f"gap: sink {gap.sink} of {gap.origin.host} did not get {gap.count:,} {noun} ({run}): {gap.reason}"
    )


def _states(status: Status) -> Iterator[tuple[tuple[str, str], tuple[str, str]]]:
    """((kind, name), (state, error in one line)) of each collector and sink."""
    for kind in ("collector", "sink"):
        for one in status.body.get(f"{kind}s", ()):
            if isinstance(one, dict):
                yield (
                    (kind, safe_text(str(one.get("name", "?")))),
                    (safe_text(str(one.get("state", "?"))), _error(one.get("error"))),
                )


def _error(error: Any) -> str:
    if not error:
        return ""
    if not isinstance(error, dict):
        return safe_text(str(error))
    where = f" ({error['where']})" if error.get("where") else ""
    remedy = f"; {error['remedy']}" if error.get("remedy") else ""
    return safe_text(f"{error.get('what', '?')}{where}{remedy}".replace("\n", "; "))


def _summary(status: Status, states: dict[tuple[str, str], tuple[str, str]]) -> str:
    software = status.body.get("software")
    version = safe_text(str(software.get("version", ""))) if isinstance(software, dict) else ""
    counts: dict[tuple[str, str], int] = {}
    for (kind, _), (state, _) in states.items():
        counts[kind, state] = counts.get((kind, state), 0) + 1
    said = [f"{count} {kind}{'s' if count > 1 else ''} {state}" for (kind, state), count in counts.items()]
    return f"bpfleet {version}: {', '.join(said) or 'nothing runs'}"
