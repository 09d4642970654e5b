"""The way to a ClickHouse server over TLS: its certificate and its name are checked."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from bpfleet.errors import ConfigError, StoreError
from clickhouse_servers import Place, ServerProcess, free_port
from clickhouse_writer import SPOOL, record

_TLS = """ <https_port>{port}</https_port>
 <openSSL><server><certificateFile>{folder}/cert.pem</certificateFile>
  <privateKeyFile>{folder}/key.pem</privateKeyFile><verificationMode>none</verificationMode>
  <loadDefaultCAFile>false</loadDefaultCAFile></server></openSSL>
"""


@dataclass(frozen=True)
class Encrypted:
    """A server that speaks HTTPS on `port`, for the name localhost only."""

    place: Place
    port: int
    certificate: str


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Encrypted]:
    folder = tmp_path_factory.mktemp("tls")
    words = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]
    words += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(folder / "key.pem")]
    subprocess.run([*words, "-out", str(folder / "cert.pem")], check=True, capture_output=True, timeout=60)
    server, port = ServerProcess(folder / "server"), free_port()
    server.configure(_TLS.format(port=port, folder=folder))
    server.start()
    yield Encrypted(Place(server, None, folder), port, str(folder / "cert.pem"))
    server.kill()


def test_records_go_to_a_server_whose_certificate_is_known(encrypted: Encrypted) -> None:
    store = encrypted.place.store(url=f"https://localhost:{encrypted.port}", ca_file=encrypted.certificate)
    store.commit([record(number) for number in range(1, 9)])
    assert store.marks([SPOOL]) == [8]
    store.close()


def test_a_certificate_of_an_unknown_authority_is_not_accepted(encrypted: Encrypted) -> None:
    with pytest.raises(StoreError, match="certificate is not accepted: self-signed certificate") as caught:
        encrypted.place.store(url=f"https://localhost:{encrypted.port}")
    assert "`ca_file`" in caught.value.remedy


def test_a_certificate_for_another_name_is_not_accepted(encrypted: Encrypted) -> None:
    with pytest.raises(StoreError, match="certificate is not accepted: IP address mismatch"):
        encrypted.place.store(url=f"https://127.0.0.1:{encrypted.port}", ca_file=encrypted.certificate)


def test_a_file_of_certificates_that_is_not_there_is_an_error_of_the_configuration(
    encrypted: Encrypted,
) -> None:
    with pytest.raises(ConfigError, match="certificates can't be read"):
        encrypted.place.store(url=f"https://localhost:{encrypted.port}", ca_file="/nowhere.pem")


def test_plain_http_to_the_tls_port_is_told(encrypted: Encrypted) -> None:
    with pytest.raises(StoreError):
        encrypted.place.store(url=f"http://localhost:{encrypted.port}")
