"""Real ClickHouse for tests: Debian's server as a process, the current engine in this one."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen
from uuid import uuid4

import pyarrow as pa

from bpfleet.settings import Duration
from bpfleet.stores import StoreContext
from bpfleet_aggregator.stores.clickhouse.failures import Refused
from bpfleet_aggregator.stores.clickhouse.native import InsertColumn, encoded_block
from bpfleet_aggregator.stores.clickhouse.reader import ClickhouseReader, open_reader
from bpfleet_aggregator.stores.clickhouse.server import HttpServer, Server, answer_of
from bpfleet_aggregator.stores.clickhouse.settings import ClickhouseSettings
from bpfleet_aggregator.stores.clickhouse.store import ClickhouseStore, open_store

PASSWORD = "correct horse"

_CONFIG = """<yandex>
 <logger><level>warning</level><log>{folder}/server.log</log><errorlog>{folder}/errors.log</errorlog>
  <size>10M</size><count>1</count></logger>
 <http_port>{http}</http_port><tcp_port>{tcp}</tcp_port><listen_host>127.0.0.1</listen_host>
 <path>{folder}/data/</path><tmp_path>{folder}/tmp/</tmp_path>
 <users_config>users.xml</users_config><default_profile>default</default_profile>
 <default_database>default</default_database><mark_cache_size>67108864</mark_cache_size>
 <timezone>{timezone}</timezone>
{extra}</yandex>"""
_USERS = """<yandex>
 <profiles><default/><small><max_memory_usage>30000000</max_memory_usage></small><reader><readonly>2</readonly></reader>
 </profiles>
 <users>
  <default><password/><networks><ip>127.0.0.1</ip></networks><profile>default</profile><quota>q</quota></default>
  <keeper><password>{password}</password><networks><ip>127.0.0.1</ip></networks><profile>default</profile>
   <quota>q</quota></keeper>
  <small><password/><networks><ip>127.0.0.1</ip></networks><profile>small</profile><quota>q</quota></small>
  <reader><password/><networks><ip>127.0.0.1</ip></networks><profile>reader</profile><quota>q</quota></reader>
 </users>
 <quotas><q/></quotas>
