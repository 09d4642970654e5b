"""One map of a running collector: its reader, its schema, and what is told of a read."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import msgspec

from bpfleet.draining.drainer import Drainer
from bpfleet.draining.opening import open_drainer
from bpfleet.layout import unnested
from bpfleet.protocol import Loaded, LoadedMap
from bpfleet.reading.columns import Read
from bpfleet.reading.inner_maps import InnerMaps
from bpfleet.reading.iterated import IteratedMap
from bpfleet.reading.ladder import MapReader, WalkFds
from bpfleet.settings import CollectorSettings
from bpfleet.spec import Collector, Decoder
from bpfleet.symbols.naming import Naming
from bpfleet.wire import Frame, Schema, columns_of, encode_schema, fitting
from bpfleet.worker.counters import Counter, Evictions
from bpfleet.worker.decoding import DecodedColumn, decoded_columns
from bpfleet.worker.stack_records import RunningStacks, Table, running_stacks
from bpfleet.worker.stacks import STACK

__all__ = ["Cost", "RunningMap", "running_map"]

log = logging.getLogger("bpfleet")
_NAMED = 3
"""Columns that don't fit and are named in a message."""

Reader = MapReader | InnerMaps | IteratedMap | Drainer


@dataclass
class Cost:
    """What reading a map has cost, cumulative."""

    reads: int = 0
    read_ns: int = 0
    rows: int = 0
    entries: int = 0
    bytes: int = 0

    def took(self, read: Read, nanoseconds: int) -> None:
        """Count one read."""
        self.reads += 1
        self.read_ns += nanoseconds
        self.rows, self.entries = read.rows, read.entries


@dataclass
class RunningMap:
    """One map of a running collector."""

    name: str
    reader: Reader
    schema: Schema
    schema_frame: Frame
    failed_inserts: Counter | None = None
    evictions: Evictions | None = None
    decoded: list[DecodedColumn] = field(default_factory=list)
    stacks: RunningStacks | None = None
    cost: Cost = field(default_factory=Cost)
    growing: bool = False
    event_type: str = ""
    """Of a drained map: how the layout of its events was found."""
    left_out: str = ""
    """Which of the program's own columns a record can't carry."""

    def read(self) -> Read:
        """One read of the map; OSError where the kernel refuses."""
        return self.reader.read() if self.evictions is None else self.evictions.read(self.reader.read)

    def tables(self, read: Read) -> Iterator[Table]:
        """What is to be told of a read: first the stacks that its rows name, then the rows."""
        losses = self.losses(read)
        columns = list(read.columns)
        for one in self.decoded:
            made, failed = one.make(read.columns)
            columns.append(made)
            if failed:
                losses["not_decoded"] = losses.get("not_decoded", 0) + failed
        if self.stacks is not None:
            stacks, named = self.stacks.table(read)
            yield stacks
            columns.append(named)
        read = replace(read, columns=columns)
        yield Table(self.schema, self.schema_frame, read, self.reader.max_entries, losses)

    def losses(self, read: Read) -> dict[str, int]:
        """Losses by reason: those so far, and rows that this read had no room for."""
        found = self.losses_so_far()
        if read.entries > read.rows:
            found["truncated"] = read.entries - read.rows
        return found

    def losses_so_far(self) -> dict[str, int]:
        """Those that are counted since the program was loaded."""
        found = {} if self.failed_inserts is None else {"failed_insert": self.failed_inserts.value()}
        if self.evictions is not None and self.evictions.count is not None:
            found["evicted"] = self.evictions.count
        if isinstance(self.reader, Drainer):
            found |= self.reader.losses()
        return found

    def told(self) -> None:
        """What was read last is in records."""
        if isinstance(self.reader, Drainer):
            self.reader.told()


def running_map(
    spec: Collector,
    settings: CollectorSettings,
    one: LoadedMap,
    loaded: Loaded,
    naming: Naming,
    fds: list[int],
    decoders: Mapping[str, Decoder],
) -> RunningMap | None:
    """Open a reader over the fds of a map; raises ReadError where it can't be read.

    None where the map has nothing that a record could carry.
    """
    left_out = ""
    if not spec.maps:
        one, left_out = _fitted(spec.name, one)
    if not (*one.key.columns(), *one.value.columns()):
        return None
    reader = _reader(settings, one, fds)
    columns = columns_of(one.key.columns(), one.value.columns())
    decoded = decoded_columns([*one.key.columns(), *one.value.columns()], columns, decoders)
    columns = (*columns, *(made.column for made in decoded))
    stacks = running_stacks(spec, one, loaded, naming, fds)
    if stacks is not None:
        columns = (*columns, STACK)
    schema = Schema(spec.name, spec.version, one.name, one.help, columns)
    return RunningMap(
        one.name,
        reader,
        schema,
        encode_schema(schema),
        None if one.failed_inserts is None else Counter.of(one.failed_inserts, fds),
        None if one.new_keys is None else Evictions(Counter.of(one.new_keys, fds)),
        decoded,
        stacks,
        event_type=one.event_type,
        left_out=left_out,
    )


def _fitted(collector: str, one: LoadedMap) -> tuple[LoadedMap, str]:
    """The map with the columns that a record can carry, and what they are that it can't, which is told."""
    value, others = fitting(one.key, one.value)
    if not others:
        return one, ""
    left_out = ", ".join(f"{leaf.name or 'value'} ({leaf.size:,} bytes)" for leaf in others[:_NAMED])
    if len(others) > _NAMED:
        left_out += f" and {len(others) - _NAMED} more"
    log.warning(
        "collector %r: map %r is told without %s: a record takes 512 columns, 1 MiB of each, "
        "and names of 255 bytes",
        collector,
        one.name,
        left_out,
    )
    return msgspec.structs.replace(one, value=value), left_out


def _reader(settings: CollectorSettings, one: LoadedMap, fds: list[int]) -> Reader:
    if one.book_fd is not None:
        counted = one.failed_inserts is not None
        return open_drainer(one, fds, most_bytes=settings.row_buffer, counted=counted)
    if one.iterator_fd is not None:
        link = fds[one.iterator_fd]
        return IteratedMap(fds[one.fd], link, one.key, one.value, most_bytes=settings.row_buffer)
    if one.inner is not None:
        outer, key = unnested(one.key, one.inner[0], one.key_size, one.inner[1])
        return InnerMaps(fds[one.fd], outer, key, one.value, most_bytes=settings.row_buffer)
    walk = None
    if one.walk_fd is not None and one.rows_fd is not None and one.state_fd is not None:
        walk = WalkFds(fds[one.walk_fd], fds[one.rows_fd], fds[one.state_fd], one.rows_capacity)
    reader = MapReader(
        fds[one.fd],
        one.key,
        one.value,
        walk=walk,
        allowed=settings.read,
        walk_limit=settings.walk_limit,
        most_bytes=settings.row_buffer,
    )
    if one.walk_refused and "walk" in reader.why_not:
        reader.why_not["walk"] = one.walk_refused
    return reader
