"""Records from the kernel to a file and to a real peer, through deaths of the worker and of the peer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from agent_process import Agent, run
from aggregator_peer import Peer, Store
from bpfleet.wire import Decoder, Gap, Record, Schema, Snapshot, Status

Start = Callable[..., Agent]

QUICK = '[agent]\ninterval = "50ms"\n[collectors.execve]\n[collectors.cputime]\n'


def told_of(records: list[Record]) -> set[int]:
    """The seqs that gaps tell of."""
    return {seq for one in records if isinstance(one, Gap) for seq in range(one.first, one.last + 1)}


def seqs_of(records: list[Record]) -> list[int]:
    return [one.seq for one in records if isinstance(one, Snapshot | Status)]


def decoded(path: Path) -> list[dict[str, object]]:
    done = run("decode", str(path))
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_file_has_every_record_and_gaps_for_what_went_down_with_killed_workers(
    start_agent: Start, tmp_path: Path
) -> None:
    config = QUICK + '[sinks.file]\npath = "records.bpfleet"\n'
    agent = start_agent(config, sink=False)
    path = tmp_path / "state" / "records.bpfleet"
    worker = 0
    for _ in range(3):
        worker = agent.child("bpfleet.worker", other_than=worker)
        size = path.stat().st_size if path.exists() else 0
        agent.wait_for(lambda size=size: path.exists() and path.stat().st_size > size + 5000)
        os.kill(worker, signal.SIGKILL)
    worker = agent.child("bpfleet.worker", other_than=worker)
    size = path.stat().st_size
    agent.wait_for(lambda: path.stat().st_size > size + 5000)
    assert agent.stop() == 0
    records = decoded(path)
    seqs = [one["seq"] for one in records if one["kind"] in ("snapshot", "status")]
    told = {
        seq
        for one in records
        if one["kind"] == "gap"
        for seq in range(int(str(one["first"])), int(str(one["last"])) + 1)
    }
    assert seqs == sorted(set(seqs))
    assert told | set(seqs) == set(range(1, int(str(seqs[-1])) + 1)), "a loss that no gap tells of"
    execve = [one for one in records if one["kind"] == "snapshot" and one["collector"] == "execve"]
    assert len({one["generation"] for one in execve}) == 1


def test_two_sinks_of_one_type_each_get_everything(start_agent: Start, tmp_path: Path) -> None:
    plain = '[sinks.a]\ntype = "file"\npath = "a.bpfleet"\n'
    small = '[sinks.b]\ntype = "file"\npath = "b.bpfleet"\ncompression = "zstd"\n'
    config = QUICK + plain + small
    agent = start_agent(config, sink=False)
    state = tmp_path / "state"
    agent.wait_for(lambda: (state / "b.bpfleet").exists() and (state / "b.bpfleet").stat().st_size > 10_000)
    assert agent.stop() == 0
    a, b = (decoded(state / name) for name in ("a.bpfleet", "b.bpfleet"))
    assert a == b
    assert (state / "b.bpfleet").stat().st_size < (state / "a.bpfleet").stat().st_size


def test_a_place_that_the_worker_can_not_write_to_names_user_folder_and_remedy(
    start_agent: Start, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o755)
    agent = start_agent(QUICK + f'[sinks.file]\npath = "{elsewhere}/records.bpfleet"\n')
    agent.next_snapshot("execve", "counts")
    status = agent.wait_for(
        lambda: next((one for one in agent.status()["sinks"] if one["state"] == "quarantined"), None)
    )
    text = " ".join(map(str, status["error"].values()))
    assert "nobody" in text
    assert str(elsewhere) in text
    assert status["error"]["remedy"]


def test_a_peer_gets_every_record_once_through_kills_of_both(start_agent: Start, tmp_path: Path) -> None:
    store = Store(tmp_path / "store.sqlite")
    first = Peer(store).start()
    endpoint = first.endpoint
    agent = start_agent(QUICK + f'[sinks.zmq]\nendpoints = ["{endpoint}"]\n', sink=False)
    agent.wait_for(lambda: len(store.rows()) > 50)
    os.kill(agent.child("bpfleet.worker"), signal.SIGKILL)
    count = len(store.rows())
    agent.wait_for(lambda: len(store.rows()) > count + 50)
    first.stop()
    with subprocess.Popen(
        [sys.executable, Path(__file__).with_name("aggregator_peer.py"), endpoint, store.path]
    ) as second:
        count = len(store.rows())
        agent.wait_for(lambda: len(store.rows()) > count + 50, 60)
        second.kill()
    third = Peer(store, endpoint).start()
    count = len(store.rows())
    agent.wait_for(lambda: len(store.rows()) > count + 50, 60)
    time.sleep(0.2)
    assert agent.stop() == 0
    third.stop()
    decoders: dict[str, Decoder] = {}
    records: list[Record] = []
    for _, spool, _, frame in store.rows():
        records.append(decoders.setdefault(spool, Decoder()).decode(frame))
    numbered = [(spool, seq) for _, spool, seq, _ in store.rows() if seq]
    assert len(numbered) == len(set(numbered))
    assert any(isinstance(one, Schema) for one in records)
    seqs = seqs_of(records)
    assert len(seqs) == len(set(seqs)), "a record is stored twice"
    missing = set(range(1, max(seqs) + 1)) - set(seqs)
    assert missing <= told_of(records), "a loss that no gap tells of"
