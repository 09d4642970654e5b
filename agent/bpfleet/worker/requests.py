"""What the control socket is asked: status, get, set, delete. Plain data in, plain data out.

    {"do": "status"}
    {"do": "get", "collector": "execve", "name": "min_us"}         without name: all of it
    {"do": "set", "collector": "execve", "name": "weights", "key": 64, "value": {"times": 2}}
    {"do": "delete", "collector": "execve", "name": "weights", "key": 64}

docs/control.md describes it for clients.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from bpfleet.errors import BpfleetError, ConfigError, PrivilegeError, ReadError
from bpfleet.protocol import Change
from bpfleet.worker.collecting import RunningCollector
from bpfleet.worker.status import Absent

__all__ = ["Requests"]

log = logging.getLogger("bpfleet")


class Requests:
    """Answers requests about the collectors of this worker. `changed` is called when one was changed."""

    def __init__(
        self,
        collectors: Sequence[RunningCollector],
        absent: Sequence[Absent],
        status: Callable[[], dict[str, Any]],
        changed: Callable[[], None],
    ) -> None:
        self._collectors = {one.name: one for one in collectors}
        self._absent = {one.name: one for one in absent if one.kind == "collector"}
        self._status, self._changed = status, changed

    def answer(self, request: Any, uid: int) -> dict[str, Any]:
        """The answer to one request of user `uid`; errors are answers too."""
        try:
            if not isinstance(request, Mapping):
                raise ConfigError("the request is no JSON object", remedy='send such as {"do": "status"}')
            act = {"status": self._tell, "get": self._get, "set": self._set, "delete": self._delete}.get(
                str(request.get("do"))
            )
            if act is None:
                raise ConfigError(
                    f"there is no request {request.get('do')!r}", remedy="do status, get, set or delete"
                )
            return {"ok": True, **act(request, uid)}
        except BpfleetError as error:
            return {"ok": False, "error": error.to_plain()}
        except OSError as error:
            failed = ReadError(f"the kernel refuses: {error.strerror}", where=str(request))
            return {"ok": False, "error": failed.to_plain()}
        except Exception as error:
            # A defect of ours; whoever asked learns of it, and the worker goes on.
            log.exception("a request at the control socket failed")
            defect = BpfleetError(f"the request failed: {error!r}", where="control socket")
            return {"ok": False, "error": defect.to_plain()}

    def refusal(self, uid: int) -> dict[str, Any]:
        """The answer to a user who may not ask."""
        error = PrivilegeError(
            f"user {uid} may not use the control socket",
            where="control socket",
            remedy="run it as root, or as a member of the group that [agent] control_group names",
        )
        return {"ok": False, "error": error.to_plain()}

    def _tell(self, request: Mapping[str, Any], uid: int) -> dict[str, Any]:
        return {"status": self._status()}

    def _get(self, request: Mapping[str, Any], uid: int) -> dict[str, Any]:
        chosen = [self._named(request)] if request.get("collector") is not None else self._collectors.values()
        values = []
        for one in chosen:
            changed = {change.name: change for change in one.controls.changes.values()}
            for shown in one.controls.get(request.get("name"), request.get("key")):
                said = {"collector": one.name, "name": shown.name, "type": shown.type, "kind": shown.kind}
                values.append({**said, "value": shown.value, "changed": shown.name in changed})
        return {"values": values}

    def _set(self, request: Mapping[str, Any], uid: int) -> dict[str, Any]:
        one = self._named(request)
        if "value" not in request:
            raise ConfigError("no value is given", remedy="write NAME.VARIABLE=VALUE")
        name, key = self._name(request), request.get("key")
        before = self._before(one, name, key)
        return self._told(one, one.controls.set(name, key, request["value"], uid), before)

    def _delete(self, request: Mapping[str, Any], uid: int) -> dict[str, Any]:
        one, name, key = self._named(request), self._name(request), request.get("key")
        if key is None:
            raise ConfigError("no key is given", remedy="write NAME.MAP[KEY]")
        before = self._before(one, name, key)
        return self._told(one, one.controls.delete(name, key, uid), before)

    def _before(self, one: RunningCollector, name: str, key: Any) -> Any:
        """What is there now; None where nothing is, or where `set` will say what is wrong."""
        try:
            shown = one.controls.get(name, key)
        except BpfleetError:
            return None
        return shown[0].value if len(shown) == 1 else None

    def _told(self, one: RunningCollector, changes: Sequence[Change], before: Any) -> dict[str, Any]:
        for change in changes:
            log.info(
                "collector %r: %s %s, by user %d",
                one.name,
                change.name,
                f"is set to {change.value}" if change.value else "is deleted",
                change.uid,
            )
        self._changed()
        return {
            "collector": one.name,
            "before": before,
            "changes": [{"name": change.name, "value": change.value} for change in changes],
        }

    def _name(self, request: Mapping[str, Any]) -> str:
        name = request.get("name")
        if not isinstance(name, str):
            raise ConfigError("no variable or map is named", remedy="write NAME.VARIABLE=VALUE")
        return name

    def _named(self, request: Mapping[str, Any]) -> RunningCollector:
        name = str(request.get("collector"))
        if name in self._collectors:
            return self._collectors[name]
        if name in self._absent:
            absent = self._absent[name]
            raise ReadError(
                f"collector {name!r} does not run: {absent.state.value}",
                where=f"collector {name!r}",
                remedy="bpfleet status tells why",
            )
        close = get_close_matches(name, self._collectors, 1)
        raise ConfigError(
            f"there is no collector {name!r}",
            where="the running agent",
            remedy=(f"did you mean {close[0]!r}? " if close else "")
            + f"those that run are {', '.join(self._collectors) or 'none'}",
        )
