"""Files of records: every way they end, damage, and how much of them is in memory."""

from __future__ import annotations

import os
import resource
import threading
import tracemalloc
from pathlib import Path

import msgpack
import pytest

from bpfleet.errors import WireError
from bpfleet.wire import Limits, compress, read_file
from bpfleet.wire.stream import CutOff, whole_bytes
from make_golden import goldens

FRAMES = [golden.frame for golden in goldens() if not golden.name.endswith("zstd")]
MIB = 1 << 20


def file_of(tmp_path: Path, *parts: bytes) -> Path:
    path = tmp_path / "records.bpfleet"
    path.write_bytes(b"".join(parts))
    return path


def whole_records(path: Path, limits: Limits | None = None) -> tuple[list[bytes], WireError | None]:
    """The frames read, and the error that ended it."""
    frames = []
    try:
        for _, frame in read_file(path, limits):
            frames.append(frame)
    except WireError as error:
        return frames, error
    return frames, None


def test_records_come_back_with_their_offsets(tmp_path: Path) -> None:
    path = file_of(tmp_path, *FRAMES)
    read = list(read_file(path))
    assert [frame for _, frame in read] == FRAMES
    assert [offset for offset, _ in read] == [sum(map(len, FRAMES[:n])) for n in range(len(FRAMES))]


@pytest.mark.parametrize("size", [10, 300, 70_000])
def test_a_bin_of_any_size_is_a_compressed_record(tmp_path: Path, size: int) -> None:
    packed = compress(os.urandom(size))
    path = file_of(tmp_path, FRAMES[0], msgpack.packb(packed), FRAMES[1])
    assert whole_records(path) == ([FRAMES[0], packed, FRAMES[1]], None)


def test_records_longer_than_a_read_are_whole(tmp_path: Path) -> None:
    large = [
        msgpack.packb({"v": 1, "pad": [b"x" * size]}) for size in (MIB - 20, MIB, 3 * MIB, 1, 2 * MIB + 1)
    ]
    assert whole_records(file_of(tmp_path, *large)) == (large, None)


def test_an_empty_file_has_no_records(tmp_path: Path) -> None:
    assert whole_records(file_of(tmp_path)) == ([], None)
    assert whole_bytes(file_of(tmp_path)) == 0


def test_a_file_cut_off_at_any_byte_gives_the_records_before(tmp_path: Path) -> None:
    first, second = FRAMES[0], msgpack.packb(compress(FRAMES[2]))
    for cut in range(1, len(second)):
        path = file_of(tmp_path, first, second[:cut])
        frames, error = whole_records(path)
        assert frames == [first]
        assert isinstance(error, CutOff)
        assert error.offset == len(first)
        assert f"{cut} bytes" in error.what
        assert whole_bytes(path) == len(first)


def test_a_first_record_cut_off_at_any_byte_is_nothing_whole(tmp_path: Path) -> None:
    for record in (FRAMES[0], FRAMES[2], msgpack.packb(compress(FRAMES[2]))):
        for cut in range(1, len(record)):
            assert whole_bytes(file_of(tmp_path, record[:cut])) == 0


def test_zeros_that_a_power_failure_left_are_no_records(tmp_path: Path) -> None:
    path = file_of(tmp_path, *FRAMES, bytes(3 * MIB))
    frames, error = whole_records(path)
    assert frames == FRAMES
    assert error is not None
    assert "0x00 begins no record" in error.what
    assert whole_bytes(path) == sum(map(len, FRAMES))
    assert whole_bytes(file_of(tmp_path, bytes(5000))) == 0


