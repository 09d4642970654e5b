"""Who is admitted: CURVE keys, the list of keys, and agents bound to them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import zmq

from agent_process import run
from aggregator_client import Client, hello, welcomed
from aggregator_process import AggregatorProcess
from bpfleet.keys import KeyPair, write_pair
from bpfleet.wire.messages import Bye, Data, Message, Welcome
from sample_records import AGENT

Start = Callable[..., AggregatorProcess]
Connect = Callable[..., Client]

SHARDS = (1, 2)

PUBLIC, SECRET = (key.decode() for key in zmq.curve_keypair())


class Keyring:
    """The aggregator's key and list of keys, as files; the keys of agents."""

    def __init__(self, directory: Path) -> None:
        self.secret = directory / "aggregator.key"
        write_pair(self.secret, KeyPair(PUBLIC, SECRET))
        self.list = directory / "agent-keys"
        self.list.write_text("# PUBLICKEY AGENT comment\n")
        self.settings = f'key = "{self.secret}"\nkeys = "{self.list}"'

    def admit(self, agent: str = "*") -> tuple[bytes, bytes]:
        """A new key pair, its public half listed."""
        public, secret = zmq.curve_keypair()
        with self.list.open("a") as file:
            file.write(f"{public.decode()} {agent} made by a test\n")
        return public, secret


@pytest.fixture
def keyring(shared_path: Path) -> Keyring:
    return Keyring(shared_path)


@pytest.fixture
def connect(connect: Connect) -> Connect:
    """Expecting of the aggregator the key that it has."""

    def begin(endpoint: str, keys: tuple[bytes, bytes] | None, server: str = PUBLIC) -> Client:
        return connect(endpoint, keys, server)

    return begin


def refusal(answer: Message | None) -> str:
    assert isinstance(answer, Welcome)
    assert answer.refused
    assert answer.credit == 0
    return answer.refused


def test_a_listed_key_speaks_for_the_agent_that_it_is_listed_for(
    start_aggregator: Start, connect: Connect, keyring: Keyring
) -> None:
    mine = keyring.admit(AGENT)
    aggregator = start_aggregator(keyring.settings)
    assert f"public key {PUBLIC}" in aggregator.wait_for_line("public key")
    assert welcomed(connect(aggregator.endpoint, mine).ask(hello()))
    assert "is not listed for agent other" in refusal(connect(aggregator.endpoint, mine).ask(hello("other")))
    assert "1 keys admitted" in aggregator.said


def test_an_unknown_key_a_wrong_server_key_and_no_key_get_no_answer(
    start_aggregator: Start, connect: Connect, keyring: Keyring
) -> None:
    mine = keyring.admit()
    aggregator = start_aggregator(keyring.settings)
    stranger = zmq.curve_keypair()
    clients = [
        connect(aggregator.endpoint, stranger),
        connect(aggregator.endpoint, mine, server=stranger[0].decode()),
        connect(aggregator.endpoint, None),
    ]
    assert [client.ask(hello(), 700) for client in clients] == [None, None, None]
    line = aggregator.wait_for_line("refused: a connection from 127.0.0.1")
    assert stranger[0].decode() in line
    assert welcomed(connect(aggregator.endpoint, mine).ask(hello()))


def test_a_key_for_any_agent_belongs_to_the_first_it_comes_with_also_after_a_kill(
    start_aggregator: Start, connect: Connect, keyring: Keyring
) -> None:
    first, second = keyring.admit(), keyring.admit()
    aggregator = start_aggregator(keyring.settings)
    assert welcomed(connect(aggregator.endpoint, first).ask(hello("a1")))
    aggregator.kill()
    aggregator.restart()
    assert "belongs to agent a1" in refusal(connect(aggregator.endpoint, first).ask(hello("a2")))
    assert "agent a1 belongs to the key" in refusal(connect(aggregator.endpoint, second).ask(hello("a1")))
    assert welcomed(connect(aggregator.endpoint, first).ask(hello("a1")))
    assert welcomed(connect(aggregator.endpoint, second).ask(hello("a2")))