</yandex>"""


_given: set[int] = set()
"""Ports that somebody here means to use."""


def free_port() -> int:
    """A port that nobody listens on now, and that no connection is given while its server is down."""
    while True:
        port = random.randrange(20_000, 32_000)  # the kernel gives connections those from 32768 on
        with socket.socket() as listener, suppress(OSError):
            if port not in _given:
                listener.bind(("127.0.0.1", port))
                _given.add(port)
                return port


@contextmanager
def in_memory() -> Iterator[Path]:
    """A folder for servers: each insert makes dozens of small files, which a disk is slow to delete."""
    with TemporaryDirectory(prefix="bpfleet-test-", dir="/dev/shm") as folder:
        yield Path(folder)


DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL")
"""Before a command: it ends when this process does, however that ends."""


class ServerProcess:
    """Debian's clickhouse-server with a folder, ports and users of its own."""

    def __init__(self, folder: Path, prefix: Sequence[str] = ()) -> None:
        self.folder, self._prefix = folder, prefix
        for name in ("data", "tmp"):
            (folder / name).mkdir(parents=True)
        self.http, self.tcp = free_port(), free_port()
        self.configure()
        (folder / "users.xml").write_text(_USERS.format(password=PASSWORD))
        self._process: subprocess.Popen[bytes] | None = None

    def configure(self, extra: str = "") -> None:
        """Write its configuration, with that XML besides; before `start`."""
        # Not UTC, so that nothing leans on the server's own time zone.
        settings = {"folder": self.folder, "http": self.http, "tcp": self.tcp, "timezone": "Asia/Tokyo"}
        (self.folder / "config.xml").write_text(_CONFIG.format(**settings, extra=extra))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http}"

    @property
    def is_running(self) -> bool:
        return self._process is not None

    def start(self) -> None:
        """Returns when it answers."""
        process = self._process = subprocess.Popen(
            [
                *self._prefix,
                *DIES_WITH_US,
                "/usr/sbin/clickhouse-server",
                f"--config-file={self.folder}/config.xml",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if process.poll() is not None:
                self._process = None
                raise AssertionError(f"clickhouse-server ended: {_reasons(self.folder / 'errors.log')}")
            if self._answers(process.pid) and process.poll() is None:
                return
            time.sleep(0.05)
        raise AssertionError("clickhouse-server does not answer")

    def _answers(self, pid: int) -> bool:
        if self._prefix:  # in a network of its own, where it can't be asked from here
            listening = f"0100007F:{self.http:04X} 00000000:0000 0A"
            return listening in Path(f"/proc/{pid}/net/tcp").read_text()
        try:
            with urlopen(f"{self.url}/ping", timeout=5):
                return True
        except (URLError, OSError):
            return False

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(30)
            self._process = None

    def pause(self, paused: bool) -> None:
        """A server that hangs: it takes connections and does nothing."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP if paused else signal.SIGCONT)


def _reasons(log: Path) -> str:
    """The last errors in a server's log, without their stack traces."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if "<Error>" in line]
    return "\n".join(line[:1000] for line in lines[-10:])


class Engine:
    """The current engine, by chdb, behind what the store needs of a server. There can be one in a process."""

    where = "chdb"

    def __init__(self, folder: Path) -> None:
        from chdb.session import Session

        self._folder = folder
        self._session = Session(str(folder / "chdb"))

    def _do(self, sql: str, settings: Mapping[str, object] | None, form: str = "Native") -> bytes:
        with_database = dict(settings or {})
        database = with_database.pop("database", "default")
        with_database.pop("readonly", None)  # could not be taken back in one session
        try:
            self._session.query(f"USE `{database}`")
            for name, value in with_database.items():
                shown = value if isinstance(value, int) else f"'{value}'"
                self._session.query(f"SET {name} = {shown}")
            answer: Any = self._session.query(sql, form)
            made: bytes = answer.bytes() or b""
            return made
        except RuntimeError as error:
            raise Refused(str(error), where=self.where) from None

    def run(self, sql: str, settings: Mapping[str, object] | None = None) -> None:
        self._do(sql, settings, "TSV")

    def insert(
        self, into: str, columns: list[InsertColumn], settings: Mapping[str, object] | None = None
    ) -> None:
        path = self._folder / "block.native"
        path.write_bytes(b"".join(encoded_block(columns)))
        self._do(f"{into} SELECT * FROM file('{path}', 'Native')", settings, "TSV")

    def ask(self, sql: str, settings: Mapping[str, object] | None = None) -> Iterator[pa.RecordBatch]:
        yield from answer_of(BytesIO(self._do(sql, settings)), self.where)

    def close(self) -> None:
        """It goes on: others in this process use it too."""

    def end(self) -> None:
        """For good."""
        self._session.close()


class Place:
    """A database of its own on a server, or in the engine: where a test's stores and readers meet."""

    def __init__(self, server: ServerProcess | None, engine: Engine | None, state: Path) -> None:
        self._server, self._engine = server, engine
        self.database = f"t_{uuid4().hex[:12]}"
        self.defaults: dict[str, Any] = {}
        """Settings of every store and reader here."""
        self.context = StoreContext("clickhouse", state, self.noted.append)
        self._opened: list[ClickhouseStore | ClickhouseReader] = []

    @cached_property
    def noted(self) -> list[str]:
        """What stores told the operator."""
        return []

    @property
    def is_modern(self) -> bool:
        return self._engine is not None

    def settings(self, **changes: Any) -> ClickhouseSettings:
        url = self._server.url if self._server is not None else "http://127.0.0.1:1"
        return ClickhouseSettings(
            **{"url": url, "database": self.database, "timeout": Duration(60.0), **self.defaults, **changes}
        )

    def store(self, **changes: Any) -> ClickhouseStore:
        settings = self.settings(**changes)
        made = (
            open_store(settings, self.context)
            if self._engine is None
            else ClickhouseStore(self._engine, settings, self.context)
        )
        self._opened.append(made)
        return made

    def reader(self, **changes: Any) -> ClickhouseReader:
        settings = self.settings(**changes)
        made = (
            open_reader(settings, self.context)
            if self._engine is None
            else ClickhouseReader(self._engine, settings)
        )
        self._opened.append(made)
        return made

    def raw(self) -> Server:
        """The server itself, for what no store does."""
        return self._engine or HttpServer(self.settings(), "")

    def ask(self, sql: str, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """One question by a reader that is closed again."""
        reader = self.reader()
        try:
            rows: list[dict[str, Any]] = reader.query(sql, parameters).read_all().to_pylist()
            return rows
        finally:
            reader.close()

    def close(self) -> None:
        for one in self._opened:
            one.close()
        server = self.raw()
        # A table that could not be made leaves its folder: 18.16 then says that the database's is not empty.
        with suppress(Refused):
            server.run(f"DROP DATABASE IF EXISTS {self.database}")
        server.close()
