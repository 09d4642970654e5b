"""`bpfleet keys`: the key pair that an agent proves with who it is, and encrypts with."""

from __future__ import annotations

import os
from pathlib import Path

import click

from bpfleet import config
from bpfleet.cli.supervised import config_option
from bpfleet.keys import KEY_FILE, KeyPair, read_pair, write_pair
from bpfleet.supervisor.privileges import worker_user
from bpfleet.users import User, make_state_directory

__all__ = ["command"]

place_argument = click.argument(
    "place", metavar="[PATH]", required=False, type=click.Path(path_type=Path, dir_okay=False)
)


@click.group("keys")
def command() -> None:
    """Make and show this host's key pair.

    Agents and aggregators prove with it who they are, and encrypt what they send (CURVE). Without PATH it is
    bpfleet.key in the agent's state directory, where the zmq sink looks for it.
    """


@command.command("new")
@place_argument
@config_option
@click.option("--user", metavar="NAME", help="Whose file it is; as root the agent's user if not given.")
@click.option("--force", is_flag=True, help="Replace a pair that is there.")
def new(place: Path | None, path: Path | None, user: str | None, force: bool) -> None:
    """Make a key pair in the file PATH, and print the public key.

    Only its owner can read the file. An aggregator admits the agent by the public key. Exit code 2
    where there is a pair already.
    """
    import zmq  # libzmq is large, and only this command needs it

    agent = _settings(path)
    owner: User | None = None
    if os.geteuid() == 0:
        owner = worker_user(user or agent.user)
    if place is None:
        place = Path(agent.state) / KEY_FILE
        if owner is not None:
            make_state_directory(place.parent, owner, table="agent", mode=0o755)
    public, secret = (key.decode("ascii") for key in zmq.curve_keypair())
    write_pair(
        place,
        KeyPair(public, secret),
        owner=(owner.uid, owner.gid) if owner is not None else None,
        force=force,
    )
    click.echo(f"made {place}" + (f" for user {owner.name}" if owner is not None else ""), err=True)
    click.echo(public)


@command.command("show")
@place_argument
@config_option
def show(place: Path | None, path: Path | None) -> None:
    """Print the public key of the pair in the file PATH.

    Exit code 2 where there is none, 1 where others than its owner may use the file.
    """
    click.echo(read_pair(place or Path(_settings(path).state) / KEY_FILE).public)


def _settings(path: Path | None) -> config.AgentSettings:
    text, name = config.read(path)
    return config.parse(text, name).agent
