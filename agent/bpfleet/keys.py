"""CURVE key pairs in a file: what an agent or an aggregator proves with who it is.

    # The CURVE key pair of this host's bpfleet. The secret key is for its owner alone.
    public = "…40 characters of Z85…"
    secret = "…"

It is TOML, readable by its owner only. Making a pair is `bpfleet keys new`'s; nothing here needs ZeroMQ.
"""

from __future__ import annotations

import os
import pwd
import re
import stat
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from bpfleet.errors import ConfigError, PrivilegeError

__all__ = ["KEY_FILE", "KeyPair", "is_key", "read_pair", "write_pair"]

KEY_FILE = "bpfleet.key"
"""The usual name, in a state directory."""

_KEY = re.compile(r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}\Z")
_MOST = 64 << 10


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A public key and its secret one, each as 40 characters of Z85."""

    public: str
    secret: str = field(repr=False)


def is_key(text: str) -> bool:
    """Whether `text` is a key: 32 bytes as 40 characters of Z85."""
    return _KEY.match(text) is not None


def read_pair(path: Path) -> KeyPair:
    """The pair in `path`; raises ConfigError or PrivilegeError where it is not as it must be."""
    try:
        # Not blocking, so that a FIFO is an error and no wait.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ConfigError(
            "there is no key file", where=str(path), remedy=f"bpfleet keys new {path}, as root"
        ) from None
    except OSError as error:
        raise PrivilegeError(
            f"user {_name(os.geteuid())!r} can't read the key file: {error.strerror}",
            where=str(path),
            remedy=f"chown {_name(os.geteuid())} {path}",
        ) from None
    with open(fd, "rb") as file:
        _check_owner(os.fstat(fd), path)
        raw = file.read(_MOST)
    return _parsed(raw, path)


def write_pair(
    path: Path, pair: KeyPair, *, owner: tuple[int, int] | None = None, force: bool = False
) -> None:
    """Write `pair` to a new file that is `owner`'s (uid, gid) alone; one that is there only with `force`.

    Raises ConfigError where a file is there, PrivilegeError where it can't be written.
    """
    if path.exists() and not force:
        raise ConfigError(
            "a key file is there already",
            where=str(path),
            remedy="--force replaces it: then the new public key must be admitted wherever the old one was",
        )
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    text = (
        "# The CURVE key pair of this host's bpfleet. The secret key is for its owner alone.\n"
        f'public = "{pair.public}"\nsecret = "{pair.secret}"\n'
    )
    try:
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(fd, "w") as file:
                if owner is not None:
                    os.fchown(fd, *owner)
                file.write(text)
                file.flush()
                os.fsync(fd)
            _put_in_place(draft, path, force)
        finally:
            draft.unlink(missing_ok=True)
    except FileExistsError:
        raise ConfigError("a key file was made meanwhile", where=str(path), remedy="use that one") from None
    except OSError as error:
        raise PrivilegeError(
            f"the key file can't be written: {error.strerror}",
            where=str(path),
            remedy="run it as root, or name a PATH in a folder of your own",
        ) from None


def _put_in_place(draft: Path, path: Path, force: bool) -> None:
    if force:
        os.replace(draft, path)
    else:
        os.link(draft, path)  # unlike a rename it never replaces one


def _check_owner(found: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise ConfigError("the key file is no regular file", where=str(path), remedy="name another one")
    if os.geteuid() not in (0, found.st_uid):
        raise PrivilegeError(
            f"the key file belongs to {_name(found.st_uid)}, not to {_name(os.geteuid())}",
            where=str(path),
            remedy=f"chown {_name(os.geteuid())} {path}",
        )
    if found.st_mode & 0o077:
        raise PrivilegeError(
            f"others than its owner may use the key file (mode {stat.S_IMODE(found.st_mode):04o})",
            where=str(path),
            remedy=f"chmod 600 {path}; if somebody may have read it, bpfleet keys new --force makes another",
        )


def _parsed(raw: bytes, path: Path) -> KeyPair:
    try:
        table = tomllib.loads(raw.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        table = {}
    public, secret = table.get("public"), table.get("secret")
    if not (isinstance(public, str) and isinstance(secret, str) and is_key(public) and is_key(secret)):
        raise ConfigError(
            "the key file does not hold a pair of keys",
            where=str(path),
            remedy='it has two lines, public = "…" and secret = "…", each of 40 characters: bpfleet keys new',
        )
    return KeyPair(public, secret)


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
