"""How few answers an aggregator gives: an ACK where all is stored or half of the credit is used, one BYE."""

from __future__ import annotations

from bpfleet.wire import Decoder
from bpfleet_aggregator.session import Session, Sessions


def session(peer: bytes = b"peer", agent: str = "a") -> Session:
    return Session(peer, agent, "s", 0, "", "", 0.0, Decoder())


def test_what_was_stored_is_acknowledged_once_nothing_of_the_session_waits() -> None:
    one = session()
    one.given = 7
    assert one.is_due(7, credit=100)
    assert not one.is_due(6, credit=100)


def test_in_a_backlog_it_is_acknowledged_when_half_of_the_credit_is_used() -> None:
    one = session()
    one.given, one.told = 100, 40
    assert [seq for seq in range(41, 60) if one.is_due(seq, credit=20)] == list(range(51, 60))
    one.told = 51
    assert not one.is_due(61, credit=20)
    assert one.is_due(62, credit=20)


def test_the_least_credit_has_each_record_acknowledged_else_nothing_would_follow() -> None:
    one = session()
    one.given, one.told = 9, 3
    assert one.is_due(4, credit=1)
    assert one.is_due(4, credit=0)


def test_a_connection_without_a_session_is_told_so_once_until_it_has_had_one() -> None:
    sessions = Sessions()
    assert [sessions.is_to_be_told(b"peer") for _ in range(3)] == [True, False, False]
    assert sessions.is_to_be_told(b"another")
    one = session()
    sessions.add(one)
    sessions.drop(one)
    assert [sessions.is_to_be_told(b"peer") for _ in range(2)] == [True, False]


def test_who_was_told_is_remembered_within_bounds() -> None:
    sessions = Sessions()
    for number in range(200_000):
        assert sessions.is_to_be_told(number.to_bytes(4, "big"))
    assert sessions.is_to_be_told(bytes(4))  # long forgotten: once more costs little
