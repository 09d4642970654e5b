"""Records of stacks: what the loader opened for them, and what becomes of one map's at each read."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from bpfleet.protocol import Loaded, LoadedMap
from bpfleet.reading.columns import Array, Read
from bpfleet.reading.stacks import StackMap
from bpfleet.spec import Collector
from bpfleet.symbols.kallsyms import KernelSymbols
from bpfleet.symbols.naming import Naming
from bpfleet.symbols.processes import Processes
from bpfleet.wire import Frame, Schema, encode_schema
from bpfleet.worker.counters import Counter
from bpfleet.worker.stacks import TEXT, StackColumns, StackTexts

__all__ = ["RunningStacks", "Table", "open_naming", "running_stacks"]

log = logging.getLogger("bpfleet")


@dataclass(frozen=True, slots=True)
class Table:
    """What becomes one snapshot record (or its parts)."""

    schema: Schema
    schema_frame: Frame
    read: Read
    max_entries: int
    losses: dict[str, int]


@dataclass
class RunningStacks:
    """The stacks that a map's rows name, told in records of their own."""

    texts: StackTexts
    schema: Schema
    schema_frame: Frame
    max_entries: int
    failed_inserts: list[Counter]

    def table(self, read: Read) -> tuple[Table, Array]:
        """The texts of stacks that readers do not have yet, and the column that names each row's.

        Losses: stacks that the kernel could not keep (cumulative), texts that were cut (of these)."""
        named, texts = self.texts.column(read.columns, complete=read.complete)
        losses = {"cut_text": texts.cut} if texts.cut else {}
        if self.failed_inserts:
            losses["failed_insert"] = sum(one.value() for one in self.failed_inserts)
        told = Read("key", texts.rows, texts.stacks, texts.columns, texts.complete)
        return Table(self.schema, self.schema_frame, told, self.max_entries, losses), named


def open_naming(collector: str, loaded: Loaded, fds: list[int]) -> Naming:
    """What names functions, of what the loader could open."""
    there = loaded.symbols
    if there is None:
        return Naming()
    if there.refused:
        log.warning("collector %r: some functions will have no names: %s", collector, there.refused)
    link, wanted = there.mappings_fd, there.wanted_fd
    return Naming(
        None if there.kernel_fd is None else KernelSymbols(fds[there.kernel_fd]),
        None if link is None or wanted is None else Processes(fds[link], fds[wanted]),
    )


def running_stacks(
    spec: Collector, one: LoadedMap, loaded: Loaded, naming: Naming, fds: list[int]
) -> RunningStacks | None:
    named = [leaf.stack for leaf in (*one.key.columns(), *one.value.columns()) if leaf.stack]
    if not named:
        return None
    there = {stacks.name: stacks for stacks in loaded.stacks if stacks.name in named}
    maps = {name: StackMap(fds[stacks.fd]) for name, stacks in there.items()}
    columns = StackColumns.of([*one.key.columns(), *one.value.columns()], maps)
    help = f"the stacks of {one.name}: join by the column `stack`"
    schema = Schema(spec.name, spec.version, f"{one.name}_stacks", help, TEXT)
    return RunningStacks(
        StackTexts(columns, naming),
        schema,
        encode_schema(schema),
        sum(stacks.info.max_entries for stacks in maps.values()),
        [
            Counter.of(stacks.failed_inserts, fds)
            for stacks in there.values()
            if stacks.failed_inserts is not None
        ],
    )
