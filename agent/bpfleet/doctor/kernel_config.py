"""The running kernel's configuration, where it can be read."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["KernelConfig", "read_config"]


@dataclass(frozen=True, slots=True)
class KernelConfig:
    """`options` are without their `CONFIG_`; one that is not set is absent."""

    place: str
    options: Mapping[str, str]


def read_config(release: str = "") -> KernelConfig | None:
    """The configuration of the running kernel (or of `release`, from files), None where it is nowhere."""
    wanted = release or os.uname().release
    places = [
        *([] if release else [Path("/proc/config.gz")]),
        Path(f"/boot/config-{wanted}"),
        Path(f"/lib/modules/{wanted}/config"),
    ]
    for place in places:
        try:
            raw = place.read_bytes()
            text = gzip.decompress(raw) if place.suffix == ".gz" else raw
        except (OSError, EOFError, zlib.error):
            continue
        return KernelConfig(str(place), _options(text.decode("utf-8", "replace")))
    return None


def _options(text: str) -> dict[str, str]:
    found = {}
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals and name.startswith("CONFIG_"):
            found[name.removeprefix("CONFIG_")] = value.strip('"')
    return found
