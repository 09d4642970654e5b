"""Wire format 1 against its golden files, its document and a decoder written from the document alone."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import zstandard

from bpfleet.errors import WireError
from bpfleet.wire import Decoder, read_file
from make_golden import FOLDER, SMALL, goldens, plain, refused, stream
from wire_reference import Reference, Refused, file_records, shortest

DOCUMENT = (Path(__file__).parent.parent / "docs" / "wire.md").read_text()
MADE = {golden.name: golden for golden in goldens()}
REFUSED = dict(refused())


def inflate(frame: bytes) -> bytes:
    """zstd for the reference decoder."""
    try:
        return zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise Refused(str(error)) from None


def expected(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text())


def on_disk(name: str) -> bytes:
    return (FOLDER / f"{name}.msgpack").read_bytes()


def our_decoder() -> Decoder:
    """A decoder that has seen the golden schemas, from the files."""
    decoder = Decoder()
    for name in ("schema_small", "schema_every_type", "schema_events"):
        decoder.decode(on_disk(name))
    return decoder


def their_decoder() -> Reference:
    reference = Reference(inflate)
    for name in ("schema_small", "schema_every_type", "schema_events"):
        reference.decode(on_disk(name))
    return reference


# How well zstd packs is its version's business: only what comes out again is fixed.
@pytest.mark.parametrize("name", [name for name in MADE if not name.endswith("zstd")])
def test_encoding_gives_the_golden_bytes(name: str) -> None:
    assert MADE[name].frame == on_disk(name)


@pytest.mark.parametrize("name", MADE)
def test_golden_bytes_decode_to_the_golden_json(name: str) -> None:
    assert plain(our_decoder().decode(on_disk(name))) == expected(name)


@pytest.mark.parametrize("name", MADE)
def test_the_decoder_written_from_the_document_says_the_same(name: str) -> None:
    assert their_decoder().decode(on_disk(name)) == expected(name)


@pytest.mark.parametrize("name", REFUSED)
def test_what_must_be_refused_is_refused_by_both_decoders(name: str) -> None:
    frame = (FOLDER / "refused" / f"{name}.msgpack").read_bytes()
    with pytest.raises(WireError):
        our_decoder().decode(frame)
    with pytest.raises(Refused):
        their_decoder().decode(frame)


@pytest.mark.parametrize("name", [name for name in REFUSED if not name.startswith("zstd")])
def test_refused_frames_are_made_as_they_are_on_disk(name: str) -> None:
    assert REFUSED[name] == (FOLDER / "refused" / f"{name}.msgpack").read_bytes()


def test_no_golden_file_is_left_over_or_missing() -> None:
    there = {str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*") if path.is_file()}
    wanted = {f"{name}.{ending}" for name in MADE for ending in ("msgpack", "json")}
    wanted |= {f"refused/{name}.msgpack" for name in REFUSED} | {"stream.bpfleet", "stream.json"}
    assert there == wanted


def test_every_kind_and_every_column_type_has_a_golden_file() -> None:
    records = [expected(name) for name in MADE]
    assert {record["kind"] for record in records} == {"schema", "snapshot", "gap", "status"}
    schema = expected("schema_every_type")
    table = DOCUMENT.partition("| type | one element |")[2].partition("\n\n")[0]
    in_document = {
        name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])
    }
    for counted in (True, False):
        of = {column["type"] for column in schema["columns"] if (column["count"] is not None) == counted}
        assert of == in_document


def test_a_golden_file_of_records_is_read_by_both() -> None:
    path = FOLDER / "stream.bpfleet"
    listed = json.loads((FOLDER / "stream.json").read_text())
    wanted = [(one["offset"], on_disk(one["golden"])) for one in listed]
    assert list(read_file(path)) == wanted
    assert list(file_records(path.read_bytes())) == wanted
    ours, theirs = Decoder(), Reference(inflate)
    for (_, frame), one in zip(wanted, listed, strict=True):
        assert plain(ours.decode(frame)) == theirs.decode(frame) == expected(one["golden"])


def test_the_golden_file_of_records_holds_what_is_made_today() -> None:
    _, listed = stream()
    assert [one["golden"] for one in listed] == [
        one["golden"] for one in json.loads((FOLDER / "stream.json").read_text())
    ]


# ---- the document's examples


def hex_block(title: str) -> bytes:
    """The bytes of a ```hex block: what stands before the first two blanks in a row, but for an offset."""
    found = re.search(rf"^```hex {title}\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert found, f"docs/wire.md has no hex block {title}"
    digits = []
    for line in found.group(1).splitlines():
        line = re.sub(r"^[0-9a-f]{4}  ", "", line)
        match = re.match(r" *((?:[0-9a-f]{2} )*[0-9a-f]{2})(?:  |$)", line)
        assert match, line
        digits.append(match.group(1))
    return bytes.fromhex(" ".join(digits))


@pytest.mark.parametrize("name", ["schema_small", "snapshot_small"])
def test_the_worked_example_in_the_document_is_the_golden_file(name: str) -> None:
    assert hex_block(name) == on_disk(name)


def test_offsets_in_the_worked_example_are_right() -> None:
    found = re.search(r"^```hex snapshot_small\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert found
    at = 0
    for line in found.group(1).splitlines():
        assert int(line[:4], 16) == at, line
        at += len(re.findall(r"[0-9a-f]{2}", line[6:53]))
    assert at == len(on_disk("snapshot_small"))


def test_the_schema_id_in_the_document_is_that_of_the_bytes_beside_it() -> None:
    content = hex_block("schema_small id")
    columns = [[column[key] for key in column] for column in expected("schema_small")["columns"]]
    assert content == shortest([SMALL.collector, SMALL.version, SMALL.map, SMALL.help, columns])
    digest = hashlib.sha256(content).hexdigest()
    assert SMALL.id == digest[:32]
    assert re.search(r"`([0-9a-f]{32,})…`", DOCUMENT).group(1) == digest[:36]


@pytest.mark.parametrize(
    ("what", "limit"),
    [
        ("bytes of a frame", "frame_bytes"),
        ("bytes of one text", "text_bytes"),
        ("elements of one array", "items"),
        ("values in a frame", "values"),
        ("arrays and maps inside", "depth"),
        ("columns of a schema", "columns"),
        ("bytes of one row of one column", "element_bytes"),
    ],
)
def test_the_limits_in_the_document_are_those_of_the_decoder(what: str, limit: str) -> None:
    row = re.search(rf"^\| {what}.*\| ([\d,]+) \|$", DOCUMENT, re.MULTILINE)
    assert row
    assert int(row.group(1).replace(",", "")) == getattr(Decoder().limits, limit)


def test_every_field_that_is_sent_is_in_the_document() -> None:
    words = set(re.findall(r"`(\w+)`", DOCUMENT))
    for name in ("schema_small", "snapshot_small", "gap", "status"):
        sent = set(expected(name)) - {"a_field_of_a_later_agent"}
        assert sent <= words, sent - words
