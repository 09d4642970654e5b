"""What a ClickHouse server or the way to it does wrong, as errors with a remedy."""

from __future__ import annotations

import re
import ssl

from bpfleet.errors import StoreError

__all__ = [
    "ALREADY_THERE",
    "ANOTHER_QUORUM",
    "NO_SUCH_COLUMN",
    "NO_SUCH_TABLE",
    "TIMED_OUT",
    "Refused",
    "unreachable",
]

ALREADY_THERE = frozenset({15, 44, 57, 253})
"""A column or a table that was to be made is there (253: a replica's node in ZooKeeper)."""
NO_SUCH_TABLE = frozenset({60})
NO_SUCH_COLUMN = frozenset({10, 16, 47})
TIMED_OUT = frozenset({159})
ANOTHER_QUORUM = frozenset({286})
"""Replicas have not all answered for the insert before this one, which may be another aggregator's."""

_CODE = re.compile(r"Code: (\d+)")
_REMEDIES = {
    frozenset({192, 193, 194, 516}): "set `user` and `password` (or `password_file`) of the store",
    frozenset({195}): "let this host in: <networks> of the user in the server's users.xml",
    frozenset({291, 497}): "grant the store's user SELECT, INSERT, CREATE, ALTER and DROP on its database",
    frozenset(
        {164}
    ): "give the store's user a profile that is not read-only (for questions alone: readonly = 2)",
    frozenset({81}): "an aggregator makes the database when it starts; or set `database`",
    frozenset({252}): "merges lag behind: fewer, larger commits (the aggregator's batch), or faster disks",
    frozenset({241, 173}): "more memory for the server, or a higher max_memory_usage for the store's user;"
    " for a question: fewer days or agents at once",
    frozenset({243}): "make room on the server's disk, or set `retention` or `max_size` of the store",
    frozenset({159, 160}): "raise `timeout` of the store, or ask for less",
    frozenset({202}): "raise the server's max_concurrent_queries",
    frozenset(
        {242, 225, 999, 285, 286, 289, 319}
    ): "see to the replicas and ZooKeeper (Keeper); what was sent is sent again",
    frozenset(
        {49, 170, 701}
    ): "`cluster` names a <remote_servers> entry of the server, which needs ZooKeeper for it",
    frozenset({139}): "`replica_path` and `replica` may use only what the server's <macros> define",
    frozenset({60}): "an aggregator makes the relations when their first records come",
}


class Refused(StoreError):
    """Raised when the server answered that it won't: `code` is its number for why."""

    def __init__(self, text: str, *, where: str) -> None:
        found = _CODE.search(text)
        self.code = int(found[1]) if found else 0
        if "No macro" in text:  # 62, any syntax error, where the server is old
            self.code = 139
        super().__init__(f"the server refused: {said(text)}", where=where, remedy=_remedy(self.code))

    @property
    def is_of_settings(self) -> bool:
        """Whether the store's own settings are what has to change."""
        return self.code in (192, 193, 194, 516, 49, 170, 701, 139)


def said(text: str) -> str:
    """The engine's own words, without stack traces and the noise around them."""
    words = re.sub(r",? e\.what\(\) = .*", "", text.strip(), flags=re.DOTALL)
    words = words.partition("Stack trace:")[0].replace("e.displayText() = ", "")
    return " ".join(words.split())[:1000] or "(it said nothing)"


def _remedy(code: int) -> str:
    for codes, remedy in _REMEDIES.items():
        if code in codes:
            return remedy
    return ""


def unreachable(error: Exception, *, where: str) -> StoreError:
    """No answer: away, refuses the connection, cut off, too slow."""
    if isinstance(error, TimeoutError):
        return StoreError(
            f"the server did not answer in time ({error})",
            where=where,
            remedy="what was sent may be in: it is sent again, and stored once; raise `timeout` if it lasts",
        )
    if isinstance(error, ssl.SSLCertVerificationError):
        return StoreError(
            f"the server's certificate is not accepted: {error.verify_message}",
            where=where,
            remedy="`ca_file` has the certificate of who signed it; `url` a name that it is for",
        )
    words = str(error) or type(error).__name__
    return StoreError(
        f"the server can't be reached: {words}", where=where, remedy="does ClickHouse listen at `url`?"
    )
