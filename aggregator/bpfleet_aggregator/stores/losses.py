"""What snapshots say is lost: how every store keeps it, and how it is added up.

A store keeps all that one snapshot says as one text, `losses`: a JSON object of the counts above 0 by reason,
sorted; NULL where there is none. A count of OF_A_READ is of that read alone, so reads are added up; any other
one grows since the program was loaded, so of one load the highest counts. All parts of a read say the same.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

__all__ = ["COUNTS", "OF_A_READ", "REASONS", "losses_text"]

OF_A_READ = ("cut_text", "not_decoded", "truncated")
"""As docs/wire.md has it."""

_QUOTED = r'(?:[^"\\]|\\.)*'
REASONS = rf'"({_QUOTED})":[0-9]+'
"""Finds each reason in such a text, as JSON writes it (RE2: the engines' own JSON functions differ)."""
COUNTS = rf'"{_QUOTED}":([0-9]+)'
"""Finds each count, in the same order."""


def losses_text(losses: Mapping[str, int]) -> str | None:
    """Counts by reason as they are kept. Of most snapshots it is None, and that comes first."""
    if not any(losses.values()):
        return None
    found = {reason: losses[reason] for reason in sorted(losses) if losses[reason]}
    return msgspec.json.encode(found).decode()
