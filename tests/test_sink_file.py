"""The file sink: crashes, full disks, rotation, other programs, users without rights."""

from __future__ import annotations

import logging
import os
import pwd
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from apart import apart
from bpfleet import Frame, SinkError
from bpfleet.errors import ConfigError, PrivilegeError
from bpfleet.settings import convert
from bpfleet.wire import Snapshot, read_file
from bpfleet.wire.stream import CutOff
from bpfleet_plugins.sinks.file import FileSettings, FileSink, bpfleet_sinks
from bpfleet_plugins.sinks.rotation import rotated
from sample_records import (
    COUNTS_FRAME,
    context,
    decoded,
    frame,
    large_frame,
    one_of_each,
    snapshot,
    with_schemas,
)

Open = Callable[..., FileSink]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def open_sink(folder: Path) -> Iterator[Open]:
    """Open a sink on `records.bpfleet` in the folder; it is closed at the end."""
    opened: list[FileSink] = []

    def open_one(**settings: object) -> FileSink:
        sink = FileSink(convert(settings, FileSettings, where="[sinks.file]"), context(folder))
        opened.append(sink)
        return sink

    yield open_one
    for sink in opened:
        sink.close()


def seqs(*paths: Path) -> list[int]:
    """The seqs of the snapshots in files, each decoded alone."""
    found = []
    for path in paths:
        records = decoded(data for _, data in read_file(path))
        found += [record.seq for record in records if isinstance(record, Snapshot)]
    return found


def path_in(folder: Path) -> Path:
    return folder / "records.bpfleet"


# ---- what is written


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_what_is_written_is_read_back_in_order(open_sink: Open, folder: Path, compression: str) -> None:
    sink = open_sink(compression=compression)
    sink.write(one_of_each())
    sink.write([large_frame(9)])
    records = decoded(data for _, data in read_file(path_in(folder)))
    kinds = [type(record).__name__ for record in records]
    assert kinds == ["Schema", "Snapshot", "Gap", "Status", "Snapshot"]


def test_compressed_files_are_smaller(open_sink: Open, folder: Path) -> None:
    many = frame(1, {f"process{i}": i for i in range(500)})
    for compression in ("none", "zstd"):
        open_sink(path=compression, compression=compression).write([many])
    assert (folder / "zstd").stat().st_size < (folder / "none").stat().st_size / 2


def test_a_sink_opened_again_appends(open_sink: Open, folder: Path) -> None:
    for seq in (1, 2):
        sink = open_sink()
        sink.write(with_schemas([frame(seq)]))
        sink.close()
    assert seqs(path_in(folder)) == [1, 2]


def test_a_relative_path_is_under_the_state_folder_and_its_folders_are_made(
    open_sink: Open, folder: Path
) -> None:
    open_sink(path="a/b/records").write(with_schemas([frame(1)]))
    assert seqs(folder / "a/b/records") == [1]


def test_a_missing_folder_of_an_absolute_path_is_named(open_sink: Open, folder: Path) -> None:
    with pytest.raises(SinkError, match="No such file or directory") as caught:
        open_sink(path=str(folder / "typo" / "records"))
    assert "typo" in caught.value.where
    assert not (folder / "typo").exists()


@pytest.mark.parametrize("when", ["never", "interval", "always"])
def test_every_way_to_fsync_writes_the_same(open_sink: Open, folder: Path, when: str) -> None:
    sink = open_sink(fsync=when, fsync_interval="1ns")
    sink.write(with_schemas([frame(1), frame(2)]))
    sink.close()
    assert seqs(path_in(folder)) == [1, 2]


def synced(folder: Path, when: str) -> int:
    """How often the kernel was asked to sync while five records were written and the sink was closed."""
    calls = 0
    real = os.fsync

    def count(fd: int) -> None:
        nonlocal calls
        calls += 1
        real(fd)

    settings = FileSettings(fsync=when, path=when)  # type: ignore[arg-type]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", count)
        sink = FileSink(settings, context(folder))
        for seq in range(1, 6):
            sink.write([frame(seq)])
        sink.close()
    return calls


def test_fsync_happens_as_often_as_it_is_set(folder: Path) -> None:
    assert synced(folder, "never") == 0
    assert synced(folder, "interval") == 1, "less than the interval has passed: only at the end"
    assert synced(folder, "always") == 5


# ---- rotation


