"""Asking the running agent, over its control socket."""

from __future__ import annotations

import json
import socket
import struct
from pathlib import Path
from typing import Any

import click

from bpfleet import config
from bpfleet.errors import BpfleetError, ConfigError, ReadError

__all__ = ["ask", "socket_option"]

_SECONDS = 60
"""A worker that is being replaced answers when it has loaded what it needs."""

socket_option = click.option(
    "--socket",
    "address",
    metavar="PATH",
    help="The agent's control socket, where the configuration does not say.",
)


def ask(path: Path | None, address: str | None, request: dict[str, Any]) -> dict[str, Any]:
    """The agent's answer to one request; raises what it says is wrong, ReadError where it does not answer."""
    if address is None:
        text, name = config.read(path)
        address = config.parse(text, name).agent.control
        if not address:
            raise ConfigError(
                "the agent has no control socket", where=f"{name}: [agent] control", remedy="give it a path"
            )
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
            # Not settimeout: with it, connecting fails at once while others wait too.
            for which in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
                channel.setsockopt(socket.SOL_SOCKET, which, struct.pack("ll", _SECONDS, 0))
            channel.connect(address)
            channel.sendall(json.dumps(request).encode() + b"\n")
            said = _all_of(channel)
    except PermissionError:
        raise ReadError(
            "the agent's control socket is not for this user",
            where=address,
            remedy="run it as root, or as a member of the group that [agent] control_group names",
        ) from None
    except BlockingIOError:
        raise ReadError(
            f"the agent did not answer within {_SECONDS} s", where=address, remedy="see its messages"
        ) from None
    except OSError as error:
        raise ReadError(
            f"no agent answers: {error.strerror or error}",
            where=address,
            remedy="start it with bpfleet run, or name its configuration with --config",
        ) from None
    if not said.endswith(b"\n"):
        raise ReadError(
            "the agent's worker ended before it answered",
            where=address,
            remedy="ask again: another one starts",
        )
    answer: dict[str, Any] = json.loads(said)
    if not answer["ok"]:
        raise BpfleetError.from_plain(answer["error"])
    return answer


def _all_of(channel: socket.socket) -> bytes:
    said = bytearray()
    while part := channel.recv(1 << 16):
        said += part
    return bytes(said)
