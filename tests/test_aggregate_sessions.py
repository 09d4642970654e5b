"""What an aggregator answers to each session: who wins, who waits, who is looked for, what is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from aggregator_client import Client, hello, welcomed
from aggregator_process import AggregatorProcess
from bpfleet.wire import Origin
from bpfleet.wire.messages import Ack, Bye, Data, Nack, Welcome
from sample_records import AGENT, frame, large_frame

Start = Callable[..., AggregatorProcess]
Connect = Callable[..., Client]

SHARDS = (1, 2)

OTHER = "another-agent"
SMALL_MEMORY = 'max_size = "256KiB"\nmemory = "1MiB"\n'


def of_other(seq: int, kilobytes: int) -> object:
    return large_frame(seq, kilobytes, origin=Origin(OTHER, "web2", "boot-1", 1_000_000_000))


# ---- who is heard


def test_the_newer_session_of_a_spool_wins_and_the_older_is_told(
    start_aggregator: Start, connect: Connect
) -> None:
    aggregator = start_aggregator()
    old, new = connect(aggregator.endpoint), connect(aggregator.endpoint)
    assert welcomed(old.ask(hello(last=9)))
    old.send(1, frame(1))
    assert old.answer_of(Ack).seq == 1  # type: ignore[attr-defined]
    answer = new.ask(hello(last=9))
    assert isinstance(answer, Welcome)
    assert answer.durable == 1, "it goes on where the older one was"
    told = old.answer_of(Bye)
    assert isinstance(told, Bye)
    assert "a newer session of this spool began at 127.0.0.1" in told.reason
    # What the older one sends is heard no more, or a record could be taken before one that it follows.
    again = old.ask(Data(spool="s1", seq=2, frame=bytes(frame(2).data)))
    assert isinstance(again, Bye)
    assert again.reason == "say HELLO first"
    new.send(2, frame(2))
    assert new.answer_of(Ack).seq == 2  # type: ignore[attr-defined]
    assert aggregator.seqs(2) == [1, 2]
    assert "duplicate" not in aggregator.said, "one host may have more than one sink"


def test_another_spool_of_the_same_agent_is_a_session_beside_it(
    start_aggregator: Start, connect: Connect
) -> None:
    aggregator = start_aggregator()
    one, two = connect(aggregator.endpoint), connect(aggregator.endpoint)
    assert welcomed(one.ask(hello(spool="s1")))
    assert welcomed(two.ask(hello(spool="s2")))
    for client, spool in ((one, "s1"), (two, "s2")):
        client.send(1, frame(1), spool)
        assert isinstance(client.answer(), Ack)
    assert sorted(row[1] for row in aggregator.stored(2)) == ["s1", "s2"]


def test_one_agent_from_two_addresses_is_told_to_the_operator(
    start_aggregator: Start, connect: Connect
) -> None:
    aggregator = start_aggregator('curve = "off"', bind="tcp://0.0.0.0:*")
    port = aggregator.endpoint.rpartition(":")[2]
    # Two addresses of this host are enough to be two hosts, as far as an aggregator can tell.
    one = connect(f"tcp://127.0.0.2:0;127.0.0.1:{port}")
    two = connect(f"tcp://127.0.0.3:0;127.0.0.1:{port}")
    assert welcomed(one.ask(hello()))
    assert welcomed(two.ask(hello()))
    line = aggregator.wait_for_line("duplicate")
    assert "speaks from 127.0.0.2 and 127.0.0.3:" in line
    assert "a cloned disk" in line


# ---- who has to wait


def test_a_record_without_room_is_turned_away_and_comes_again(
    start_aggregator: Start, connect: Connect
) -> None:
    aggregator = start_aggregator(SMALL_MEMORY)
    client = connect(aggregator.endpoint)
    assert welcomed(client.ask(hello(last=99)))
    (aggregator.state / "wait").touch()
    sent = 0
    refusal = None
    while refusal is None:
        sent += 1
        assert sent < 50, "whatever came was taken"
        client.send(sent, large_frame(sent, 200))
        refusal = client.answer(100)
    # What was on its way behind it must not overtake it: the session is over.
    assert isinstance(refusal, Nack)
    assert (refusal.fatal, refusal.reason) == (False, "no room for more records now")
    assert refusal.seq > 5, "a MiB holds five of 200 KiB"
    later = client.ask(Data(spool="s1", seq=sent + 1, frame=bytes(frame(sent + 1).data)))
    assert isinstance(later, Bye)
    (aggregator.state / "wait").unlink()
    welcome = client.ask(hello(last=99))
    assert isinstance(welcome, Welcome)
    assert welcome.durable == refusal.seq - 1, "all that was taken before is stored"
    client.send(refusal.seq, large_frame(refusal.seq, 200))
    assert isinstance(client.answer_of(Ack), Ack)
    assert aggregator.seqs(refusal.seq) == list(range(1, refusal.seq + 1))


def test_while_memory_is_half_full_agents_have_no_credit_and_then_get_it_back(
    start_aggregator: Start, connect: Connect
) -> None:
    aggregator = start_aggregator(SMALL_MEMORY + "window = 7\n")
    waiting, filling = connect(aggregator.endpoint), connect(aggregator.endpoint)
    assert welcomed(waiting.ask(hello(last=99)))
    assert welcomed(filling.ask(hello(OTHER, last=99)))
    (aggregator.state / "wait").touch()
    waiting.send(1, frame(1))
    seq, turned_away = 0, None
    while turned_away is None:
        seq += 1
        assert seq < 50
        filling.send(seq, of_other(seq, 200))  # type: ignore[arg-type]
        # In pieces: what comes together is stored together.
        turned_away = filling.answer(300)
    (aggregator.state / "wait").unlink()
    first, then = waiting.answer(), waiting.answer()
    assert isinstance(first, Ack)
    assert isinstance(then, Ack)
    assert (first.seq, first.credit) == (1, 0), "stored, and no more for now"
    assert (then.seq, then.credit) == (1, 7), "told by itself, once there is room"


# ---- who is looked for


def test_a_silent_agent_is_probed_and_stays_and_one_that_has_gone_is_forgotten(
    start_aggregator: Start, connect: Connect
) -> None:
    aggregator = start_aggregator('idle = "500ms"', terminal=True)
    silent, gone = connect(aggregator.endpoint), connect(aggregator.endpoint)
    assert welcomed(silent.ask(hello(last=9)))
    assert welcomed(gone.ask(hello(OTHER)))
    silent.send(1, frame(1))
    assert isinstance(silent.answer(), Ack)
    aggregator.wait_for_line("2 agents")
    gone.close()
    probe = silent.answer_of(Ack)
    assert isinstance(probe, Ack)
    assert (probe.seq, probe.credit) == (1, 16), "an ACK that changes nothing"
    aggregator.wait_for_line("1 agents")
    silent.send(2, frame(2))
    assert aggregator.seqs(2) == [1, 2]
    assert "protocol" not in aggregator.said


# ---- what is refused


def test_a_record_that_is_too_long_is_refused_for_good_within_the_session(
    start_aggregator: Start, connect: Connect
) -> None:
    aggregator = start_aggregator('max_size = "64KiB"')
    client = connect(aggregator.endpoint)
    welcome = client.ask(hello(last=9))
    assert isinstance(welcome, Welcome)
    assert welcome.max_size == 64 << 10
    client.send(1, frame(1))
    client.send(2, bytes((64 << 10) + 1))
    client.send(3, frame(3))
    answers = [client.answer()]
    while not (isinstance(answers[-1], Ack) and answers[-1].seq == 3):
        assert answers[-1] is not None, answers
        answers.append(client.answer())
    (refused,) = (one for one in answers if isinstance(one, Nack))
    assert (refused.seq, refused.fatal) == (2, True)
    assert refused.reason == "it has 65537 bytes, at most 65536 are taken"
    assert aggregator.seqs(2) == [1, 3]
    assert "record 2 is refused: it has 65537 bytes" in aggregator.wait_for_line("record 2 is refused")


def test_a_message_beyond_all_measure_ends_the_connection_and_nothing_else(
    start_aggregator: Start, connect: Connect
) -> None:
    aggregator = start_aggregator('max_size = "64KiB"')
    huge, good = connect(aggregator.endpoint), connect(aggregator.endpoint)
    assert welcomed(huge.ask(hello(OTHER, last=9)))
    assert welcomed(good.ask(hello(last=9)))
    huge.send(1, bytes(4 << 20))
    good.send(1, frame(1))
    assert isinstance(good.answer(), Ack)
    assert huge.answer(500) is None
    # ZeroMQ has connected it anew, without a session.
    assert isinstance(huge.ask(Data(spool="s1", seq=2, frame=bytes(frame(2).data))), Bye)
    assert [row[0] for row in aggregator.stored(1)] == [AGENT]


# ---- what the operator sees


def test_a_terminal_has_a_line_of_progress_that_lines_do_not_run_into(
    start_aggregator: Start, connect: Connect
) -> None:
    aggregator = start_aggregator(terminal=True)
    client = connect(aggregator.endpoint)
    assert welcomed(client.ask(hello(last=9)))
    client.send(1, frame(1))
    client.send(2, b"no record")
    client.send(3, frame(3))
    line = aggregator.wait_for_line("1 refused")
    assert re.fullmatch(r"1 agents {2}[\d,]+ records/s {2}0\.0 MiB waiting {2}1 refused *\n", line), repr(
        line
    )
    for one in aggregator.lines:
        assert re.match(r"\d{4}-\d\d-\d\d [\d:.]+ {2}\S|[\d,]+ agents {2}", one), repr(one)


def test_without_a_terminal_there_is_none(start_aggregator: Start, connect: Connect, tmp_path: Path) -> None:
    aggregator = start_aggregator()
    client = connect(aggregator.endpoint)
    assert welcomed(client.ask(hello(last=9)))
    client.send(1, frame(1))
    aggregator.stored(1)
    assert client.answer(1500) is not None
    assert client.answer(1500) is None
    assert aggregator.stop() == 0
    assert "MiB waiting" not in aggregator.said