def test_rotated_files_decode_alone_and_together_hold_everything(open_sink: Open, folder: Path) -> None:
    sink = open_sink(rotate_size="2kB", keep=1000)
    frames = [frame(seq, {f"p{i}": i for i in range(20)}) for seq in range(1, 41)]
    for start in range(0, 40, 7):
        sink.write(frames[start : start + 7])
    files = [*rotated(path_in(folder)), path_in(folder)]
    assert len(files) > 5
    assert all(file.stat().st_size <= 2000 for file in files)
    assert seqs(*files) == list(range(1, 41))


def test_the_schema_is_written_once_per_file(open_sink: Open, folder: Path) -> None:
    sink = open_sink()
    sink.write(with_schemas([frame(1), frame(2)]))
    sink.write([frame(3)])
    kinds = [type(record).__name__ for record in decoded(d for _, d in read_file(path_in(folder)))]
    assert kinds == ["Schema", "Snapshot", "Snapshot", "Snapshot"]


def test_rotated_names_carry_the_time_and_a_number_where_one_second_has_several(
    open_sink: Open, folder: Path
) -> None:
    sink = open_sink(rotate_size="1B", keep=100)
    for seq in range(1, 6):
        sink.write([frame(seq)])
    names = [file.name for file in rotated(path_in(folder))]
    assert len(names) == 4
    for name in names:
        stamp, _, number = name.removeprefix("records.bpfleet.").partition(".")
        time.strptime(stamp, "%Y%m%dT%H%M%S")
        assert number == "" or number.isdigit()
    assert seqs(*rotated(path_in(folder))) == [1, 2, 3, 4]


def test_only_the_newest_rotated_files_are_kept(open_sink: Open, folder: Path) -> None:
    (folder / "records.bpfleet.notes").write_text("mine")
    sink = open_sink(rotate_size="1B", keep=3)
    for seq in range(1, 11):
        sink.write([frame(seq)])
    assert seqs(*rotated(path_in(folder)), path_in(folder)) == [7, 8, 9, 10]
    assert (folder / "records.bpfleet.notes").exists()


def test_a_file_is_rotated_by_the_age_of_its_first_record_even_after_a_restart(
    open_sink: Open, folder: Path
) -> None:
    boot = time.time_ns() - 10_000 * 10**9
    old = snapshot(1).t1 + boot  # a record that is almost three hours old
    assert time.time_ns() - old > 3600 * 10**9
    sink = open_sink(rotate_age="100d")
    sink.write([frame(1, wall_offset=boot)])
    sink.close()
    sink = open_sink(rotate_age="1h")
    sink.write([frame(2)])
    assert seqs(*rotated(path_in(folder))) == [1]
    assert seqs(path_in(folder)) == [2]


def test_a_young_file_is_not_rotated(open_sink: Open, folder: Path) -> None:
    now = time.time_ns() - 10 * 10**9
    for seq in (1, 2):
        sink = open_sink(rotate_age="1h")
        sink.write([frame(seq, wall_offset=now)])
        sink.close()
    assert rotated(path_in(folder)) == []


# ---- other programs


@pytest.mark.parametrize("act", [Path.unlink, lambda path: path.rename(path.with_suffix(".moved"))])
def test_a_file_deleted_or_renamed_by_another_program_is_made_anew(
    open_sink: Open, folder: Path, act: Callable[[Path], object]
) -> None:
    sink = open_sink()
    sink.write(with_schemas([frame(1)]))
    act(path_in(folder))
    sink.write([frame(2)])
    assert seqs(path_in(folder)) == [2], "the new file has the schema and decodes alone"


def test_a_file_emptied_by_another_program_begins_with_the_schema_again(
    open_sink: Open, folder: Path
) -> None:
    sink = open_sink()
    sink.write(with_schemas([frame(1)]))
    os.truncate(path_in(folder), 0)
    sink.write([frame(2)])
    assert seqs(path_in(folder)) == [2]


def test_two_agents_on_one_file_are_refused_with_a_clear_error(open_sink: Open, folder: Path) -> None:
    open_sink().write(with_schemas([frame(1)]))
    with pytest.raises(SinkError, match="another process is writing this file") as caught:
        open_sink()
    assert "path of its own" in caught.value.remedy
    assert seqs(path_in(folder)) == [1]


def test_a_file_that_is_not_ours_is_left_as_it_is(open_sink: Open, folder: Path) -> None:
    for content in (b"root:x:0:0\n", b"\x89PNG\r\n\x1a\n" + bytes(100), b"\xc4\x05hello", b"\x00" * 64):
        path_in(folder).write_bytes(content)
        with pytest.raises(SinkError, match="holds something else"):
            open_sink()
        assert path_in(folder).read_bytes() == content