@pytest.mark.parametrize(
    "damage",
    [
        b"\x01",
        b"\xa1x",
        b"\xc0",
        b"\xc1",
        b"\x91\x01",
        b"\xd4\x01\x00",
        b"\x28\xb5\x2f\xfd",
        b"\x81\xa1v\xc1",
    ],
)
def test_damage_is_told_with_its_place_after_the_records_before_it(tmp_path: Path, damage: bytes) -> None:
    path = file_of(tmp_path, FRAMES[0], damage, FRAMES[1])
    frames, error = whole_records(path)
    assert frames == [FRAMES[0]]
    assert error is not None
    assert not isinstance(error, CutOff)
    assert error.where == f"{path} at byte {len(FRAMES[0])}"


@pytest.mark.parametrize(
    "content",
    [
        b"root:x:0:0:root:/root:/bin/bash\n",
        b'{"kind": "snapshot"}\n',
        b"\x1f\x8b\x08\x00",
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        b"\x7fELF",
        b"\x81\xa1w\x01",
        b"\x82\xa1v\x02",
        b"\xc4\x04abcd",
        b"\x00" * 10 + b"\x01",
    ],
)
def test_a_writer_is_not_told_to_cut_somebody_elses_file(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(WireError, match="begin"):
        whole_bytes(file_of(tmp_path, content))


def test_a_writer_is_not_told_to_cut_records_after_damage(tmp_path: Path) -> None:
    with pytest.raises(WireError, match="0x01 begins no record"):
        whole_bytes(file_of(tmp_path, FRAMES[0], b"\x01", FRAMES[1]))


@pytest.mark.parametrize(
    "record", [b"\xc6\xff\xff\xff\xff", b"\x81\xa1v\xdb\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff"]
)
def test_a_record_that_claims_to_be_endless_is_read_no_further_than_the_limit(
    tmp_path: Path, record: bytes
) -> None:
    path = file_of(tmp_path, FRAMES[0], record)
    with path.open("r+b") as file:
        file.truncate(1 << 30)  # sparse
    tracemalloc.start()
    try:
        frames, error = whole_records(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert frames == [FRAMES[0]]
    assert error is not None
    assert error.where.endswith(f"at byte {len(FRAMES[0])}")
    assert peak < 24 * MIB


def test_the_limit_on_records_can_be_set(tmp_path: Path) -> None:
    path = file_of(tmp_path, FRAMES[1])
    frames, error = whole_records(path, Limits(frame_bytes=len(FRAMES[1]) - 10))
    assert frames == []
    assert error is not None
    assert "a record of more than" in error.what
    assert whole_records(path, Limits(frame_bytes=len(FRAMES[1]))) == ([FRAMES[1]], None)


def test_a_large_file_is_read_piece_by_piece(tmp_path: Path) -> None:
    path = file_of(tmp_path, FRAMES[2] * (32 * MIB // len(FRAMES[2])))
    tracemalloc.start()
    try:
        count = sum(1 for _ in read_file(path))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 32 * MIB // len(FRAMES[2])
    assert peak < 8 * MIB


def test_a_pipe_can_be_read(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def write() -> None:
        with pipe.open("wb", buffering=0) as file:
            for at in range(0, len(data), 7):
                file.write(data[at : at + 7])

    data = b"".join(FRAMES)
    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert whole_records(pipe) == (FRAMES, None)
    finally:
        writer.join(10)
    assert not writer.is_alive()


def test_a_file_that_shrinks_while_it_is_read_is_cut_off_not_a_crash(tmp_path: Path) -> None:
    path = file_of(tmp_path, FRAMES[2] * (4 * MIB // len(FRAMES[2])))
    reader = read_file(path)
    next(reader)
    path.write_bytes(b"")
    with pytest.raises(CutOff):
        for _ in reader:
            pass


def test_a_file_that_can_not_be_read_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        next(read_file(tmp_path / "none"))
    with pytest.raises(IsADirectoryError):
        next(read_file(tmp_path))


def test_a_reader_left_alone_closes_its_file(tmp_path: Path) -> None:
    path = file_of(tmp_path, *FRAMES)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(min(soft, 50)):
        reader = read_file(path)
        next(reader)
        reader.close()
    assert len(os.listdir("/proc/self/fd")) == before
