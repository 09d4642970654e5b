"""docs/sinks.md and docs/delivery.md name every setting with its default, every field of every message."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bpfleet import SinkSettings
from bpfleet.settings import Duration, Size
from bpfleet.wire.messages import Ack, Bye, Data, Hello, Nack, Welcome, encode
from bpfleet_plugins.sinks.file import FileSettings
from bpfleet_plugins.sinks.stdout import StdoutSettings
from bpfleet_plugins.sinks.zmq import ZmqSettings

DOCS = Path(__file__).parent.parent / "docs"
ROW = re.compile(r"\| `(\w+)` \| (.+?) \|")


def documented(heading: str) -> dict[str, str]:
    """Setting → default, of the table under a heading of docs/sinks.md."""
    text = (DOCS / "sinks.md").read_text()
    section = text.partition(f"\n{heading}\n")[2].partition("\n## ")[0]
    return dict(ROW.findall(section))


def value(default: str, kind: Any) -> Any:
    """What a default stands for, as written in the table."""
    if default.startswith('`"') and kind in (Duration, Size):
        return kind.parse(default.strip('`"'))
    return {"`true`": True, "`[]`": ()}.get(default, default.strip('`"'))


@pytest.mark.parametrize(
    ("heading", "model"), [("## stdout", StdoutSettings), ("## file", FileSettings), ("## zmq", ZmqSettings)]
)
def test_every_setting_of_a_sink_is_documented_with_its_default(heading: str, model: Any) -> None:
    common = {field.name for field in msgspec.structs.fields(SinkSettings)}
    fields = [field for field in msgspec.structs.fields(model) if field.name not in common]
    rows = documented(heading)
    assert list(rows) == [field.name for field in fields]
    for field in fields:
        if field.default not in (msgspec.NODEFAULT, None):
            kind = type(field.default)
            assert str(value(rows[field.name], kind)) == str(field.default), field.name


def test_every_setting_that_all_sinks_have_is_documented() -> None:
    text = (DOCS / "sinks.md").read_text().partition("\n## ")[0]
    rows = dict(ROW.findall(text))
    assert list(rows) == [field.name for field in msgspec.structs.fields(SinkSettings)]
    assert Size.parse(rows["queue"].strip('`"')) == SinkSettings().queue


@pytest.mark.parametrize("kind", [Hello, Welcome, Data, Ack, Nack, Bye], ids=lambda kind: kind.op)
def test_every_field_of_a_message_is_documented(kind: Any) -> None:
    (row,) = re.findall(rf"\n\| `{kind.op}` \|.*", (DOCS / "delivery.md").read_text())
    for field in kind.__struct_fields__:
        # The record is a part of its own.
        assert f"`{field}`" in row or (field == "frame" and "second part" in row)


def test_the_bytes_shown_are_what_is_sent() -> None:
    (head,) = encode(Ack(seq=5, credit=8))
    assert bytes(head).hex(" ") in (DOCS / "delivery.md").read_text()