def test_a_pipe_or_a_folder_in_place_of_the_file_is_an_error_and_no_wait(
    open_sink: Open, folder: Path
) -> None:
    os.mkfifo(folder / "fifo")
    with pytest.raises(SinkError, match="no regular file"):
        open_sink(path="fifo")
    (folder / "sub").mkdir()
    with pytest.raises(SinkError, match="Is a directory"):
        open_sink(path="sub")


def test_a_user_without_rights_is_told_who_where_and_what_to_do(folder: Path) -> None:
    """Run as `nobody` in a child process; the folder is root's."""
    nobody = pwd.getpwnam("nobody")
    barred = folder / "barred"
    barred.mkdir(mode=0o755)
    for parent in [folder, *folder.parents]:
        if parent.stat().st_uid == 0 and not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o011)

    def as_nobody(path: Path) -> PrivilegeError:
        def open_it() -> None:
            os.setgid(nobody.pw_gid)
            os.setuid(nobody.pw_uid)
            FileSink(FileSettings(path=str(path)), context(folder, user="nobody"))

        with pytest.raises(PrivilegeError) as caught:
            apart(open_it, mounts=False)
        return caught.value

    error = as_nobody(barred / "records")
    assert error.what == f"user 'nobody' may not write in folder {barred}"
    assert error.where == str(barred / "records")
    assert "install -d -o nobody FOLDER" in error.remedy

    os.chown(barred, nobody.pw_uid, nobody.pw_gid)
    (barred / "roots").touch(mode=0o600)
    error = as_nobody(barred / "roots")
    assert error.what == "user 'nobody' may not write this file"
    assert f"chown nobody {barred}/roots" in error.remedy


# ---- crashes


def test_a_last_record_cut_off_anywhere_is_removed_and_told(
    open_sink: Open, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sink = open_sink()
    sink.write(with_schemas([frame(1)]))
    whole = path_in(folder).stat().st_size
    sink.write([frame(2)])
    sink.close()
    content = path_in(folder).read_bytes()
    for size in range(whole + 1, len(content)):
        path_in(folder).write_bytes(content[:size])
        caplog.clear()
        with caplog.at_level(logging.WARNING, "bpfleet.sink.file"):
            sink = open_sink()
        (told,) = caplog.messages
        assert str(path_in(folder)) in told
        assert f" {size - whole} bytes" in told
        sink.write([frame(3)])
        sink.close()
        assert seqs(path_in(folder)) == [1, 3]


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_the_very_first_record_cut_off_anywhere_is_removed(
    open_sink: Open, folder: Path, compression: str
) -> None:
    open_sink(path="whole", compression=compression).write([COUNTS_FRAME])
    content = (folder / "whole").read_bytes()
    for size in range(1, len(content)):
        path_in(folder).write_bytes(content[:size])
        sink = open_sink(compression=compression)
        sink.write([frame(1)])
        sink.close()
        assert seqs(path_in(folder)) == [1]


def test_a_file_damaged_inside_is_kept_aside_whole_and_a_new_one_begun(
    open_sink: Open, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sink = open_sink()
    sink.write(with_schemas([frame(1), frame(2)]))
    sink.close()
    damaged = path_in(folder).read_bytes() + bytes(4096)  # as after a loss of power
    for number in range(2):
        path_in(folder).write_bytes(damaged)
        with caplog.at_level(logging.WARNING, "bpfleet.sink.file"):
            sink = open_sink()
        sink.write([frame(3)])
        sink.close()
        aside = folder / ("records.bpfleet.spoilt" + (f".{number}" if number else ""))
        assert str(aside) in caplog.text
        assert aside.read_bytes() == damaged
        assert seqs(path_in(folder)) == [3]


_WRITER = """
import sys
from pathlib import Path
from bpfleet_plugins.sinks.file import FileSettings, FileSink
from sample_records import COUNTS_FRAME, context, frame, large_frame
folder, first = Path(sys.argv[1]), int(sys.argv[2])
sink = FileSink(FileSettings(rotate_size=3_000_000, keep=10_000, fsync="never"), context(folder))
sink.write([COUNTS_FRAME])
print("open", flush=True)
for start in range(first, first + 100_000, 4):
    sink.write([large_frame(seq, 300) if seq % 3 else frame(seq) for seq in range(start, start + 4)])
"""


def test_a_writer_killed_again_and_again_loses_nothing_but_a_cut_off_last_record(folder: Path) -> None:
    path = os.pathsep.join(one for one in sys.path if one)
    environment = {**os.environ, "PYTHONPATH": path}
    following, rounds = 1, 12
    for _ in range(rounds):
        with subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(folder), str(following)],
            stdout=subprocess.PIPE,
            env=environment,
        ) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"open\n"
            time.sleep(random.uniform(0.02, 0.3))
            writer.send_signal(signal.SIGKILL)
        try:
            tail = seqs(path_in(folder)) if path_in(folder).exists() else []
        except CutOff as error:
            whole = folder / "whole"
            whole.write_bytes(path_in(folder).read_bytes()[: error.offset])
            tail = seqs(whole)
        found = seqs(*rotated(path_in(folder))) + tail
        assert found == list(range(1, len(found) + 1))
        assert len(found) + 1 >= following, "what was whole before this round still is"
        following = len(found) + 1
    FileSink(FileSettings(keep=10_000), context(folder)).close()
    assert seqs(*rotated(path_in(folder)), path_in(folder)) == list(range(1, following))
    assert following > rounds


