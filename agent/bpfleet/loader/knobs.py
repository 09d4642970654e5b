"""A program's variables, set between opening and loading its object: knobs (`const volatile`), and data,
which can change while it runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from bpfleet.bpf_object import read
from bpfleet.errors import ConfigError
from bpfleet.layout import Layout
from bpfleet.loader.libbpf import Object
from bpfleet.packing import assignments, members_of

__all__ = ["is_data", "write_data", "write_knobs"]


def write_knobs(opened: Object, path: Path, knobs: Mapping[str, Any]) -> None:
    """Set variables of `.rodata` by name; raises ConfigError naming one that is not there or does not fit."""
    if knobs:
        sections = {name: one for name, one in read(path).globals.items() if name.startswith(".rodata")}
        _write(opened, path, knobs, sections, "knob", "declare it as `const volatile`")


def write_data(opened: Object, path: Path, data: Mapping[str, Any]) -> None:
    """Set variables of `.data` and `.bss` by name; raises ConfigError as `write_knobs` does."""
    if data:
        sections = {name: one for name, one in read(path).globals.items() if is_data(name)}
        _write(opened, path, data, sections, "variable", "declare it as a global variable, without const")


def is_data(section: str) -> bool:
    """Whether a section holds variables that may change while the program runs."""
    return section in (".data", ".bss") or section.startswith((".data.", ".bss."))


def _write(
    opened: Object, path: Path, values: Mapping[str, Any], sections: Mapping[str, Layout], word: str, how: str
) -> None:
    for name, value in values.items():
        section = next((one for one, layout in sections.items() if members_of(layout, name)), None)
        view = opened.map(section).initial_value() if section else None
        if section is None or view is None:
            known = _variables(sections.values())
            close = get_close_matches(name, known, 1)
            raise ConfigError(
                f"the program has no {word} {name!r}",
                where=str(path),
                remedy=(f"did you mean {close[0]!r}? " if close else "")
                + f"{how}; there are: {', '.join(known) or 'none'}",
            )
        try:
            for offset, raw in assignments(sections[section], name, value):
                view[offset : offset + len(raw)] = raw
        except ConfigError as error:
            error.where = f"{word} {name!r} of {path}"
            raise


def _variables(sections: Iterable[Layout]) -> list[str]:
    return list(dict.fromkeys(leaf.name.partition(".")[0] for one in sections for leaf in one.leaves))