def test_an_agent_that_is_listed_by_name_can_not_be_taken_by_a_key_for_any(
    start_aggregator: Start, connect: Connect, keyring: Keyring
) -> None:
    anybody, named = keyring.admit(), keyring.admit("a1")
    aggregator = start_aggregator(keyring.settings)
    assert "another one is" in refusal(connect(aggregator.endpoint, anybody).ask(hello("a1")))
    assert welcomed(connect(aggregator.endpoint, named).ask(hello("a1")))


def test_the_list_is_read_again_without_a_restart(
    start_aggregator: Start, connect: Connect, keyring: Keyring
) -> None:
    old = keyring.admit("a1")
    aggregator = start_aggregator(keyring.settings)
    session = connect(aggregator.endpoint, old)
    assert welcomed(session.ask(hello("a1")))
    keyring.list.write_text("")
    new = keyring.admit("a1")
    aggregator.wait_for_line("the list was read again, 1 keys")
    answer = session.answer()
    assert isinstance(answer, Bye)
    assert "is not in the aggregator's list" in answer.reason
    assert "is not in the aggregator's list" in refusal(session.ask(hello("a1")))
    assert welcomed(connect(aggregator.endpoint, new).ask(hello("a1")))


def test_a_list_that_is_wrong_changes_nothing(
    start_aggregator: Start, connect: Connect, keyring: Keyring
) -> None:
    mine = keyring.admit()
    aggregator = start_aggregator(keyring.settings)
    with keyring.list.open("a") as file:
        file.write("half a line\n")
    aggregator.wait_for_line("agent-keys:3: not a key and an agent; the list from before stays in force")
    assert welcomed(connect(aggregator.endpoint, mine).ask(hello()))


def test_a_revoked_agent_may_come_back_with_a_new_key(
    start_aggregator: Start, connect: Connect, keyring: Keyring
) -> None:
    old = keyring.admit()
    aggregator = start_aggregator(keyring.settings)
    assert welcomed(connect(aggregator.endpoint, old).ask(hello("a1")))
    keyring.list.write_text("")
    new = keyring.admit()
    aggregator.wait_for_line("the list was read again, 1 keys")
    assert welcomed(connect(aggregator.endpoint, new).ask(hello("a1")))


def test_while_bindings_cant_be_kept_no_new_agent_is_admitted(
    start_aggregator: Start, connect: Connect, keyring: Keyring
) -> None:
    mine = keyring.admit()
    aggregator = start_aggregator(keyring.settings)
    (aggregator.state / "agents").mkdir()
    answer = connect(aggregator.endpoint, mine).ask(hello("a1"))
    assert isinstance(answer, Bye)
    assert "can't remember this agent's key" in answer.reason
    (aggregator.state / "agents").rmdir()
    assert welcomed(connect(aggregator.endpoint, mine).ask(hello("a2")))


def test_data_of_a_stranger_to_the_session_is_not_heard(
    start_aggregator: Start, connect: Connect, keyring: Keyring
) -> None:
    mine = keyring.admit("a1")
    aggregator = start_aggregator(keyring.settings)
    client = connect(aggregator.endpoint, mine)
    answer = client.ask(Data(spool="s1", seq=1, frame=b"x"))
    assert isinstance(answer, Bye)
    assert answer.reason == "say HELLO first"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ('bind = ["tcp://0.0.0.0:7700"]', "in any agent's name"),
        ('key = "missing.key"', "there is no key file"),
        ('curve = "on"', 'curve = "on" needs a key'),
        ("windows = 3", "did you mean 'window'?"),
        ('bind = ["udp://1.2.3.4:5"]', "is not tcp://ADDRESS:PORT"),
    ],
)
def test_a_wrong_configuration_is_an_error_with_a_remedy(shared_path: Path, settings: str, said: str) -> None:
    config = shared_path / "aggregator.toml"
    config.write_text(f'[aggregator]\nstate = "{shared_path}"\n{settings}\n')
    done = run("aggregate", "--config", str(config))
    assert done.returncode == 2
    assert said in done.stderr
    assert "remedy" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_keys_another_hosts_agents_are_let_in_only_where_that_is_said(
    start_aggregator: Start,
) -> None:
    aggregator = start_aggregator('curve = "off"', bind="tcp://0.0.0.0:*")
    assert "without keys" in aggregator.said
