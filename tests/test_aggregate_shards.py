"""`bpfleet aggregate` with shards: processes that receive, beside the one that stores."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import cast

import pytest
import zmq

from agent_process import BPFLEET
from aggregator_client import Client, hello, welcomed
from aggregator_process import AggregatorProcess
from bpfleet.errors import ConfigError
from bpfleet.wire import Frame, Origin
from bpfleet.wire.messages import Ack, Bye, Welcome
from bpfleet_aggregator.config import AggregatorSettings
from bpfleet_aggregator.listening import Listening
from bpfleet_aggregator.report import Report
from bpfleet_aggregator.shards import Shards
from sample_records import frame, large_frame

Start = Callable[..., AggregatorProcess]
Connect = Callable[..., Client]

SHARDS = (2,)


def agent_id(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012d}"


def of(number: int, seq: int) -> Frame:
    """A record of the agent with that number."""
    return frame(seq, origin=Origin(agent_id(number), "host", "boot", 1))


def connections(pid: int) -> int:
    """TCP connections that a process has."""
    links = []
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            links.append(os.readlink(path))
    sockets = {link[8:-1] for link in links if link.startswith("socket:[")}
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(1 for words in lines if words[3] == "01" and words[9] in sockets)


def clients_of_both(aggregator: AggregatorProcess, connect: Connect) -> tuple[Client, Client]:
    """One client at each shard."""
    first, second = aggregator.shards(2)
    found: dict[int, Client] = {}
    for _ in range(40):
        before = connections(first), connections(second)
        one = connect(aggregator.endpoint)
        aggregator.wait_for(lambda: (connections(first), connections(second)) != before)  # noqa: B023
        at = first if connections(first) > before[0] else second
        found.setdefault(at, one)
        if len(found) == 2:
            return found[first], found[second]
    raise AssertionError("forty connections, and all came to one shard")


def ended(pids: list[int]) -> bool:
    return all(state(pid) in "ZX" for pid in pids)


def state(pid: int) -> str:
    """As in proc(5); X for none: who has no parent any more need not be waited for at once."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "X"


def test_connections_come_to_all_shards_and_records_to_one_store(
    start_aggregator: Start, connect: Connect
) -> None:
    aggregator = start_aggregator()
    clients = [connect(aggregator.endpoint) for _ in range(30)]
    for number, one in enumerate(clients):
        assert welcomed(one.ask(hello(agent_id(number), last=2)))
        one.send(1, of(number, 1))
        one.send(2, of(number, 2))
    assert len(aggregator.stored(60)) == 60
    for one in clients:
        assert one.answer_of(Ack) is not None
    shares = [connections(pid) for pid in aggregator.shards(2)]
    assert sum(shares) == 30
    assert min(shares) > 0


def test_a_shard_that_is_killed_is_started_again_and_costs_its_agents_a_new_session(
    start_aggregator: Start, connect: Connect
) -> None:
    aggregator = start_aggregator()
    here, there = clients_of_both(aggregator, connect)
    for one, number in ((here, 1), (there, 2)):
        assert welcomed(one.ask(hello(agent_id(number), last=9)))
        one.send(1, of(number, 1))
        one.answer_of(Ack)
    victim, other = aggregator.shards(2)
    os.kill(victim, signal.SIGKILL)
    aggregator.wait_for_line("shard 1 has ended (signal 9) and is started again")
    there.send(2, of(2, 2))
    assert there.answer_of(Ack) == Ack(seq=2, credit=16)
    # ZeroMQ has connected anew by itself, to whichever shard: what is sent there needs a HELLO first.
    here.send(2, of(1, 2))
    assert here.answer_of(Bye) == Bye(reason="say HELLO first")
    answer = here.ask(hello(agent_id(1), last=9))
    assert isinstance(answer, Welcome)
    assert answer.durable == 1
    here.send(2, of(1, 2))
    assert aggregator.seqs(4) == [1, 1, 2, 2]
    left = aggregator.shards(2)
    assert other in left
    assert victim not in left


def test_the_newer_session_of_a_spool_wins_also_at_another_shard(
    start_aggregator: Start, connect: Connect
) -> None:
    aggregator = start_aggregator()
    here, there = clients_of_both(aggregator, connect)
    assert welcomed(here.ask(hello(last=9)))
    here.send(1, frame(1))
    here.answer_of(Ack)
    assert welcomed(there.ask(hello(last=9)))
    assert "a newer session of this spool" in here.answer_of(Bye).reason  # type: ignore[attr-defined]
    here.send(2, frame(2))
    there.send(2, frame(2))
    there.answer_of(Ack)
    assert aggregator.seqs(2) == [1, 2]


def test_a_shard_that_hangs_keeps_nobody_else_waiting(start_aggregator: Start, connect: Connect) -> None:
    aggregator = start_aggregator()
    here, there = clients_of_both(aggregator, connect)
    assert welcomed(here.ask(hello(agent_id(1), last=9)))
    assert welcomed(there.ask(hello(agent_id(2), last=9)))
    hung, _ = aggregator.shards(2)
    os.kill(hung, signal.SIGSTOP)
    try:
        here.send(1, of(1, 1))
        there.send(1, of(2, 1))
        there.answer_of(Ack)
        assert [row[0] for row in aggregator.stored(1)] == [agent_id(2)]
    finally:
        os.kill(hung, signal.SIGCONT)
    here.answer_of(Ack)
    assert len(aggregator.stored(2)) == 2


