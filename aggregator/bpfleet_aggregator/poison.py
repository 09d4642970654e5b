"""One record that a store can't take must not cost the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bpfleet.errors import StoreError
from bpfleet.stores import Received, Store

__all__ = ["Attempt", "attempt"]

_MOST_ALONE = 64
"""So many records that fail one by one, and none that does not: then it is the store."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """How far a batch came."""

    done: int
    """Records from the batch's beginning that are stored or refused."""
    refused: Sequence[tuple[int, str]] = ()
    """Of those, the ones that failed alone, where others did not: index and reason."""
    trouble: StoreError | None = None
    """Why the rest has to come again."""


def attempt(store: Store, batch: Sequence[Received]) -> Attempt:
    """Commit `batch`; where that fails for another reason than "not now", halve it until what fails is alone.

    Where nothing at all can be stored the fault is not the records': then all of it has to come again.
    """
    refused: list[tuple[int, str]] = []
    stored = 0
    ranges = [(0, len(batch))]
    while ranges:
        start, stop = ranges.pop()
        try:
            store.commit(batch[start:stop])
            stored += stop - start
            continue
        except StoreError as error:
            # Without one that was stored, nothing is known of those that were not.
            return Attempt(start, refused, error) if stored else Attempt(0, (), error)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"[:400]
        if stop - start > 1:
            middle = (start + stop) // 2
            # The first half first: what is done is always the batch's beginning.
            ranges += [(middle, stop), (start, middle)]
            continue
        refused.append((start, reason))
        if not stored and len(refused) >= min(_MOST_ALONE, len(batch)):
            return Attempt(0, (), StoreError(f"every record fails: {reason}"))
    return Attempt(len(batch), refused)
