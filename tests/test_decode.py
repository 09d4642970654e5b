"""`bpfleet decode` as a process: files, pipes, damage, readers that go away."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgpack
import pytest

from bpfleet.wire import Schema, compress, encode_schema, encode_snapshot
from bpfleet.wire.pipe import read_pipe
from bpfleet.wire.stream import CutOff, WireError, read_file
from bpfleet_plugins.sinks.file import FileSettings, FileSink
from sample_records import COUNTS, COUNTS_FRAME, context, frame, large_frame, one_of_each, snapshot

BPFLEET = str(Path(sys.executable).with_name("bpfleet"))


def decode(*arguments: str | Path, data: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    done = subprocess.run([BPFLEET, "decode", *arguments], input=data, capture_output=True, timeout=60)
    assert b"Traceback" not in done.stderr
    return done


def lines(done: subprocess.CompletedProcess[bytes]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """A file of the file sink with one record of each kind, and a second snapshot."""
    sink = FileSink(FileSettings(), context(tmp_path))
    sink.write([*one_of_each(), frame(4, {"sh": 9})])
    sink.close()
    return tmp_path / "records.bpfleet"


def test_each_record_is_one_json_object_per_line(records: Path) -> None:
    done = decode(records)
    assert (done.returncode, done.stderr) == (0, b"")
    assert [line["kind"] for line in lines(done)] == ["schema", "snapshot", "gap", "status", "snapshot"]
    assert lines(done)[-1]["rows"] == [{"comm": "sh", "count": 9}]


def test_a_compressed_file_is_decoded_alike(records: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    packed.write_bytes(b"".join(msgpack.packb(compress(data)) for _, data in read_file(records)))
    assert decode(packed).stdout == decode(records).stdout


def test_a_dash_reads_standard_input(records: Path) -> None:
    done = decode("-", data=records.read_bytes())
    assert done.stdout == decode(records).stdout


def test_standard_input_is_printed_as_it_comes(records: Path) -> None:
    with subprocess.Popen([BPFLEET, "decode", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(records.read_bytes())
        process.stdin.flush()
        # The pipe stays open: all five lines come nevertheless.
        kinds = [json.loads(process.stdout.readline())["kind"] for _ in range(5)]
        process.stdin.close()
    assert kinds[-1] == "snapshot"
    assert process.returncode == 0


def test_several_files_are_read_one_after_another(records: Path) -> None:
    assert len(lines(decode(records, records))) == 10


@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        (["--kind", "snapshot"], ["snapshot", "snapshot"]),
        (["--kind", "gap", "--kind", "status"], ["gap", "status"]),
        (["--collector", "execve"], ["schema", "snapshot", "snapshot"]),
        (["--collector", "execve", "--kind", "snapshot"], ["snapshot", "snapshot"]),
        (["--collector", "other"], []),
    ],
)
def test_records_are_chosen_by_kind_and_collector(
    records: Path, options: list[str], kinds: list[str]
) -> None:
    assert [line["kind"] for line in lines(decode(records, *options))] == kinds


def test_a_table_shows_rates_between_the_snapshots_of_a_file(records: Path) -> None:
    done = decode(records, "--format", "table", "--rows", "1")
    text = done.stdout.decode()
    assert "\x1b" not in text
    assert "  sh        9     2.33" in text  # (9 - 2) in 3 seconds
    assert "gap: " in text


def test_a_cut_off_last_record_is_told_and_everything_before_is_printed(records: Path) -> None:
    whole = records.read_bytes()
    last = [offset for offset, _ in read_file(records)][-1]
    for size in (last + 1, len(whole) - 1):
        records.write_bytes(whole[:size])
        done = decode(records)
        assert done.returncode == 0
        assert len(lines(done)) == 4
        assert f"{records} at byte {last}" in done.stderr.decode()
        assert "cut off" in done.stderr.decode()


def test_bytes_that_are_no_record_are_told_with_their_offset(records: Path) -> None:
    size = records.stat().st_size
    with records.open("ab") as file:
        file.write(b"\x00\x00")
    done = decode(records)
    assert done.returncode == 1
    assert len(lines(done)) == 5
    assert f"{records} at byte {size}" in done.stderr.decode()


def test_a_damaged_record_between_whole_ones_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "damaged"
    bad = msgpack.packb({"v": 1, "kind": "gap", "seq": "one"})
    good = [bytes(one.data) for one in one_of_each()]
    path.write_bytes(good[0] + good[1] + bad + good[3])
    done = decode(path)
    assert done.returncode == 1
    assert [line["kind"] for line in lines(done)] == ["schema", "snapshot", "status"]
    assert f"{path} at byte {len(good[0] + good[1])}" in done.stderr.decode()


def test_many_damaged_records_are_counted_and_not_all_told(tmp_path: Path) -> None:
    path = tmp_path / "damaged"
    path.write_bytes(msgpack.packb({"v": 1, "kind": "?"}) * 1000)
    done = decode(path)
    assert done.returncode == 1
    assert done.stderr.count(b"field 'kind'") == 10
    assert b"990 more records" in done.stderr


def test_a_snapshot_without_its_schema_is_told(tmp_path: Path) -> None:
    path = tmp_path / "torn"
    path.write_bytes(bytes(frame(1).data))
    done = decode(path)
    assert done.returncode == 1
    assert COUNTS.id in done.stderr.decode()


def test_a_file_that_is_something_else_is_told(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("hello\n")
    done = decode(path)
    assert done.returncode == 1
    assert f"{path} at byte 0" in done.stderr.decode()


@pytest.mark.parametrize("name", ["missing", "."])
def test_a_missing_file_or_a_folder_is_wrong_usage(tmp_path: Path, name: str) -> None:
    done = decode(tmp_path / name)
    assert done.returncode == 2
    assert str(tmp_path) in done.stderr.decode()


def test_no_file_at_all_is_wrong_usage() -> None:
    assert decode().returncode == 2


def test_an_empty_file_has_no_records(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    done = decode(tmp_path / "empty")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_reader_that_goes_away_ends_it_quietly(tmp_path: Path) -> None:
    path = tmp_path / "long"
    path.write_bytes(b"".join(bytes(one.data) for one in [COUNTS_FRAME] + [large_frame(1)] * 100))
    with subprocess.Popen(
        [BPFLEET, "decode", str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith(b'{"kind":"schema"')
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_a_full_disk_under_standard_output_is_an_error_and_no_traceback(records: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run([BPFLEET, "decode", records], stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr == b"bpfleet: standard output can't be written: No space left on device\n"


def test_the_parts_of_a_large_snapshot_are_one_line_each(tmp_path: Path) -> None:
    made = snapshot(5, {f"p{i}": i for i in range(300)})
    parts = list(encode_snapshot(made, COUNTS_FRAME, most=4096))
    path = tmp_path / "parts"
    path.write_bytes(b"".join(bytes(one.data) for one in [COUNTS_FRAME, *parts]))
    found = lines(decode(path, "--kind", "snapshot"))
    assert [(line["part"], line["parts"], line["seq"]) for line in found] == [
        (part, len(parts), 5 + part) for part in range(len(parts))
    ]
    assert sum(len(line["rows"]) for line in found) == 300


# ---- read_pipe: the same stream from something that can be read once


class Trickle:
    """A file that gives few bytes at a time."""

    def __init__(self, data: bytes, step: int) -> None:
        self._data, self._step = data, step

    def read(self, size: int) -> bytes:
        given, self._data = self._data[: min(self._step, size)], self._data[min(self._step, size) :]
        return given


def through_pipe(data: bytes, step: int) -> list[tuple[int, bytes]]:
    return list(read_pipe(Trickle(data, step), "pipe"))  # type: ignore[arg-type]


@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_a_pipe_gives_what_a_file_gives(records: Path, step: int) -> None:
    with records.open("ab") as file:
        file.write(msgpack.packb(compress(encode_schema(COUNTS).data)))
    assert through_pipe(records.read_bytes(), step) == list(read_file(records))


def test_a_pipe_cut_off_anywhere_says_where(records: Path) -> None:
    whole = records.read_bytes()
    starts = [offset for offset, _ in read_file(records)]
    for size in sorted(set(range(1, len(whole))) - set(starts)):
        with pytest.raises(CutOff) as caught:
            through_pipe(whole[:size], 64)
        assert caught.value.offset == max(start for start in starts if start < size)


@pytest.mark.parametrize("head", [b"\xc6\x7f\xff\xff\xff", b"\xc6\x00\x50\x00\x00", b"\xdf\xff\xff\xff\xff"])
def test_a_record_that_claims_to_be_huge_takes_no_memory(head: bytes) -> None:
    class Endless:
        given = 0

        def read(self, size: int) -> bytes:
            self.given += size
            assert self.given < 16 << 20, "it would read for ever"
            return (head + bytes(size))[:size] if self.given == size else bytes(size)

    with pytest.raises(WireError):
        list(read_pipe(Endless(), "pipe"))  # type: ignore[arg-type]


def test_a_live_file_may_be_cut_while_it_is_read(tmp_path: Path) -> None:
    """A writer on a full disk cuts its file back; a reader of a mapping would be killed by SIGBUS."""
    path = tmp_path / "live"
    path.write_bytes(b"".join(bytes(one.data) for one in [COUNTS_FRAME] + [large_frame(1)] * 200))
    with subprocess.Popen(
        [BPFLEET, "decode", str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        os.truncate(path, 100)
        drain = threading.Thread(target=process.communicate, daemon=True)
        drain.start()
        drain.join(60)
    assert process.returncode == 0


def test_schemas_of_other_collectors_do_not_mix(tmp_path: Path) -> None:
    other = Schema("other", "1", "counts", "", COUNTS.columns)
    other_frame = encode_schema(other)
    (theirs,) = encode_snapshot(snapshot(2, {"x": 5}, schema=other), other_frame)
    data: Sequence[Any] = [COUNTS_FRAME, other_frame, frame(1, {"y": 1}), theirs]
    path = tmp_path / "mixed"
    path.write_bytes(b"".join(bytes(one.data) for one in data))
    found = lines(decode(path, "--collector", "other", "--kind", "snapshot"))
    assert [line["rows"] for line in found] == [[{"comm": "x", "count": 5}]]
