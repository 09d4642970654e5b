"""A ClickHouse store's settings, its errors, and what retention removes."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace as altered

from bpfleet.errors import ConfigError, StoreError
from bpfleet.plugins import Plugins
from bpfleet.settings import Duration, Size, convert
from bpfleet.stores import Received
from bpfleet_aggregator.stores.clickhouse.dialect import Dialect
from bpfleet_aggregator.stores.clickhouse.server import HttpServer
from bpfleet_aggregator.stores.clickhouse.settings import ClickhouseSettings
from bpfleet_aggregator.stores.clickhouse.store import ClickhouseStore
from bpfleet_aggregator.stores.clickhouse.tables import Tables, own_tables
from clickhouse_servers import PASSWORD, Place, ServerProcess, free_port
from fleet_records import CALLS, GLOBALS, NOW, gap, received, snapshot, status

DAY = 86400 * 10**9


def shot(days_ago: int = 0, seq: int = 1) -> Any:
    made = snapshot(GLOBALS, [(1, 0.5)], seq=seq, seconds=20)
    return altered(made, wall_offset=made.wall_offset - days_ago * DAY)


# ---- settings


def test_the_store_is_a_plugin() -> None:
    kind = Plugins().store_type("clickhouse")
    assert kind.name == "clickhouse"
    assert kind.settings().url == "http://127.0.0.1:8123"


@pytest.mark.parametrize(
    ("table", "wanted"),
    [
        ({"url": "clickhouse:9000"}, "is not http://HOST:PORT"),
        ({"database": "a-b"}, "database 'a-b' is not a name"),
        ({"cluster": "a b"}, "cluster 'a b' is not a name"),
        ({"password": "x", "password_file": "y"}, "can't both be set"),
        ({"quorum": 2}, "quorum needs replicated"),
        ({"replicated": True, "replica_path": "/x"}, "lacks TABLE"),
        ({"retention": "soon"}, "expected a duration"),
        ({"databse": "x"}, "databse"),
    ],
)
def test_a_wrong_setting_is_told(table: dict[str, Any], wanted: str) -> None:
    with pytest.raises(ConfigError, match=wanted):
        convert(table, ClickhouseSettings, where="store.clickhouse")


def test_a_password_comes_from_a_files_first_line(server_place: Place, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(PASSWORD + "\nand a note\n")
    store = server_place.store(user="keeper", password_file="secret")
    store.commit(received([shot()]))
    assert store.marks([("a1", "s1")]) == [1]


def test_a_password_file_that_is_not_there_is_told(server_place: Place) -> None:
    with pytest.raises(ConfigError, match=r"password can't be read"):
        server_place.store(password_file="nowhere")


# ---- errors


def test_a_wrong_password_is_an_error_of_the_configuration(server_place: Place) -> None:
    for open_it in (server_place.store, server_place.reader):
        with pytest.raises(ConfigError, match=r"keeper") as caught:
            open_it(user="keeper", password="wrong")
        assert "`password`" in caught.value.remedy


def test_a_cluster_that_the_server_does_not_know_is_an_error_of_the_configuration(place: Place) -> None:
    with pytest.raises(ConfigError) as caught:
        place.store(cluster="nowhere")
    assert "`cluster` names" in caught.value.remedy


def test_replicated_tables_without_zookeeper_are_refused_with_a_remedy(server_place: Place) -> None:
    with pytest.raises(StoreError, match=r"ZooKeeper") as caught:
        server_place.store(replicated=True, replica_path="/x/TABLE", replica="r1")
    assert "ZooKeeper (Keeper)" in caught.value.remedy


def test_a_macro_that_the_server_does_not_define_is_an_error_of_the_configuration(place: Place) -> None:
    with pytest.raises(ConfigError, match=r"No macro") as caught:
        place.store(replicated=True)
    assert "<macros>" in caught.value.remedy


def test_nobody_listens(server_place: Place) -> None:
    with pytest.raises(StoreError, match=r"can't be reached: .*refused") as caught:
        server_place.store(url=f"http://127.0.0.1:{free_port()}")
    assert "`url`" in caught.value.remedy


def test_something_else_listens(server_place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(StoreError, match=r"HTTP 404 Not Found: no") as caught:
            server_place.store(url=f"http://127.0.0.1:{listener.getsockname()[1]}")
        thread.join(10)
    assert "ClickHouse's HTTP interface" in caught.value.remedy


def test_a_server_that_takes_connections_and_does_nothing_is_given_up(server_place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(StoreError, match=r"did not answer in time"):
            server_place.store(url=url, timeout=Duration(0.2))


def test_an_answer_that_breaks_off_is_told(server_place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n\x01\x01\x07ver")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(StoreError, match=r"can't be reached|broke off"):
            server_place.store(url=f"http://127.0.0.1:{listener.getsockname()[1]}")
        thread.join(10)


def test_a_statement_whose_answer_breaks_off_is_told_and_the_next_one_has_a_new_connection(
    server_place: Place,
) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            for end in (b"", b"0\r\n\r\n"):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(head + end)

        thread = threading.Thread(target=answer)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        server = HttpServer(server_place.settings(url=url), "")
        with pytest.raises(StoreError, match=r"can't be reached: IncompleteRead"):
            server.run("OPTIMIZE TABLE one")
        server.run("OPTIMIZE TABLE one")
        server.close()
        thread.join(10)


def test_too_little_memory_is_told_and_costs_that_question_only(server_place: Place) -> None:
    server_place.store().commit(received([shot()]))
    reader = server_place.reader(user="small")
    with pytest.raises(StoreError, match=r"(?i)memory limit") as caught:
        reader.query("SELECT uniqExact(number) FROM system.numbers LIMIT 100000000")
    assert "max_memory_usage" in caught.value.remedy
    assert reader.query("SELECT count(*) AS n FROM snapshots").read_all().to_pylist() == [{"n": 1}]


def commit_some(store: ClickhouseStore) -> None:
    for seq in range(3, 9):
        store.commit(received([shot(seq=seq)], first=seq))


def test_too_many_parts_is_told_and_heals(server_place: Place) -> None:
    store = server_place.store()
    store.commit(received([shot()]))
    server = server_place.raw()
    server.run("SYSTEM STOP MERGES")
    server.run(f"DROP TABLE {server_place.database}.Marks")
    server.run(
        f"CREATE TABLE {server_place.database}.Marks (agent String, spool String, seq UInt64, updated Date)"
        " ENGINE = ReplacingMergeTree(seq) PARTITION BY toYYYYMM(updated) ORDER BY (agent, spool)"
        " SETTINGS parts_to_throw_insert = 3, parts_to_delay_insert = 1, max_delay_to_insert = 1"
    )
    store.commit(received([shot(seq=2)], first=2))
    with pytest.raises(StoreError, match=r"Too many parts") as caught:
        commit_some(store)
    assert "fewer, larger commits" in caught.value.remedy
    server.run("SYSTEM START MERGES")
    server.run(
        f"ALTER TABLE {server_place.database}.Marks DROP PARTITION {time.strftime('%Y%m', time.gmtime())}"
    )
    server.close()
    store.commit(received([shot(seq=9)], first=9))
    assert store.marks([("a1", "s1")]) == [9]


def test_a_store_heals_when_its_server_is_back(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "server")
    server.start()
    place = Place(server, None, tmp_path)
    store, reader = place.store(), place.reader()
    store.commit(received([shot()]))
    server.kill()
    with pytest.raises(StoreError, match=r"can't be reached"):
        store.commit(received([shot(seq=2)], first=2))
    with pytest.raises(StoreError, match=r"can't be reached"):
        reader.query("SELECT 1")
    with pytest.raises(StoreError, match=r"can't be reached"):
        store.marks([("a1", "s1")])
    server.start()
    store.commit(received([shot(seq=2)], first=2))
    assert store.marks([("a1", "s1")]) == [2]
    assert reader.query("SELECT count(*) AS n FROM snapshots").read_all().to_pylist() == [{"n": 2}]
    place.close()
    server.kill()


def test_gzip_is_understood(server_place: Place) -> None:
    store = server_place.store(compression="gzip")
    store.commit(
        received([snapshot(CALLS, [(b"sh", i, 1, 1, [0] * 6, 0) for i in range(500)], seq=1, seconds=20)])
    )
    assert server_place.ask("SELECT count(*) AS n FROM sys_calls_by_comm") == [{"n": 500}]


# ---- retention


def test_days_older_than_the_retention_go(place: Place) -> None:
    store = place.store(retention=Duration(10 * 86400.0))
    records = [shot(days, seq) for seq, days in enumerate([30, 12, 8, 0], 1)]
    old_gap = Received("a1", "s2", 1, gap(1, 2), 1, NOW - 20 * DAY)
    store.commit(
        [*received(records), *received([status(9, 20)], first=9), old_gap, *received([gap(7, 8)], "s3")]
    )
    store.maintain()
    days = place.ask("SELECT count(*) AS n FROM sys_calls_bss")
    assert days == [{"n": 2}]
    assert place.ask("SELECT count(*) AS n FROM snapshots") == [{"n": 2}]
    assert place.ask("SELECT count(*) AS n FROM statuses") == [{"n": 1}]
    assert len([note for note in place.noted if "older than `retention`" in note]) == 2
    deadline = time.monotonic() + 30
    while place.ask("SELECT first FROM gaps") != [{"first": 7}]:  # a mutation, done by and by
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert store.marks([("a1", "s1")]) == [9]
    store.maintain()
    assert len(place.noted) == 2


def test_the_oldest_days_go_while_there_is_too_much(place: Place) -> None:
    store = place.store(max_size=Size(1))
    store.commit(received([shot(days, seq) for seq, days in enumerate([3, 2, 1, 0], 1)]))
    store.maintain()
    assert place.ask("SELECT seq FROM sys_calls_bss") == [{"seq": 4}]  # the latest day stays
    assert len([note for note in place.noted if "beyond `max_size`" in note]) == 3


def test_nothing_goes_where_nothing_is_set(place: Place) -> None:
    store = place.store()
    store.commit(received([shot(4000)]))
    store.maintain()
    assert place.ask("SELECT count(*) AS n FROM sys_calls_bss") == [{"n": 1}]
    assert place.noted == []


def test_marks_of_spools_that_ended_long_ago_go(place: Place) -> None:
    store = place.store(retention=Duration(86400.0))
    store.commit(received([shot()]))
    server = place.raw()
    server.run(f"INSERT INTO {place.database}.Marks SELECT 'a9', 'old', 7, toDate('2020-05-05')")
    server.close()
    assert store.marks([("a9", "old")]) == [7]
    store.maintain()
    assert store.marks([("a9", "old"), ("a1", "s1")]) == [0, 1]


def test_a_batch_of_clocks_that_are_wrong_is_stored(place: Place) -> None:
    """150 days in one insert, one before 1970 and one after 2106: the server's limit is 100."""
    store = place.store()
    odd = [
        altered(shot(), wall_offset=offset, seq=n) for n, offset in enumerate((-(2**62), 2**62 + 2**61), 200)
    ]
    store.commit(received([*(shot(days, days + 1) for days in range(150)), *odd]))
    assert place.ask("SELECT count(*) AS n FROM snapshots") == [{"n": 152}]


# ---- clusters: the SQL; tests/test_clickhouse_delivery.py runs what one server can


def test_statements_for_a_cluster_name_it_and_the_path_of_each_table() -> None:
    settings = ClickhouseSettings(cluster="fleet", replicated=True, database="bp")
    for dialect in (Dialect((18, 16), False), Dialect((25, 3), True)):
        tables = Tables(settings, dialect)
        for table in own_tables(dialect):
            sql = tables.create(table)
            version = ", `seq`" if table.name == "Marks" else ""
            assert f"`bp`.`{table.name}` ON CLUSTER `fleet` (" in sql
            assert (
                f"ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{{shard}}/bp/{table.name}',"
                f" '{{replica}}'{version}) PARTITION BY" in sql
            )
        assert tables.add_column(own_tables(dialect)[0], "Size").startswith(
            "ALTER TABLE `bp`.`Snapshots` ON CLUSTER `fleet` ADD COLUMN `Size` UInt32"
        )
