"""The end of a sink and of the agent: what can't be delivered waits in the spool, whoever is killed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from agent_process import Agent, run
from aggregator_peer import Peer, Store
from bpfleet import SinkContext
from bpfleet.wire import Decoder, Gap, Record, Snapshot, Status
from bpfleet.wire.messages import Data, Hello, Message
from bpfleet_plugins.sinks.zmq import ZmqSink
from delivery_scenes import Reply, arrive, free_endpoint, some, stored

Start = Callable[..., Peer]
Open = Callable[..., ZmqSink]
QUICK = '[agent]\ninterval = "50ms"\ndrain = "3s"\n[collectors.execve]\n[collectors.cputime]\n'


def test_a_stopping_sink_delivers_what_waits(
    start: Start, open_sink: Open, store: Store, around: SinkContext
) -> None:
    stopping = threading.Event()
    sink = open_sink(start().endpoint, surroundings=replace(around, stopping=stopping.is_set))
    sink.write(some(1, 100))
    stopping.set()
    sink.close()
    assert stored(store) == list(range(1, 101))


def test_what_is_not_delivered_in_time_is_delivered_after_the_next_start(
    start: Start, open_sink: Open, store: Store, around: SinkContext
) -> None:
    class Hung(Peer):
        def answer(self, identity: bytes, message: Message) -> list[Reply]:
            return super().answer(identity, message) if isinstance(message, Hello) else []

    for endpoint in (free_endpoint(), start(Hung).endpoint):
        end = time.monotonic() + 2
        surroundings = replace(
            around, stopping=lambda: True, time_left=lambda end=end: max(0.0, end - time.monotonic())
        )
        sink = open_sink(endpoint, surroundings=surroundings, hello_timeout="1h", ack_timeout="1h")
        sink.write(some(1, 3))
        sink.close()
    open_sink(start().endpoint)
    arrive(store, [1, 2, 3])


def records_in(store: Store) -> list[Record]:
    decoders: dict[str, Decoder] = {}
    return [decoders.setdefault(spool, Decoder()).decode(data) for _, spool, _, data in store.rows()]


def test_an_agent_killed_in_a_loop_loses_nothing_that_no_gap_tells_of(
    start_agent: Callable[..., Agent], start: Start, store: Store
) -> None:
    peer = start()
    agent = start_agent(QUICK + f'[sinks.zmq]\nendpoints = ["{peer.endpoint}"]\n', sink=False)
    worker = 0
    for _ in range(4):
        count = len(store.rows())
        agent.wait_for(lambda count=count: len(store.rows()) > count + 20)
        worker = agent.child("bpfleet.worker", other_than=worker)
        os.kill(worker, signal.SIGKILL)
    count = len(store.rows())
    agent.wait_for(lambda: len(store.rows()) > count + 20)
    assert agent.stop() == 0
    records = records_in(store)
    seqs = [one.seq for one in records if isinstance(one, Snapshot | Status)]
    assert len(seqs) == len(set(seqs)), "a record is stored twice"
    told = [seq for one in records if isinstance(one, Gap) for seq in range(one.first, one.last + 1)]
    assert not set(told) & set(seqs), "a gap tells of what is there"
    assert set(told) | set(seqs) == set(range(1, max(seqs) + 1))
    assert len({row[1] for row in store.rows()}) == 1, "one spool, whoever dies"


def test_an_agent_keeps_for_its_next_start_what_nobody_took(
    start_agent: Callable[..., Agent], start: Start, store: Store, tmp_path: Path
) -> None:
    endpoint = free_endpoint()
    config = QUICK + f'[sinks.zmq]\nendpoints = ["{endpoint}"]\n'
    agent = start_agent(config, sink=False)
    spool = tmp_path / "state" / "spool" / "zmq.sqlite"
    agent.wait_for(spool.exists)
    time.sleep(1)
    assert agent.stop() == 0
    assert "records wait in the spool" in agent.stderr
    start(Peer, endpoint)
    second = start_agent(config, sink=False)
    second.wait_for(
        lambda: len({one.origin.run for one in records_in(store) if isinstance(one, Status)}) == 2
    )
    assert second.stop() == 0
    runs = [one.origin.run for one in records_in(store) if isinstance(one, Snapshot | Status)]
    assert runs == sorted(runs), "the older run's records come first"


def test_status_says_what_waits_in_the_spool(start_agent: Callable[..., Agent]) -> None:
    config = QUICK.replace('drain = "3s"', 'drain = "3s"\nstatus_interval = "300ms"')
    agent = start_agent(config + f'[sinks.zmq]\nendpoints = ["{free_endpoint()}"]\nhello_timeout = "100ms"\n')

    def waiting() -> bool:
        (sink,) = [one for one in agent.status()["sinks"] if one["name"] == "zmq"]
        spool = sink.get("spool") or {}
        return sink["state"] == "quarantined" and spool["records"] > 5 and spool["oldest_s"] > 0.5

    agent.wait_for(waiting)


def test_once_works_where_the_configuration_has_a_zmq_sink(tmp_path: Path) -> None:
    config = tmp_path / "bpfleet.toml"
    config.write_text(
        f'[agent]\nstate = "{tmp_path}/state"\n[collectors.execve]\n'
        '[sinks.zmq]\nendpoints = ["tcp://127.0.0.1:1"]\n'
    )
    done = run("once", "--config", str(config), "--after", "200ms")
    assert done.returncode == 0, done.stderr
    assert '"collector":"execve"' in done.stdout


def test_a_run_of_some_seconds_delivers_before_it_ends(
    start_agent: Callable[..., Agent], start: Start, store: Store, tmp_path: Path
) -> None:
    class Slow(Peer):
        def answer(self, identity: bytes, message: Message) -> list[Reply]:
            time.sleep(0.02 if isinstance(message, Data) else 0)
            return super().answer(identity, message)

    agent = start_agent(QUICK + f'[sinks.zmq]\nendpoints = ["{start(Slow).endpoint}"]\n', sink=False)
    agent.wait_for(store.rows)
    assert agent.stop() == 0
    assert "wait in the spool" not in agent.stderr
