"""Discovering plugins: listed from metadata, imported only when something wants them, each on its own."""

from __future__ import annotations

import inspect
import re
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from enum import Enum
from importlib.metadata import EntryPoint, distributions
from typing import Any

import pluggy

from bpfleet.errors import ApiMismatch, BpfleetError, ConfigError, PluginError, PluginImportError
from bpfleet.hooks import API_MAJOR, ENTRY_POINT_GROUP, Hooks
from bpfleet.spec import Collector, Decoder, SinkType
from bpfleet.stores import StoreType

__all__ = ["Listed", "Plugins", "State", "listed", "state_of"]

_GROUP = re.compile(r"bpfleet\.v(\d+)\Z")
_OF_EXTRA = re.compile(r"([\w.-]+).*;.*\bextra\s*==\s*['\"]([\w.-]+)['\"]")
_KINDS = ("collector", "sink", "decoder", "store", "labels", "cli")


class State(str, Enum):
    """What became of a collector or a sink."""

    RUNNING = "running"
    DISABLED = "disabled"
    IMPORT_ERROR = "import_error"
    API_MISMATCH = "api_mismatch"
    CONFIG_ERROR = "config_error"
    UNSUPPORTED = "unsupported"
    LOAD_ERROR = "load_error"
    QUARANTINED = "quarantined"


def state_of(error: BpfleetError) -> State:
    """The state that an error leaves its plugin in."""
    by_name = {
        "PluginImportError": State.IMPORT_ERROR,
        "PluginError": State.IMPORT_ERROR,
        "ApiMismatch": State.API_MISMATCH,
        "ConfigError": State.CONFIG_ERROR,
        "UnsupportedError": State.UNSUPPORTED,
    }
    return by_name.get(type(error).__name__, State.LOAD_ERROR)


@dataclass(frozen=True, slots=True)
class Listed:
    """One entry point, as the metadata of its distribution tells it; nothing is imported."""

    kind: str
    """collector, sink, decoder, store, labels or cli; "" where the entry point's name does not say."""
    name: str
    api: int
    distribution: str
    entry_point: EntryPoint

    @property
    def where(self) -> str:
        """For messages: the distribution and what it points to."""
        return f"{self.distribution}, entry point {self.entry_point.name!r} = {self.entry_point.value}"


def listed() -> list[Listed]:
    """Every plugin installed, of any API version, by kind and name."""
    found = []
    for dist in distributions():
        for point in dist.entry_points:
            match = _GROUP.match(point.group)
            if match:
                kind, _, name = point.name.partition(".")
                if kind not in _KINDS or not name:
                    kind, name = "", point.name
                found.append(Listed(kind, name, int(match.group(1)), f"{dist.name} {dist.version}", point))
    # A distribution that is on the path twice (a checkout and its installation) is one.
    unique = {(one.where, one.api): one for one in found}
    return sorted(unique.values(), key=lambda one: (one.kind, one.name, one.distribution))


