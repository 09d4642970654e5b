"""reading: one whole map, ours beside the other ways to read it, on the very same map."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

from bench.maps import Digest, FilledMap, Shape, digest, filled
from bench.peer import Bpftool, Peer, PeerError, bcc_reader, c_reader
from bench.rounds import Contender, interleave
from bench.tables import Table, si
from bpfleet.reading.ladder import MapReader

__all__ = ["CHUNKS", "compare", "run"]

CHUNKS = (4096, 0)
"""Rows of a call of the C batch loop; 0: the whole map in one. The best of them is what ratios refer to."""

_MAIN = Shape("hash", 8, 16)
_SIZES = (1_000, 10_000, 100_000, 1_000_000)
_SHAPES = (
    (_MAIN, _SIZES),
    (Shape("hash", 4, 8), _SIZES),
    (Shape("hash", 8, 16, slack=10), _SIZES[:3]),
    (Shape("lru_hash", 64, 8, slack=1.3), _SIZES),
    (Shape("percpu_hash", 8, 16), _SIZES),
    (Shape("array", 4, 8), _SIZES),
)
_QUICK = ((_MAIN, (1_000, 20_000)), (Shape("percpu_hash", 8, 16), (1_000,)))
_AGENT, _WALK, _ITEMS = "bpfleet, as the agent reads", "bpfleet walk", "bcc items()"
_SLOW_PEERS_TO = 10_000  # rows; the main shape's go on
_TOO_LONG = 10_000_000_000  # ns of one read


def run(quick: bool) -> Iterator[Table]:
    """One table for each shape and size, then all in short."""
    summary = Table(
        "reading, in short: million rows/s, and how many times the best C batch loop and bcc's items()",
        (
            "map",
            "rows",
            "the agent",
            "walk",
            "C batch",
            "agent ÷ C",
            "walk ÷ C",
            "agent ÷ items()",
            "walk ÷ items()",
        ),
    )
    for shape, sizes in _QUICK if quick else _SHAPES:
        rates: dict[str, float] = {}
        for rows in sizes:
            slow = shape == _MAIN or rows <= _SLOW_PEERS_TO
            table = compare(shape, rows, rounds=5 if quick else 11, slow=slow, rates=rates)
            yield table
            _summarize(table, summary)
    yield summary


def compare(
    shape: Shape, rows: int, *, rounds: int, slow: bool = True, rates: dict[str, float] | None = None
) -> Table:
    """Read one map in all ways; raises PeerError where not all read the same rows.

    `slow`: with the peers that make a system call, an object or text of each row. `rates` is for what was
    found at smaller sizes (ns per row, by name): those that would take over 10 s a read are left out.
    """
    rates = {} if rates is None else rates
    with filled(shape, rows) as made, ExitStack() as stack:
        ways = _Ways(made, stack, slow, rates)
        expected = ways.prove_alike()
        interleave(ways.contenders, rounds)
    for one in ways.contenders:
        rates[one.name] = one.median / made.rows
    return _table(made, ways, expected)


class _Ways:
    """The contenders for one map, and how each tells what it read."""

    def __init__(self, made: FilledMap, stack: ExitStack, slow: bool, rates: dict[str, float]) -> None:
        self.contenders: list[Contender] = []
        self.notes: list[str] = []
        self.methods: dict[str, str] = {}
        self.digests: dict[str, Callable[[], Digest]] = {}
        self._made, self._rates = made, rates

        self._ours(_AGENT, made.reader("ladder"))
        self._ours(_WALK, made.reader("walk"))
        self._ours("bpfleet batch", made.reader("batch"))
        c = stack.enter_context(c_reader(made))
        folds = ("+fold", "") if made.shape.per_cpu else ("",)
        for fold in folds:
            # Not folded is not what we do: one line shows how much folding costs C.
            for chunk in CHUNKS if fold or len(folds) == 1 else (0,):
                if chunk < made.entries:
                    self._peer(
                        f"C batch{_folded(made, fold)}, {chunk or 'all'} rows a call",
                        c,
                        f"batch{fold}:{chunk}",
                    )
        if not slow:
            self.notes.append(f"C by key, bcc and bpftool: left out at this size, see {_MAIN.name}")
            return
        self._peer(f"C by key{_folded(made, folds[0])}", c, f"key{folds[0]}")
        self._bpftool()
        try:
            bcc = stack.enter_context(bcc_reader(made))
            # bcc's batch call does not know of values per CPU.
            for method in ("items",) if made.shape.per_cpu else ("items_lookup_batch", "items"):
                self._peer(f"bcc {method}(){_folded(made, '')}", bcc, method)
        except PeerError as error:
            self.notes.append(f"bcc: {error}")

    def prove_alike(self) -> Digest:
        """Everyone reads once; raises PeerError where two read different rows. Returns what they read."""
        found = {name: ask() for name, ask in self.digests.items()}
        expected = next(iter(found.values()))
        wrong = [f"{name}: {got}" for name, got in found.items() if got != expected]
        if wrong:
            raise PeerError(f"{self._made.shape.name}: not the same rows as {expected}: {'; '.join(wrong)}")
        return expected

    def _ours(self, name: str, reader: MapReader) -> None:
        def run(repeats: int) -> int:
            began = time.perf_counter_ns()
            for _ in range(repeats):
                read = reader.read()
            took = time.perf_counter_ns() - began
            self.methods[name] = read.method
            return took

        self.digests[name] = lambda: digest(reader.read().columns)
        self.contenders.append(Contender(name, run))

    def _peer(self, name: str, peer: Peer, method: str) -> None:
        def run(repeats: int) -> int:
            took, rows = peer.time(method, repeats)
            if rows != self._made.rows:
                raise PeerError(f"{name}: read {rows} rows of {self._made.rows}")
            return took

        self._add(name, run, lambda: peer.digest(method))

    def _bpftool(self) -> None:
        name = f"bpftool -j map dump{_folded(self._made, '')}"
        try:
            tool = Bpftool(self._made)
        except PeerError as error:
            self.notes.append(str(error))
            return
        self._add(name, tool.time, tool.digest)

    def _add(self, name: str, run: Callable[[int], int], ask: Callable[[], Digest]) -> None:
        expected = self._rates.get(name, 0.0) * self._made.rows
        if expected > _TOO_LONG:
            self.notes.append(f"{name}: left out, a read would take about {expected / 1e9:.0f} s")
            return
        # The slow ones' checksums cost more than their reads: proven at the sizes up to 100,000.
        if expected < 1e9:
            self.digests[name] = ask
        self.contenders.append(Contender(name, run, least=3 if expected > 1e9 else 5))


def _folded(made: FilledMap, fold: str) -> str:
    if not made.shape.per_cpu:
        return ""
    return ", folded" if fold else ", not folded"


def _table(made: FilledMap, ways: _Ways, expected: Digest) -> Table:
    table = Table(
        f"reading: {made.shape.name}, {made.rows:,} rows",
        ("", "rows/s", "slowest", "fastest", "a read takes", "C batch = 1", "rounds of reads"),
    )
    wanted = ", folded" if made.shape.per_cpu else ""
    reference = min(
        (one for one in ways.contenders if one.name.startswith(f"C batch{wanted}, ")),
        key=lambda one: one.median,
    )
    for one in ways.contenders:
        name = f"{one.name} ({ways.methods[one.name]})" if one.name == _AGENT else one.name
        rate = [made.rows / ns * 1e9 for ns in (one.median, one.worst, one.best)]
        ratio = reference.median / one.median
        mark = " *" if one is reference else ""
        table.rows.append(
            [
                name + mark,
                *map(si, rate),
                _duration(one.median),
                f"{ratio:.2f}",
                f"{len(one.times)} of {one.repeats}",
            ]
        )
        table.data.append(
            {
                "map": made.shape.name,
                "rows": made.rows,
                "name": one.name,
                "method": ways.methods.get(one.name, ""),
                "median_ns": one.median,
                "min_ns": one.best,
                "max_ns": one.worst,
                "rows_per_s": rate[0],
                "ratio_to_c_batch": ratio,
                "reference": one is reference,
                "rounds": len(one.times),
                "repeats": one.repeats,
            }
        )
    unproven = ", ".join(one.name for one in ways.contenders if one.name not in ways.digests)
    proof = f"{expected[0]:,} rows with the same checksum {expected[1]:016x} from all"
    table.notes = [
        proof + (f" but {unproven}: too slow, proven at 100,000 rows" if unproven else ""),
        *ways.notes,
    ]
    return table


def _summarize(table: Table, summary: Table) -> None:
    """One row of the summary; its data are the table's."""
    found = {one["name"]: one["rows_per_s"] for one in table.data}
    reference = next(one["rows_per_s"] for one in table.data if one["reference"])
    items = next((rate for name, rate in found.items() if name.startswith(_ITEMS)), None)
    ours = (found[_AGENT], found[_WALK])
    summary.rows.append(
        [
            table.data[0]["map"],
            f"{table.data[0]['rows']:,}",
            *(f"{rate / 1e6:.2f}" for rate in (*ours, reference)),
            *(f"{rate / reference:.2f}" for rate in ours),
            *(f"{rate / items:.0f}" if items else "-" for rate in ours),
        ]
    )


def _duration(ns: float) -> str:
    return f"{ns / 1e6:.2f} ms" if ns < 1e9 else f"{ns / 1e9:.2f} s"
