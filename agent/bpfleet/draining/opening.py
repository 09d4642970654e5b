"""From what a loader gave to a drainer."""

from __future__ import annotations

from collections.abc import Sequence

from bpfleet import kernel
from bpfleet.draining.book import Book
from bpfleet.draining.drainer import Drainer, Source
from bpfleet.draining.perf import PerfRings
from bpfleet.draining.pops import PopByOne, PopByProgram
from bpfleet.draining.ring import RingBuffer
from bpfleet.protocol import LoadedMap

__all__ = ["open_drainer"]


def open_drainer(one: LoadedMap, fds: Sequence[int], *, most_bytes: int, counted: bool) -> Drainer:
    """Drain the map that `one` describes; OSError where the kernel refuses. `counted`: its program counts
    what it could not put in."""
    assert one.book_fd is not None
    fd, book, consumed = fds[one.fd], Book(fds[one.book_fd]), 0
    info = kernel.map_info(fd)
    source: Source
    if one.perf_fds:
        source = PerfRings(
            [fds[index] for index in one.perf_fds],
            one.perf_cpus,
            one.perf_bytes,
            one.value.size,
            book,
            told_by_kernel=one.perf_counts,
        )
    elif info.type_name == "ringbuf":
        source = RingBuffer(fd, info.max_entries, one.value.size)
    elif one.walk_fd is not None and one.rows_fd is not None and one.state_fd is not None:
        program = PopByProgram(
            info, fds[one.walk_fd], fds[one.rows_fd], fds[one.state_fd], rows_a_run=one.rows_capacity
        )
        source, consumed = program, program.total
    else:
        source = PopByOne(fd, info)
    book.settle(consumed)
    made = Drainer(fd, source, book, one.key, one.value, most_bytes=most_bytes, counted=counted)
    if one.walk_refused:
        made.why_not["drain"] = one.walk_refused
    return made