@dataclass
class Plugins:
    """The plugins installed; what is asked for is imported, once."""

    all: Sequence[Listed] = field(default_factory=listed)
    _hooks: dict[str, pluggy.HookRelay] = field(default_factory=dict)

    def collector(self, name: str) -> Collector:
        """The collector of that name; raises PluginError or ConfigError."""
        found: Collector = self._find("collector", name, lambda hook: hook.bpfleet_collectors(), Collector)
        return found

    def sink_type(self, name: str) -> SinkType:
        """The sink type of that name; raises PluginError or ConfigError."""
        found: SinkType = self._find("sink", name, lambda hook: hook.bpfleet_sinks(), SinkType)
        return found

    def decoder(self, name: str) -> Decoder:
        """The decoder that a field names, as `NAME` or `NAME:ARGUMENT`; raises PluginError or ConfigError."""
        plain, _, argument = name.partition(":")
        found: Decoder = self._find("decoder", plain, lambda hook: hook.bpfleet_decoders(), Decoder)
        if bool(argument) != (found.of is not None):
            raise ConfigError(
                f"decoder {plain!r} takes {'an' if found.of else 'no'} argument, the field says {name!r}",
                remedy=f"name it as {plain + ':ARGUMENT' if found.of else plain!r}",
            )
        if found.of is None:
            return found
        try:
            return replace(found, decode=found.of(argument), of=None)
        except BpfleetError:
            raise
        except Exception as error:
            raise PluginError(
                f"decoder {name!r} raised {type(error).__name__}: {error}",
                where=_place(error, next(iter(self.candidates("decoder", plain)))),
                remedy="mend the plugin, or the argument",
            ) from None

    def store_type(self, name: str) -> StoreType:
        """The store type of that name; raises PluginError or ConfigError."""
        found: StoreType = self._find("store", name, lambda hook: hook.bpfleet_stores(), StoreType)
        return found

    def hook(self, kind: str, name: str) -> pluggy.HookRelay:
        """The hooks of the plugin whose entry point is `kind.name`."""
        for one in self.candidates(kind, name):
            return self._import(one)
        raise self._unknown(kind, name)

    def _find(self, kind: str, name: str, call: Callable[[Any], list[Any]], wanted: type[Any]) -> Any:
        for one in self.candidates(kind, name):
            for offered in self._offered(one, call, wanted):
                if offered.name == name:
                    return offered
            if one.kind == kind and one.name == name:
                raise PluginError(
                    f"the plugin offers no {kind} named {name!r}",
                    where=one.where,
                    remedy=f"its bpfleet_{kind}s hook must return one of that name",
                )
        raise self._unknown(kind, name)

    def candidates(self, kind: str, name: str) -> Iterable[Listed]:
        """Where `kind` `name` may come from: the entry points that say so, then those that do not
        say what they offer."""
        exact = [one for one in self.all if (one.kind, one.name) == (kind, name)]
        ours = [one for one in exact if one.api == API_MAJOR]
        if len(ours) > 1:
            raise PluginError(
                f"two distributions offer the {kind} {name!r}",
                where=" and ".join(one.where for one in ours),
                remedy="uninstall one of them",
            )
        if exact and not ours:
            other = exact[0]
            raise ApiMismatch(
                f"the {kind} {name!r} is written for version {other.api} of the plugin API, "
                f"this is version {API_MAJOR}",
                where=other.where,
                remedy=f"install a release of {other.distribution} with entry points in {ENTRY_POINT_GROUP}",
            )
        untold = [one for one in self.all if not one.kind and one.api == API_MAJOR]
        untold.sort(key=lambda one: one.name != name)
        return ours or untold

    def _unknown(self, kind: str, name: str) -> ConfigError:
        names = [one.name for one in self.all if one.kind == kind and one.api == API_MAJOR]
        close = get_close_matches(name, names, 1)
        return ConfigError(
            f"there is no {kind} {name!r}",
            remedy=(f"did you mean {close[0]!r}? " if close else "")
            + f"installed are: {', '.join(names) or 'none'}; bpfleet plugins lists them",
        )

    def _offered(self, one: Listed, call: Callable[[Any], list[Any]], wanted: type[Any]) -> list[Any]:
        hook = self._import(one)
        try:
            answers = call(hook)
        except BpfleetError:
            raise
        except Exception as error:
            raise PluginError(
                f"the plugin's hook raised {type(error).__name__}: {error}",
                where=_place(error, one),
                remedy="mend the plugin, or take it out of the configuration",
            ) from None
        offered = [item for answer in answers for item in (answer or ())]
        for item in offered:
            if not isinstance(item, wanted):
                raise PluginError(
                    f"the plugin's hook returned {type(item).__name__}, not {wanted.__name__}",
                    where=one.where,
                    remedy=f"return a list of bpfleet.{wanted.__name__}",
                )
        return offered

    def _import(self, one: Listed) -> pluggy.HookRelay:
        if one.entry_point.name not in self._hooks:
            self._hooks[one.entry_point.name] = _register(_load(one), one)
        return self._hooks[one.entry_point.name]


def _load(one: Listed) -> object:
    try:
        plugin: object = one.entry_point.load()
    except (Exception, SystemExit) as error:
        extra = _extra_with(error, one)
        if extra:
            raise PluginImportError(
                f"{one.kind} {one.name!r} needs {_missing(error)}, which is not installed",
                where=one.where,
                remedy=f"pip install '{extra}'",
            ) from None
        raise PluginImportError(
            f"the plugin can't be imported: {type(error).__name__}: {error}",
            where=_place(error, one),
            remedy=f"mend or update {one.distribution}",
        ) from None
    return plugin


def _missing(error: BaseException) -> str:
    """The package that an import did not find; "" where that was not what failed."""
    return (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""


def _extra_with(error: BaseException, one: Listed) -> str:
    """`DISTRIBUTION[EXTRA]`, where that is what brings the package that was not found; else ""."""
    missing, dist = _missing(error), one.entry_point.dist
    if not missing or dist is None:
        return ""
    for requirement in dist.requires or ():
        match = _OF_EXTRA.match(requirement)
        if match and re.sub("[-_.]+", "_", match.group(1)).lower() == missing.lower():
            return f"{dist.name}[{match.group(2)}]"
    return ""


def _register(plugin: object, one: Listed) -> pluggy.HookRelay:
    """A manager of its own for each plugin: what is wrong with one is said of that one."""
    manager = pluggy.PluginManager("bpfleet")
    manager.add_hookspecs(Hooks)
    known = [name for name in vars(Hooks) if name.startswith("bpfleet_")]
    for name, member in inspect.getmembers(plugin, callable):
        if name.startswith("bpfleet_") and not hasattr(member, "bpfleet_impl"):
            raise PluginError(
                f"function {name!r} is not marked as a hook",
                where=one.where,
                remedy="put @bpfleet.hookimpl above it",
            )
        if hasattr(member, "bpfleet_impl") and name not in known:
            close = get_close_matches(name, known, 1)
            raise PluginError(
                f"there is no hook {name!r}",
                where=one.where,
                remedy=(f"did you mean {close[0]!r}? " if close else "") + f"hooks are {', '.join(known)}",
            )
    try:
        manager.register(plugin, one.entry_point.name)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise PluginError(
            f"a hook is not written as the API wants it: {str(error).splitlines()[-1]}",
            where=one.where,
            remedy="see the signatures in bpfleet.hooks",
        ) from None
    return manager.hook


def _place(error: BaseException, one: Listed) -> str:
    """File and line in the plugin where it happened."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename]
    ours = [frame for frame in frames if not frame.filename.endswith("bpfleet/plugins.py")]
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno} ({one.where})"
    return f"{ours[-1].filename}:{ours[-1].lineno} ({one.where})" if ours else one.where
