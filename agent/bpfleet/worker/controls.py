"""The variables and control maps of one collector: looked at, changed while it runs, brought back."""

from __future__ import annotations

import time
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

from bpfleet import map_entries
from bpfleet.errors import ConfigError, ReadError
from bpfleet.packing import members_of, unpack
from bpfleet.protocol import Change, LoadedControl
from bpfleet.worker.settable import ControlMap, Section, Shown, as_json, value_in

__all__ = ["Controls"]

_MOST_CHANGES, _MOST_BYTES = 4096, 2 << 20


class Controls:
    """Of one collector. `keep` is called with all changes before one is made: they outlive this worker."""

    def __init__(
        self,
        collector: str,
        there: tuple[LoadedControl, ...],
        fds: list[int],
        changes: tuple[Change, ...],
        keep: Callable[[tuple[Change, ...]], None],
    ) -> None:
        self._collector, self._keep = collector, keep
        self.changes = {(one.place, one.offset, one.key): one for one in changes}
        self._sections = [Section(one, fds[one.fd]) for one in there if one.name.startswith(".")]
        self._maps = {one.name: ControlMap(one, fds[one.fd]) for one in there if not one.name.startswith(".")}

    def get(self, name: str | None, key: Any = None) -> list[Shown]:
        """Variables and entries: all, of one name, or of one key; raises ConfigError where there is none."""
        if name is None:
            return [one for section in self._sections for one in section.all()] + [
                Shown(control, None, control_map.type, "map") for control, control_map in self._maps.items()
            ]
        if name in self._maps:
            control_map = self._maps[name]
            if key is None:
                return [control_map.shown(raw) for raw in control_map.present()]
            raw = self._placed(lambda: control_map.key_of(key), name)
            if control_map.read(raw) is None:
                raise ConfigError(
                    f"map {name!r} has no entry {control_map.text(raw)}",
                    where=f"collector {self._collector!r}",
                    remedy=f"bpfleet get {self._collector}.{name} lists them",
                )
            return [control_map.shown(raw)]
        return [self._section(name).shown(name)]

    def set(self, name: str, key: Any, value: Any, uid: int) -> list[Change]:
        """Change a variable, or the entry of a key; returns what was changed.

        Raises ConfigError where there is no such thing or the value does not fit, ReadError where the kernel
        refuses.
        """
        if key is not None or name in self._maps:
            return [self._set_entry(name, key, value, uid)]
        section = self._section(name)
        if section.fixed:
            raise ConfigError(
                f"{name!r} is `const volatile`: the program was compiled for its value when it was loaded",
                where=f"collector {self._collector!r}",
                remedy="change it in the configuration and reload (SIGHUP), which loads the collector anew",
            )
        made = self._placed(lambda: list(section.writes(name, value)), name)
        now = time.time_ns()
        changes = []
        for leaf, raw in made:
            before = section.read(leaf)
            place = (section.name, leaf.offset, b"")
            first = self.changes[place].before if place in self.changes else before
            changes.append(
                Change(
                    name=leaf.name,
                    value=as_json(value_in(leaf, raw)),
                    at=now,
                    uid=uid,
                    place=section.name,
                    offset=leaf.offset,
                    key=b"",
                    before=first,
                )
            )
        self._remember(changes)
        for leaf, raw in made:
            self._tried(lambda leaf=leaf, raw=raw: section.write(leaf.offset, raw), name)  # type: ignore[misc]
        return changes

    def delete(self, name: str, key: Any, uid: int) -> list[Change]:
        """Delete an entry of a control map."""
        control_map = self._control_map(name)
        raw = self._placed(lambda: control_map.key_of(key), name)
        if "array" in control_map.info.type_name:
            raise ConfigError(
                f"map {name!r} is an array, whose entries can't be deleted",
                where=f"collector {self._collector!r}",
                remedy="set the entry to 0",
            )
        change = self._entry_change(control_map, raw, "", uid)
        self._remember([change])
        self._tried(lambda: map_entries.delete_entry(control_map.fd, raw), name)
        return [change]

    def undo(self) -> list[str]:
        """Bring back what was before all changes: the configuration wins. Returns the names."""
        undone = []
        for one in reversed(self.changes.values()):
            section = next((s for s in self._sections if s.name == one.place), None)
            control_map = self._maps.get(one.place)
            if section is not None and one.before is not None:
                section.write(one.offset, one.before)
            elif control_map is not None:
                self._tried(lambda m=control_map, c=one: m.restore(c.key, c.before), one.name)  # type: ignore[misc]
            undone.append(one.name)
        self.changes = {}
        self._keep(())
        return undone

    def _set_entry(self, name: str, key: Any, value: Any, uid: int) -> Change:
        control_map = self._control_map(name)
        if key is None:
            raise ConfigError(
                f"{name!r} is a map, and no key is named",
                where=f"collector {self._collector!r}",
                remedy=f"write {self._collector}.{name}[KEY]=VALUE; a key is {control_map.key_type}",
            )
        raw = self._placed(lambda: control_map.key_of(key), name)
        made = self._placed(lambda: control_map.value_of(value), name)
        shown = as_json(unpack(control_map.value, made))
        change = self._entry_change(control_map, raw, shown, uid)
        self._remember([change])
        self._tried(lambda: map_entries.put_entry(control_map.fd, control_map.info, raw, made), name)
        return change

    def _entry_change(self, control_map: ControlMap, key: bytes, value: str, uid: int) -> Change:
        place = (control_map.name, 0, key)
        before = self.changes[place].before if place in self.changes else control_map.read(key)
        return Change(
            name=f"{control_map.name}[{control_map.text(key)}]",
            value=value,
            at=time.time_ns(),
            uid=uid,
            place=control_map.name,
            offset=0,
            key=key,
            before=before,
        )

    def _remember(self, changes: list[Change]) -> None:
        """Before they are made: a worker that dies meanwhile has told of them."""
        wanted = self.changes | {(one.place, one.offset, one.key): one for one in changes}
        size = sum(len(one.key) + len(one.before or b"") + len(one.value) for one in wanted.values())
        if len(wanted) > _MOST_CHANGES or size > _MOST_BYTES:
            raise ConfigError(
                f"{len(self.changes)} variables and entries are changed already",
                where=f"collector {self._collector!r}",
                remedy="put them into the configuration, and reload",
            )
        self.changes = wanted
        self._keep(tuple(wanted.values()))

    def _section(self, name: str) -> Section:
        for section in self._sections:
            if members_of(section.layout, name):
                return section
        known = [variable for section in self._sections for variable in section.variables()]
        raise self._unknown("variable", name, known + list(self._maps))

    def _control_map(self, name: str) -> ControlMap:
        if name in self._maps:
            return self._maps[name]
        raise self._unknown("control map", name, list(self._maps))

    def _unknown(self, what: str, name: str, known: list[str]) -> ConfigError:
        close = get_close_matches(name, known, 1)
        return ConfigError(
            f"collector {self._collector!r} has no {what} {name!r}",
            where=f"collector {self._collector!r}",
            remedy=(f"did you mean {close[0]!r}? " if close else "")
            + f"there are: {', '.join(known) or 'none'}"
            + ("; a map that may be changed is declared with control = true" if what != "variable" else ""),
        )

    def _placed(self, made: Callable[[], Any], name: str) -> Any:
        try:
            return made()
        except ConfigError as error:
            error.where = f"collector {self._collector!r}, {name}"
            raise

    def _tried(self, made: Callable[[], None], name: str) -> None:
        try:
            made()
        except OSError as error:
            raise ReadError(
                f"the kernel refuses the change: {error.strerror}",
                where=f"collector {self._collector!r}, {name}",
                remedy="is the map full, or the key beyond its end?",
            ) from None
