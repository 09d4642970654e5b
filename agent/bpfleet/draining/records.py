"""Where the records of a ring begin: found by numpy for thousands at once, never one by one in Python.

A record's header says how long it is, so the next one's place is known only once the one before has been
read. Two ways around that. Records alike: where the header at every s-th slot is the same one, of a record
of s slots, each of them proves the next. Records that differ: for *every* slot, as if a record began there,
the slot where the next would begin; that table applied to itself leaps 2, 4, 8, 16 records. Python goes from
leap to leap, and numpy fills in what lies between. (Slots in the middle of a record give nonsense that no
leap ever meets.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

__all__ = ["Run", "Scattered", "Words", "locate"]

Words = npt.NDArray[np.uint64]
Slots = npt.NDArray[np.intp]
Steps = Callable[[Words], Slots]

_DOUBLINGS = 4
_CHUNK = 16384
_WORTH_A_RUN = 64
_FIRST_WINDOW, _WINDOW_GROWS = 256, 8
_PLACES = np.arange(_CHUNK)


@dataclass(frozen=True, slots=True)
class Run:
    """`count` records with the same header, `step` slots apart, the first at slot `start`."""

    start: int
    step: int
    count: int


@dataclass(frozen=True, slots=True)
class Scattered:
    """Records with headers of their own; `at` are their slots, in order."""

    at: Slots


def locate(words: Words, steps: Steps, same: int) -> Iterator[Run | Scattered]:
    """The records of `words`, 8-byte slots of which the first begins a record and the last ends one.

    `steps` says of header words how many slots their records take, at least 1; of one that is to stop us more
    slots than there can be. Header words are alike where all bits of the mask `same` are. What is found ends
    before a record that goes beyond the end.
    """
    at, mask, end = 0, np.uint64(same), len(words)
    scattered: list[Slots] = []
    hops = np.empty((0, 0), np.intp)
    while at < end:
        step = int(steps(words[at : at + 1])[0])
        if at + step > end:
            break
        run = _run(words, at, step, mask)
        if run.count >= _WORTH_A_RUN or at + step * run.count == end:
            yield from _together(scattered)
            yield run
            at += run.count * step
            continue
        if not len(hops):
            hops = np.empty((_DOUBLINGS + 1, min(_CHUNK, end - at) + 1), np.intp)
        found, following = _leaps(words[at : at + _CHUNK], steps, end - at, hops)
        scattered.append(found + at)
        if not following:
            break
        at += following
    yield from _together(scattered)


def _together(scattered: list[Slots]) -> Iterator[Scattered]:
    """What was found in several chunks, as one."""
    if scattered:
        yield Scattered(np.concatenate(scattered))
        scattered.clear()


def _run(words: Words, at: int, step: int, mask: np.uint64) -> Run:
    """The records like the one at slot `at` that follow it without a break."""
    # A header whose record would go beyond the end is none.
    headers = words[at::step][: (len(words) - at) // step]
    wanted, alike, window = headers[0] & mask, 0, _FIRST_WINDOW
    while alike < len(headers):
        same = (headers[alike : alike + window] & mask) == wanted
        if not same.all():
            alike += int(same.argmin())
            break
        alike += len(same)
        window *= _WINDOW_GROWS
    return Run(at, step, alike)


def _leaps(words: Words, steps: Steps, room: int, scratch: Slots) -> tuple[Slots, int]:
    """The records of a chunk: their slots, and the slot of the record after them; 0 where one says stop.

    `room` is how many slots there are in all; the chunk's first record fits in them. `scratch` is memory
    for the tables, which new memory for each chunk would cost more than filling them.
    """
    count = len(words)
    step = steps(words)
    # Slot `count` is the end, and stays there.
    hops = [row[: count + 1] for row in scratch]
    np.add(_PLACES[:count], step, out=hops[0][:count])
    hops[0][count] = count
    np.minimum(hops[0], count, out=hops[0])
    for shorter, longer in pairwise(hops):
        shorter.take(shorter, out=longer, mode="clip")
    leap, place = hops.pop(), 0
    anchors = []
    while place < count:
        anchors.append(place)
        place = int(leap[place])
    found = np.array(anchors, np.intp)
    for hop in reversed(hops):
        both = np.empty((len(found), 2), np.intp)
        both[:, 0] = found
        hop.take(found, out=both[:, 1], mode="clip")
        found = both.reshape(-1)
    found = found[: int(np.searchsorted(found, count))]
    last = int(found[-1])
    following = last + int(step[last])
    return (found[:-1], 0) if following > room else (found, following)
