"""Stacks as text: rows with stack ids get a column `stack`, and a record of its own tells what that says.

The column is a hash of the text, so that one stack is the same on every host and after every restart; the
record `MAP_stacks` has each hash with its text once, and all of them again now and then. A row's text is
made when the row is first met, while its process is likely to be there still, and kept as long as the row is.
"""

from __future__ import annotations

import errno
import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bpfleet.layout import Leaf
from bpfleet.reading.columns import Array
from bpfleet.reading.stacks import Stack, StackMap
from bpfleet.schema import Meaning
from bpfleet.symbols.naming import Naming
from bpfleet.wire import Column

__all__ = ["STACK", "TEXT", "StackColumns", "StackTexts", "Texts", "folded"]

STACK = Column("stack", "value", "char", 16, Meaning.LABEL.value, "", "names the stack's text in MAP_stacks")
"""What a map with stack ids has besides its own columns."""
TEXT = (
    Column("stack", "key", "char", 16, Meaning.LABEL.value, "", "hash of the text"),
    Column("text", "value", "char", 4096, Meaning.LABEL.value, "", "outermost;…;innermost function"),
)
"""The columns of a record of stack texts."""
_LONGEST = 4096
_CUT = b";[cut]"
_AGAIN = 600.0
"""Seconds after which all texts are told again, for whoever missed them."""
_KERNEL_HALF = 1 << 63
_MOST_TEXTS = 1 << 16
_MOST_ROWS = 1 << 18


@dataclass(frozen=True, slots=True)
class StackColumns:
    """Where in a map's columns stand the stack ids (each with its stack map), the process id, the command."""

    ids: tuple[tuple[int, StackMap], ...]
    process: int | None
    command: int | None

    @staticmethod
    def of(leaves: Sequence[Leaf], maps: Mapping[str, StackMap]) -> StackColumns:
        """From a map's leaves, in the order of its columns."""
        at = {leaf.name: index for index, leaf in enumerate(leaves)}
        held = [(index, leaf) for index, leaf in enumerate(leaves) if leaf.stack]
        named = [leaf.process for _, leaf in held if leaf.process]
        process = next((at[name] for name in (*named, "tgid", "pid") if name in at), None)
        command = at.get("comm")
        is_text = command is not None and leaves[command].base == "char"
        return StackColumns(
            tuple((index, maps[leaf.stack]) for index, leaf in held), process, command if is_text else None
        )

    @property
    def all(self) -> list[int]:
        """Indexes of all columns that a text depends on."""
        others = [index for index in (self.process, self.command) if index is not None]
        return [*(index for index, _ in self.ids), *others]


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts that are to be told now: the columns of `TEXT`."""

    columns: list[Array]
    complete: bool
    """Whether these are all that the map's rows have."""
    stacks: int
    """Different stack ids in the rows."""
    cut: int
    """Texts that were too long."""

    @property
    def rows(self) -> int:
        """How many texts."""
        return len(self.columns[0])


class StackTexts:
    """The stacks of one map's rows."""

    def __init__(self, columns: StackColumns, naming: Naming) -> None:
        self._columns, self._naming = columns, naming
        # Rows of the last read, as bytes, sorted; and the hash of each one's text.
        self._rows: Array = np.empty(0, "S1")
        self._hashes: Array = np.empty(0, "S16")
        self._texts: dict[bytes, bytes] = {}
        self._told_all = float("-inf")

    def column(self, columns: Sequence[Array], *, complete: bool) -> tuple[Array, Texts]:
        """The column `stack` for rows of these columns, and the texts that readers do not have yet."""
        packed = _packed([columns[index] for index in self._columns.all])
        unique, first, back = np.unique(packed, return_index=True, return_inverse=True)
        at = np.minimum(np.searchsorted(self._rows, unique), max(0, len(self._rows) - 1))
        known = self._rows[at] == unique if len(self._rows) else np.zeros(len(unique), bool)
        hashes = np.empty(len(unique), "S16")
        hashes[known] = self._hashes[at[known]]
        new: dict[bytes, bytes] = {}
        made = self._made([columns[index][first[~known]] for index in self._columns.all])
        hashes[~known] = [_hash(text, self._texts, new) for text in made]
        if complete or len(self._rows) > _MOST_ROWS:
            self._rows, self._hashes = unique, hashes
        else:
            # What is missing may come again, and its process be gone by then.
            self._rows, keep = np.unique(np.append(self._rows, unique), return_index=True)
            self._hashes = np.append(self._hashes, hashes)[keep]
        return hashes[back.reshape(-1)], self._to_tell(new, columns)

    def _to_tell(self, new: dict[bytes, bytes], columns: Sequence[Array]) -> Texts:
        self._texts |= new
        again = time.monotonic() - self._told_all > _AGAIN or len(self._texts) > _MOST_TEXTS
        if again:
            self._told_all = time.monotonic()
            self._texts = {one: self._texts[one] for one in np.unique(self._hashes).tolist()}
            new = self._texts
        ids = {
            number
            for index, stacks in self._columns.ids
            for number in np.unique(columns[index].astype("<i4")).tolist()
            if number >= 0
        }
        return Texts(
            [np.array(list(new), "S16"), np.array(list(new.values()), f"S{_LONGEST}")],
            again,
            len(ids),
            sum(text.endswith(_CUT) for text in new.values()),
        )

    def _made(self, columns: list[Array]) -> list[bytes]:
        """The text of each row."""
        count = len(self._columns.ids)
        rows = list(zip(*(one.astype("<i4").tolist() for one in columns[:count]), strict=True))
        rest = iter(columns[count:])
        none = [0] * len(rows)
        processes = none if self._columns.process is None else next(rest).tolist()
        commands = [b""] * len(rows) if self._columns.command is None else next(rest).tolist()
        frames = _Frames(self._columns, self._naming, rows, processes)
        return [
            folded([_plain(command.partition(b"\0")[0].decode("utf-8", "replace")), *frames.of(ids, process)])
            for ids, process, command in zip(rows, processes, commands, strict=True)
        ]