# ---- full disks


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a tmpfs can't be mounted here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def offer_until_full(sink: FileSink, frames: Sequence[Frame]) -> tuple[list[Frame], SinkError]:
    """Offer batches until one fails; (that batch, its error)."""
    for start in range(0, len(frames), 4):
        batch = list(frames[start : start + 4])
        try:
            sink.write(batch)
        except SinkError as error:
            return batch, error
    raise AssertionError("the disk never filled")


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_a_full_disk_corrupts_nothing_and_writing_goes_on_once_there_is_space(
    small_disk: Path, compression: str
) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(300_000))
    settings = convert({"compression": compression, "keep": 1000}, FileSettings, where="")
    sink = FileSink(settings, context(small_disk))
    frames = [large_frame(seq, 50) for seq in range(1, 100)]
    batch, error = offer_until_full(sink, with_schemas(frames))
    sink.close()
    assert "No space left on device" in error.what
    assert "free some space" in error.remedy
    before = seqs(path_in(small_disk))  # raises where the file does not end with a whole record
    assert before == list(range(1, len(before) + 1))

    # Still full: the delivery layer opens the sink anew and offers the same frames again.
    for _ in range(3):
        sink = FileSink(settings, context(small_disk))
        with pytest.raises(SinkError, match="No space left"):
            sink.write(with_schemas(batch))
        sink.close()
        assert seqs(path_in(small_disk)) == before

    ballast.unlink()
    sink = FileSink(settings, context(small_disk))
    sink.write(with_schemas(batch))
    sink.close()
    assert seqs(path_in(small_disk)) == list(range(1, batch[-1].seq + 1)), "nothing lost, nothing twice"


def test_records_of_a_failed_write_are_not_repeated_even_where_the_batches_shift(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(700_000))
    sink = FileSink(FileSettings(), context(small_disk))
    frames = [large_frame(seq, 50) for seq in range(1, 21)]
    with pytest.raises(SinkError):
        sink.write(with_schemas(frames))
    sink.close()
    ballast.unlink()
    sink = FileSink(FileSettings(), context(small_disk))
    batches = [[COUNTS_FRAME], frames[:3], frames[3:9], frames[9:16], [frame(21), frame(22)]]
    for batch in batches:
        sink.write(batch)
    sink.close()
    assert seqs(path_in(small_disk)) == [*range(1, 17), 21, 22]


def test_a_disk_that_fills_while_rotating_loses_and_repeats_nothing(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(400_000))
    settings = FileSettings(rotate_size=120_000, keep=1000)
    frames = with_schemas([large_frame(seq, 50) for seq in range(1, 17)])
    sink = FileSink(settings, context(small_disk))
    with pytest.raises(SinkError):
        sink.write(frames)
    sink.close()
    assert len(rotated(path_in(small_disk))) > 2
    ballast.unlink()
    sink = FileSink(settings, context(small_disk))
    sink.write(frames)
    sink.close()
    assert seqs(*rotated(path_in(small_disk)), path_in(small_disk)) == list(range(1, 17))


# ---- settings


@pytest.mark.parametrize(
    "table", [{"rotate_size": "big"}, {"keep": -1}, {"compression": "gzip"}, {"level": 99}, {"fsync": "yes"}]
)
def test_settings_that_make_no_sense_name_the_key(table: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as caught:
        convert(table, FileSettings, where="[sinks.file]")
    assert next(iter(table)) in caught.value.where


def test_the_plugin_offers_file() -> None:
    (kind,) = bpfleet_sinks()
    assert (kind.name, kind.settings, kind.open) == ("file", FileSettings, FileSink)
