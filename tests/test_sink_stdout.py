"""The stdout sink on real pipes and terminals."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import pty
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bpfleet import Frame, SinkError, SinkType
from bpfleet.errors import ConfigError
from bpfleet.settings import convert
from bpfleet.wire import encode_gap, encode_status
from bpfleet.wire.pipe import read_pipe
from bpfleet_plugins.sinks import stdout
from bpfleet_plugins.sinks.stdout import StdoutSettings, StdoutSink
from sample_records import context, decoded, frame, gap, large_frame, one_of_each, status, with_schemas


class Pipe:
    """A pipe whose far end a thread empties."""

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe()
        self.data = b""
        self._thread = threading.Thread(target=self._drain, daemon=True)

    def read_on(self) -> None:
        self._thread.start()

    def _drain(self) -> None:
        while chunk := os.read(self.read_end, 1 << 16):
            self.data += chunk

    def finished(self) -> bytes:
        os.close(self.write_end)
        self.write_end = -1
        self._thread.join(10)
        assert not self._thread.is_alive()
        return self.data

    def close(self) -> None:
        for fd in (self.read_end, self.write_end):
            if fd >= 0:
                os.close(fd)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close()


def written(pipe: Pipe, frames: list[Frame], tmp_path: Path, **settings: object) -> bytes:
    sink = StdoutSink(convert(settings, StdoutSettings, where="test"), context(tmp_path), pipe.write_end)
    pipe.read_on()
    sink.write(frames)
    sink.close()
    return pipe.finished()


def test_a_pipe_gets_one_json_object_per_line(pipe: Pipe, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in written(pipe, one_of_each(), tmp_path).splitlines()]
    assert [line["kind"] for line in lines] == ["schema", "snapshot", "gap", "status"]
    assert lines[1]["rows"] == [{"comm": "sh", "count": 2}, {"comm": "ls", "count": 1}]
    assert (lines[1]["collector"], lines[1]["map"], lines[1]["host"]) == ("execve", "counts", "web1")


def test_a_snapshot_is_printed_even_where_its_schema_was_not_offered(pipe: Pipe, tmp_path: Path) -> None:
    lines = written(pipe, [frame(1)], tmp_path, format="json").splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["snapshot"]


def test_msgpack_is_the_stream_that_decode_reads(pipe: Pipe, tmp_path: Path) -> None:
    data = written(pipe, one_of_each(), tmp_path, format="msgpack")
    path = tmp_path / "piped"
    path.write_bytes(data)
    with path.open("rb") as file:
        kinds = [type(record).__name__ for record in decoded(one for _, one in read_pipe(file, "piped"))]
    assert kinds == ["Schema", "Snapshot", "Gap", "Status"]


def test_a_table_in_a_pipe_is_plain_lines(pipe: Pipe, tmp_path: Path) -> None:
    frames = with_schemas([frame(10, {"sh": 10}), frame(12, {"sh": 30, "ls": 1})])
    text = written(pipe, frames, tmp_path, format="table", rows=1).decode()
    assert "\x1b" not in text
    assert text.count("execve.counts") == 2
    assert "  sh       30       10\n" in text
    assert "1 more row\n" in text


def test_gaps_and_changes_of_state_are_lines_of_a_table(pipe: Pipe, tmp_path: Path) -> None:
    frames = [
        encode_gap(gap(2, 5, 7)),
        encode_status(status(3)),
        encode_status(status(4, state="quarantined")),
    ]
    lines = written(pipe, frames, tmp_path, format="table").decode().splitlines()
    assert lines[0].startswith("gap: ")
    assert "quarantined" in lines[2]
    assert len(lines) == 3


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, b"\x28\x00\x64\x00\x00\x00\x00\x00")  # 40 lines, 100 columns
    yield ours, theirs
    os.close(ours)
    os.close(theirs)


def on_terminal(terminal: tuple[int, int], tmp_path: Path, **settings: object) -> bytes:
    ours, theirs = terminal
    sink = StdoutSink(convert(settings, StdoutSettings, where="test"), context(tmp_path), theirs)
    sink.write(with_schemas([frame(10)]))
    return os.read(ours, 1 << 16)


def test_a_terminal_gets_a_coloured_table(
    terminal: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    text = on_terminal(terminal, tmp_path)
    assert b"\x1b[1;36mexecve.counts" in text


@pytest.mark.parametrize(("variable", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_colour_is_left_out_where_the_environment_says_so(
    terminal: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv(variable, value)
    assert b"\x1b" not in on_terminal(terminal, tmp_path)


def test_colour_is_left_out_where_the_settings_say_so(
    terminal: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert b"\x1b" not in on_terminal(terminal, tmp_path, color=False)


def test_binary_records_are_not_sent_to_a_terminal(terminal: tuple[int, int], tmp_path: Path) -> None:
    with pytest.raises(SinkError, match="no use on a terminal"):
        on_terminal(terminal, tmp_path, format="msgpack")


def test_a_reader_that_went_away_is_a_sink_error_and_told_once(
    pipe: Pipe, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stdout, "_gone_told", False)
    os.close(pipe.read_end)
    pipe.read_end = -1
    with caplog.at_level(logging.WARNING, "bpfleet.sink.stdout"):
        for _ in range(3):
            sink = StdoutSink(StdoutSettings(format="json"), context(tmp_path), pipe.write_end)
            with pytest.raises(SinkError, match="the reader has gone"):
                sink.write(one_of_each())
            sink.close()
    assert len(caplog.records) == 1


def test_a_reader_that_leaves_in_the_middle_of_a_large_write_is_a_sink_error(
    pipe: Pipe, tmp_path: Path
) -> None:
    sink = StdoutSink(StdoutSettings(format="msgpack"), context(tmp_path), pipe.write_end)
    failed: list[Exception] = []

    def write() -> None:
        try:
            sink.write([large_frame(1, 512)])
        except SinkError as error:
            failed.append(error)

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    assert os.read(pipe.read_end, 100)
    os.close(pipe.read_end)
    pipe.read_end = -1
    writer.join(10)
    assert "the reader has gone" in str(failed[0])


@pytest.mark.parametrize("blocking", [True, False])
def test_a_reader_that_pauses_gets_everything_in_the_end(pipe: Pipe, tmp_path: Path, blocking: bool) -> None:
    os.set_blocking(pipe.write_end, blocking)
    sink = StdoutSink(StdoutSettings(format="msgpack"), context(tmp_path), pipe.write_end)
    frames = [large_frame(seq, 100) for seq in range(1, 6)]
    writer = threading.Thread(target=sink.write, args=(frames,), daemon=True)
    writer.start()
    time.sleep(0.5)
    assert writer.is_alive(), "nobody has read yet, and the pipe is smaller than the frames"
    pipe.read_on()
    writer.join(10)
    assert pipe.finished() == b"".join(bytes(one.data) for one in frames)


def test_a_reader_that_never_reads_does_not_keep_a_stopping_agent(pipe: Pipe, tmp_path: Path) -> None:
    sink = StdoutSink(
        StdoutSettings(format="msgpack"), context(tmp_path, stopping=lambda: True), pipe.write_end
    )
    with pytest.raises(SinkError, match="the agent is stopping"):
        sink.write([large_frame(1, 512)])


def test_a_closed_standard_output_is_a_sink_error(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    os.close(write_end)
    with pytest.raises(SinkError, match="is not open"):
        StdoutSink(StdoutSettings(), context(tmp_path), write_end)


def test_the_plugin_offers_stdout_and_opens_it_on_standard_output() -> None:
    (kind,) = stdout.bpfleet_sinks()
    assert isinstance(kind, SinkType)
    assert kind.name == "stdout"
    code = (
        "from pathlib import Path\n"
        "from bpfleet_plugins.sinks.stdout import bpfleet_sinks\n"
        "from sample_records import context, one_of_each\n"
        "kind, = bpfleet_sinks()\n"
        "kind.open(kind.settings(), context(Path('/'))).write(one_of_each())\n"
    )
    path = os.pathsep.join(one for one in sys.path if one)
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert [json.loads(line)["kind"] for line in done.stdout.splitlines()][1] == "snapshot"


@pytest.mark.parametrize("table", [{"format": "yaml"}, {"rows": 0}, {"colour": True}])
def test_settings_that_make_no_sense_name_the_key(table: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as caught:
        convert(table, StdoutSettings, where="[sinks.stdout]")
    assert next(iter(table)) in f"{caught.value.where} {caught.value.what}"
