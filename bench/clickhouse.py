"""Debian's ClickHouse server for a benchmark: a process with a folder and ports of its own."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

__all__ = ["RunningServer", "running_server"]

_CONFIG = """<yandex>
 <logger><level>warning</level><log>{folder}/server.log</log><errorlog>{folder}/errors.log</errorlog></logger>
 <http_port>{http}</http_port><tcp_port>{tcp}</tcp_port><listen_host>127.0.0.1</listen_host>
 <path>{folder}/data/</path><tmp_path>{folder}/tmp/</tmp_path><timezone>UTC</timezone>
 <users_config>users.xml</users_config><default_profile>default</default_profile>
 <default_database>default</default_database><mark_cache_size>67108864</mark_cache_size>
</yandex>"""
_USERS = """<yandex><profiles><default/></profiles><quotas><q/></quotas><users><default><password/>
 <networks><ip>127.0.0.1</ip></networks><profile>default</profile><quota>q</quota></default></users></yandex>"""


@dataclass(frozen=True)
class RunningServer:
    """Where it listens."""

    http: int
    tcp: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http}"

    def run(self, sql: str) -> str:
        """One statement; returns the answer as text."""
        with urlopen(self.url, sql.encode(), timeout=60) as answer:
            text: str = answer.read().decode()
            return text


@contextmanager
def running_server(folder: Path) -> Iterator[RunningServer]:
    """A server that ends with the block, and with this process, however that ends."""
    for name in ("data", "tmp"):
        (folder / name).mkdir(parents=True)
    with socket.socket() as one, socket.socket() as other:
        for listener in (one, other):
            listener.bind(("127.0.0.1", 0))
        server = RunningServer(one.getsockname()[1], other.getsockname()[1])
    (folder / "config.xml").write_text(_CONFIG.format(folder=folder, http=server.http, tcp=server.tcp))
    (folder / "users.xml").write_text(_USERS)
    words = ["setpriv", "--pdeathsig", "KILL", "clickhouse-server", f"--config-file={folder}/config.xml"]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_for(server, process)
            yield server
        finally:
            process.kill()


def _wait_for(server: RunningServer, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            server.run("SELECT 1")
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return
