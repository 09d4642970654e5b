"""Whether a record can be taken: its size, its content, its schema, and whose it is."""

from __future__ import annotations

from collections import OrderedDict

from bpfleet.errors import WireError
from bpfleet.wire import Gap, Limits, Schema, Snapshot, Status, schema_memory
from bpfleet_aggregator.schema_budget import SchemaBudget
from bpfleet_aggregator.session import Session

__all__ = ["Checker", "memory_of"]

_CACHED_BYTES = 16 << 20
_SCHEMAS, _SCHEMA_BYTES = 4096, 16 << 20


class Checker:
    """Decodes what agents send. Ten thousand agents with the same collectors share each schema in memory."""

    def __init__(self, max_size: int, budget: SchemaBudget) -> None:
        self.limits = Limits(schemas=_SCHEMAS, schema_bytes=_SCHEMA_BYTES)
        """Of one session."""
        self._max_size = max_size
        self._budget = budget
        self._schemas: OrderedDict[bytes, tuple[Schema, int]] = OrderedDict()
        self._schema_bytes = 0

    def schema(self, session: Session, frame: bytes) -> None:
        """Remember a schema for that session; raises WireError."""
        known = self._schemas.get(frame)
        if known is not None:
            session.decoder.learn(*known)
            return
        self._check_size(frame)
        found = session.decoder.decode(frame)
        if not isinstance(found, Schema):
            raise WireError("a record of seq 0 is a schema, this is something else")
        self._keep(frame, found)

    def record(self, session: Session, frame: bytes) -> Snapshot | Gap | Status:
        """The record that `frame` is; raises WireError where it never can be taken."""
        self._check_size(frame)
        record = session.decoder.decode(frame, where=f"agent {session.agent}")
        if isinstance(record, Schema):
            raise WireError("a schema has seq 0")
        if record.origin.agent != session.agent:
            raise WireError(
                f"the record is of agent {record.origin.agent[:64]}, the session of {session.agent}"
            )
        if isinstance(record, Snapshot):
            self._budget.admit(session.agent, record.schema)
        return record

    def _check_size(self, frame: bytes) -> None:
        if len(frame) > self._max_size:
            raise WireError(f"it has {len(frame)} bytes, at most {self._max_size} are taken")

    def _keep(self, frame: bytes, schema: Schema) -> None:
        """By the very bytes: agents of one release encode a schema alike. To forget one costs time only."""
        self._schemas[frame] = schema, schema_memory(schema)
        self._schema_bytes += len(frame)
        while self._schema_bytes > _CACHED_BYTES:
            oldest, _ = self._schemas.popitem(last=False)
            self._schema_bytes -= len(oldest)


def memory_of(record: Snapshot | Gap | Status, size: int) -> int:
    """What a record that waits takes, in bytes: compressed ones grow."""
    if isinstance(record, Snapshot):
        return max(size, record.rows * record.schema.row_bytes)
    return size