class _Frames:
    """The stacks of some rows: each looked up once, all addresses of a process named at once."""

    def __init__(
        self, columns: StackColumns, naming: Naming, rows: list[tuple[int, ...]], processes: list[int]
    ) -> None:
        self._naming = naming
        self._maps = [stacks for _, stacks in columns.ids]
        self._stacks: dict[tuple[int, int], Stack | None] = {
            (which, number): self._maps[which].get(number)
            for which, number in {(i, number) for row in rows for i, number in enumerate(row) if number >= 0}
        }
        self._user: dict[tuple[int, int], str] = {}
        self._kernel: dict[int, str] = {}
        self._name_all(rows, processes)

    def _name_all(self, rows: list[tuple[int, ...]], processes: list[int]) -> None:
        user: dict[int, set[int]] = {}
        kernel: set[int] = set()
        for row, process in zip(rows, processes, strict=True):
            for which, number in enumerate(row):
                for address in self._plain_addresses(which, number):
                    if address >= _KERNEL_HALF:
                        kernel.add(address)
                    else:
                        user.setdefault(process, set()).add(address)
        wanted = {process: np.array(sorted(there), np.uint64) for process, there in user.items()}
        for process, names in self._naming.user_names(wanted).items():
            for address, name in zip(wanted[process].tolist(), names, strict=True):
                self._user[process, address] = _plain(name)
        addresses = np.array(sorted(kernel), np.uint64)
        self._kernel = dict(zip(addresses.tolist(), self._naming.kernel_names(addresses), strict=True))

    def _plain_addresses(self, which: int, number: int) -> list[int]:
        stack = self._stacks.get((which, number))
        if stack is None:
            return []
        places = _call_sites(stack)
        return [a for i, a in enumerate(places) if not stack.build_ids or not stack.build_ids[i]]

    def of(self, ids: tuple[int, ...], process: int) -> list[str]:
        """Names from the outermost function to the innermost, the program's before the kernel's."""
        user: list[str] = []
        kernel: list[str] = []
        for which, number in enumerate(ids):
            if number == -errno.EFAULT:
                continue  # there is none: a kernel thread has no user stack
            if number < 0:
                user.append(f"[lost: {errno.errorcode.get(-number, number)}]")
                continue
            stack = self._stacks[which, number]
            if stack is None:
                user.append("[lost: gone from the map]")
                continue
            places = _call_sites(stack)
            for i in reversed(range(len(places))):
                if stack.build_ids and stack.build_ids[i]:
                    offset = np.array([places[i]], np.uint64)
                    user.append(_plain(self._naming.build_id_names(stack.build_ids[i], offset)[0]))
                elif places[i] >= _KERNEL_HALF:
                    kernel.append(self._kernel[places[i]])
                else:
                    user.append(self._user[process, places[i]])
        return [*user, *kernel]


def _call_sites(stack: Stack) -> list[int]:
    """All but the innermost frame hold where a call returns to, which may be behind a function's end."""
    innermost, *callers = stack.addresses.tolist() or [0]
    return [innermost, *(address - 1 for address in callers)] if len(stack.addresses) else []


def _packed(columns: list[Array]) -> Array:
    """Each row of the columns as one string of bytes, to compare and sort by."""
    rows = np.empty(len(columns[0]), [(str(i), one.dtype) for i, one in enumerate(columns)])
    for i, one in enumerate(columns):
        rows[str(i)] = one
    return rows.view(f"S{rows.dtype.itemsize}")


def _plain(name: str) -> str:
    """Without what separates frames and lines in folded stacks."""
    return name.replace(";", ":").replace("\n", " ").replace("\0", "")


def folded(frames: list[str]) -> bytes:
    """The frames as one text, outermost first; one that is too long ends with `[cut]`."""
    text = ";".join(frame for frame in frames if frame).encode("utf-8", "replace")
    if len(text) <= _LONGEST:
        return text
    return text[: _LONGEST - len(_CUT)].rpartition(b";")[0] + _CUT


def _hash(text: bytes, known: Mapping[bytes, bytes], new: dict[bytes, bytes]) -> bytes:
    made = hashlib.blake2b(text, digest_size=8).hexdigest().encode()
    if made not in known:
        new[made] = text
    return made