def test_what_does_not_fit_waits_at_the_agents_and_is_stored_later(
    start_aggregator: Start, connect: Connect
) -> None:
    """More than the way from a shard holds, while the process that stores does not look at it."""
    aggregator = start_aggregator('memory = "1GiB"')
    one = connect(aggregator.endpoint)
    assert welcomed(one.ask(hello(last=400)))
    pids = aggregator.shards(2)
    before = sum(map(resident, pids))
    os.kill(aggregator.process.pid, signal.SIGSTOP)
    try:
        for seq in range(1, 401):  # 80 MB
            one.send(seq, large_frame(seq, 200))
        time.sleep(1)
        grown = sum(map(resident, pids)) - before
    finally:
        os.kill(aggregator.process.pid, signal.SIGCONT)
    assert 1 << 20 < grown < 40 << 20
    assert aggregator.seqs(400) == list(range(1, 401))


def resident(pid: int) -> int:
    """Bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_the_shards_of_a_killed_aggregator_end_and_their_port_is_free_at_once(
    start_aggregator: Start, connect: Connect
) -> None:
    aggregator = start_aggregator()
    clients_of_both(aggregator, connect)
    pids = aggregator.shards(2)
    os.kill(pids[1], signal.SIGSTOP)  # also one that hangs
    aggregator.kill()
    aggregator.restart()
    assert welcomed(connect(aggregator.endpoint).ask(hello()))
    assert ended(pids)


def test_an_end_for_the_whole_group_stores_first_and_says_bye(
    start_aggregator: Start, connect: Connect
) -> None:
    """As a service manager or a terminal ends it: shards get the signal, too."""
    aggregator = start_aggregator()
    pids = aggregator.shards(2)
    one = connect(aggregator.endpoint)
    assert welcomed(one.ask(hello(last=9)))
    (aggregator.state / "wait").touch()
    one.send(1, frame(1))
    time.sleep(0.2)
    for pid in (*pids, aggregator.process.pid):
        os.kill(pid, signal.SIGTERM)
    time.sleep(0.5)
    (aggregator.state / "wait").unlink()
    assert aggregator.process.wait(20) == 0
    one.answer_of(Ack)
    assert one.answer_of(Bye) == Bye(reason="the aggregator ends")
    assert aggregator.seqs() == [1]
    assert ended(pids)
    assert "ended: 1 records stored" in aggregator.said


def test_another_aggregator_on_the_same_port_is_an_error_and_takes_no_agents(
    start_aggregator: Start, shared_path: Path
) -> None:
    aggregator = start_aggregator()
    config = shared_path / "another.toml"
    config.write_text(
        f'[aggregator]\nbind = ["{aggregator.endpoint}"]\nstate = "{aggregator.state}"\n'
        'user = "nobody"\nshards = 2\n[store.rows]\n'
    )
    done = subprocess.run(
        [BPFLEET, "aggregate", "--config", str(config)],
        capture_output=True,
        text=True,
        timeout=60,
        env=aggregator.environment,
    )
    assert done.returncode == 2
    assert "can't listen: Address already in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_unix_socket_and_ports_of_both_families_lead_to_the_same_store(
    start_aggregator: Start, connect: Connect, shared_path: Path
) -> None:
    bind = f'ipc://{shared_path}/agents.sock", "tcp://[::1]:*", "tcp://127.0.0.1:*'
    aggregator = start_aggregator(bind=bind)
    line = aggregator.wait_for_line("listening on")
    endpoints = line.partition("listening on ")[2].partition(";")[0].split(", ")
    assert len(endpoints) == 3
    for number, endpoint in enumerate(endpoints):
        one = connect(endpoint)
        assert welcomed(one.ask(hello(agent_id(number), last=1)))
        one.send(1, of(number, 1))
    assert sorted(row[0] for row in aggregator.stored(3)) == [agent_id(number) for number in range(3)]


def test_a_file_that_is_in_the_way_of_a_unix_socket_is_an_error_and_stays(tmp_path: Path) -> None:
    file = tmp_path / "agents.sock"
    file.write_text("mine")
    listening = Listening(2)
    with pytest.raises(ConfigError, match="can't listen: Address already in use"):
        listening.bind([f"ipc://{file}"])
    listening.close()
    assert file.read_text() == "mine"


def test_a_shard_imports_nothing_from_the_current_directory(
    start_aggregator: Start, connect: Connect, shared_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (shared_path / "zmq.py").write_text("raise SystemExit('from the current directory')\n")
    monkeypatch.chdir(shared_path)
    assert welcomed(connect(start_aggregator().endpoint).ask(hello()))


def test_answers_for_a_shard_that_is_not_there_yet_keep_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = tmp_path / "python"
    slow.write_text(f'#!/bin/sh\nsleep 4\nexec {sys.executable} "$@"\n')
    slow.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(slow))
    said: list[str] = []
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    shards = Shards(AggregatorSettings(shards=2), context, lambda: ["a key"], cast(Report, said))
    shards.bind(["tcp://127.0.0.1:*"])
    shards.start()
    try:
        began = time.monotonic()
        for _ in range(5000):
            shards.send(b"\0nobody", Bye(reason="it has gone"))
        shards.keys_changed()
        assert time.monotonic() - began < 3
        # Later they go out, and each is answered by: there is nobody of that name.
        gone = 0
        while gone < 5000 and time.monotonic() - began < 60:
            shards.wait(100)
            gone += sum(one.peer == b"\0nobody" for one in shards.received({}))
        assert gone == 5000
    finally:
        shards.close()
        context.term()
    assert not said


def test_its_processes_are_not_root(start_aggregator: Start) -> None:
    for pid in start_aggregator().shards(2):
        lines = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        assert "0" not in lines["Uid"].split()
        assert int(lines["CapEff"], 16) == 0
        assert lines["NoNewPrivs"] == "1"
