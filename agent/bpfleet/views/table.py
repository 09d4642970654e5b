"""One snapshot as a table: the rows that count most, with rates and quantiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bpfleet.views.drawing import Grid, Look, draw
from bpfleet.views.histogram import quantile, sparkline
from bpfleet.views.rates import GROWING, Floats, rates, totals
from bpfleet.views.stacks import is_stack
from bpfleet.views.units import ABSENT, quantity, safe_text, wall_time
from bpfleet.wire import Column, Snapshot

__all__ = ["render_table"]

Array = npt.NDArray[Any]

_LONGEST_ARRAY = 8


def render_table(
    snapshot: Snapshot,
    previous: Snapshot | None = None,
    look: Look | None = None,
    stacks: Mapping[bytes, bytes] | None = None,
) -> str:
    """The snapshot as lines, with a newline at the end.

    A title (map, local wall time, host, fill, reading method and its time, losses), then at most
    `look.rows` rows, the largest by the first counter or histogram sum; of events the latest. `previous` is
    the same map's snapshot before; without it rates are "\N{EN DASH}". `stacks` has the texts of a column
    `stack`.
    """
    look = look or Look()
    events = snapshot.schema.is_events
    rows = _latest(snapshot, look.rows) if events else _largest(snapshot, look.rows)
    growth = rates(snapshot, previous, rows)
    grid = Grid(_title(snapshot), _warning(snapshot))
    columns = list(zip(snapshot.schema.columns, snapshot.columns, strict=True))
    # What a row is comes before what was counted for it, even where a label is part of the value.
    if not events:
        columns.sort(key=lambda pair: pair[0].meaning != "label")
    for column, array in columns:
        if stacks is not None and is_stack(column):
            continue
        _add(grid, column, array[rows], growth.get(column.name), snapshot.t1)
    for column, array in columns:
        if stacks is not None and is_stack(column):
            texts = [
                safe_text(stacks.get(one, one).decode("utf-8", "replace")) for one in array[rows].tolist()
            ]
            grid.add(column.name, texts, right=False, shrinks=True, widest=1 << 16)
    left_out = snapshot.rows - len(rows)
    if not snapshot.rows:
        grid.foot = "(no events)" if events else "(no rows)"
    elif left_out:
        noun = ("earlier event" if events else "more row") + ("s" if left_out > 1 else "")
        grid.foot = f"\N{HORIZONTAL ELLIPSIS} {left_out:,} {noun}"
    return draw(grid, look)


def _largest(snapshot: Snapshot, most: int) -> list[int]:
    """The rows to show, the largest first."""
    for wanted in (GROWING, ("gauge",)):
        for column, array in zip(snapshot.schema.columns, snapshot.columns, strict=True):
            if column.meaning in wanted and array.dtype.kind in "uif":
                order = np.argsort(totals(column, array), kind="stable")[::-1]
                return [int(row) for row in order[:most]]
    return list(range(min(most, snapshot.rows)))


def _latest(snapshot: Snapshot, most: int) -> list[int]:
    """The events to show, in their order."""
    numbers = next(
        array
        for column, array in zip(snapshot.schema.columns, snapshot.columns, strict=True)
        if column.meaning == "event"
    )
    if numbers.dtype.kind not in "ui" or numbers.ndim != 1:
        return list(range(min(most, snapshot.rows)))
    order = np.argsort(numbers, kind="stable")
    return [int(row) for row in order[max(0, len(order) - most) :]]


def _title(snapshot: Snapshot) -> list[str]:
    read = f"{snapshot.method} {quantity(snapshot.t1 - snapshot.t0, 'ns')}"
    if snapshot.schema.is_events:
        fill = f"{snapshot.entries:,} event{'' if snapshot.entries == 1 else 's'}"
    else:
        fill = f"{snapshot.entries:,} of {snapshot.max_entries:,} entries"
    if snapshot.max_entries and not snapshot.schema.is_events:
        share = snapshot.entries / snapshot.max_entries
        fill += " (<1%)" if 0 < share < 0.01 else f" ({share:.0%})"
    return [
        safe_text(f"{snapshot.schema.collector}.{snapshot.schema.map}"),
        wall_time(snapshot.t1 + snapshot.wall_offset),
        safe_text(snapshot.origin.host),
        fill,
        safe_text(read),
    ]


def _warning(snapshot: Snapshot) -> str:
    lost = [f"{safe_text(reason)} {count:,}" for reason, count in snapshot.losses.items() if count]
    said = [f"lost: {', '.join(lost)}"] if lost else []
    if snapshot.schema.is_events and not {"lost", "failed_insert"} & snapshot.losses.keys():
        said.append("what found no room is not counted")
    return "; ".join([*said, *([] if snapshot.complete else ["incomplete"])])


def _add(grid: Grid, column: Column, array: Array, growth: Floats | None, now: int) -> None:
    """Add what one schema column shows: one grid column, or several."""
    name, unit = safe_text(column.name), column.unit
    if column.meaning == "histogram" and array.ndim == 2 and array.dtype.kind in "ui":
        _add_histogram(grid, name, unit, array.tolist(), growth)
    elif array.dtype.kind not in "uif":
        grid.add(name, [_text(column, value) for value in array.tolist()], right=False, shrinks=True)
    elif column.type == "bool" and array.ndim == 1:
        grid.add(name, ["yes" if value else "no" for value in array.tolist()], right=False)
    elif column.meaning == "event" and array.ndim == 1:
        grid.add("#" if name == "event_number" else name, [str(value) for value in array.tolist()])
    elif column.meaning == "label":
        grid.add(name, [_listed(value, str) for value in array.tolist()])
    elif column.meaning == "timestamp" and array.ndim == 1:
        grid.add(f"{name} ago", [_ago(now, value) for value in array.tolist()])
    else:
        values = array if array.ndim == 1 else totals(column, array)
        if array.ndim == 2 and column.meaning != "counter":
            grid.add(name, [_listed(v, lambda one: quantity(one, unit)) for v in array.tolist()])
        else:
            grid.add(name, [quantity(value, unit) for value in values.tolist()])
        if growth is not None:
            grid.add(f"{name}/s", _per_second(growth, unit))


def _add_histogram(grid: Grid, name: str, unit: str, counted: list[list[int]], growth: Floats | None) -> None:
    grid.add(name, [quantity(sum(slots)) for slots in counted])
    if growth is not None:
        grid.add(f"{name}/s", _per_second(growth, ""))
    for q in (0.5, 0.99):
        grid.add(f"p{q * 100:.0f}", [_quantile(slots, q, unit) for slots in counted])
    grid.add("", _common_slots(counted), right=False, drawn=sparkline)


def _common_slots(counted: list[list[int]]) -> list[list[int]]:
    """The slots between the first and the last that any row filled, so that bars stand below each other."""
    filled = [slot for slots in counted for slot, count in enumerate(slots) if count > 0] or [0]
    return [slots[min(filled) : max(filled) + 1] for slots in counted]


def _quantile(slots: Sequence[int], q: float, unit: str) -> str:
    estimate = quantile(slots, q)
    # The last slot also holds whatever was larger.
    beyond = estimate > 2.0 ** (len(slots) - 1)
    return ("> " if beyond else "") + quantity(_rounded(estimate), unit)


def _rounded(estimate: float) -> float:
    """Two digits: more would claim what log2 slots can't tell."""
    return estimate if estimate != estimate else float(f"{estimate:.2g}")


def _per_second(growth: Floats, unit: str) -> list[str]:
    return [quantity(value, unit) for value in growth.tolist()]


def _text(column: Column, value: Any) -> str:
    if column.type == "bytes":
        return bytes(value).hex()
    return safe_text(value.partition(b"\0")[0].decode("utf-8", "replace"))


def _listed(value: Any, say: Any) -> str:
    if not isinstance(value, list):
        return str(say(value))
    more = " \N{HORIZONTAL ELLIPSIS}" if len(value) > _LONGEST_ARRAY else ""
    return " ".join(say(one) for one in value[:_LONGEST_ARRAY]) + more


def _ago(now: int, value: int) -> str:
    return quantity(now - value, "ns") if 0 < value <= now else ABSENT
