"""Wire format 1: records as msgpack. `docs/wire.md` specifies it; this package makes and reads it.

encode   Snapshot, Gap, Status, Schema → Frame
decode   bytes → the same records, with hard limits; then columns (numpy) or rows
stream   records one after another in a file
"""

from __future__ import annotations

from bpfleet.wire.decode import Decoder, Limits, UnknownSchema, decode, schema_memory
from bpfleet.wire.encode import (
    Frame,
    compress,
    encode_gap,
    encode_schema,
    encode_snapshot,
    encode_status,
)
from bpfleet.wire.fitting import fitting
from bpfleet.wire.records import Column, Gap, Origin, Record, Schema, Snapshot, Status, columns_of
from bpfleet.wire.stream import read_file

__all__ = [
    "Column",
    "Decoder",
    "Frame",
    "Gap",
    "Limits",
    "Origin",
    "Record",
    "Schema",
    "Snapshot",
    "Status",
    "UnknownSchema",
    "columns_of",
    "compress",
    "decode",
    "encode_gap",
    "encode_schema",
    "encode_snapshot",
    "encode_status",
    "fitting",
    "read_file",
    "schema_memory",
]
