"""What the configuration enables, made ready: collectors loaded through the supervisor, sinks opened."""

from __future__ import annotations

import logging
import select
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bpfleet.config import Config
from bpfleet.errors import BpfleetError, ConfigError, PluginError
from bpfleet.identity import facts
from bpfleet.ipc import Channel, close_all
from bpfleet.plugins import Plugins, State, state_of
from bpfleet.protocol import Change, Changed, Loaded, LoadedLadder, Seal, plain, typed
from bpfleet.settings import CollectorSettings, SinkSettings, convert
from bpfleet.spec import Collector, Decoder, Sink, SinkContext, SinkType
from bpfleet.wire import Origin
from bpfleet.worker.collecting import RunningCollector, load_request
from bpfleet.worker.decoding import decoder_names
from bpfleet.worker.delivery import Delivery
from bpfleet.worker.file_collectors import file_collector, files_in
from bpfleet.worker.ledger import Ledger
from bpfleet.worker.status import Absent

__all__ = ["Startup", "Stopped"]

log = logging.getLogger("bpfleet")


class Stopped(Exception):
    """Raised when the agent is told to end before everything is loaded."""


@dataclass
class Startup:
    """Brings up what it can; what it can't is in `absent`, logged, and stops nothing else."""

    config: Config
    channel: Channel | None
    """To the supervisor; None where nothing is to be loaded."""
    user: str
    state: Path
    plugins: Plugins = field(default_factory=Plugins)
    absent: list[Absent] = field(default_factory=list)
    _decoders: dict[str, Decoder] = field(default_factory=dict)
    wakeup: socket.socket | None = None
    """Readable once a signal has come: then `collectors` raises Stopped."""
    reloaded: bool = False
    """After a reload the configuration wins: what was changed by hand is brought back."""

    def collectors(self, *, attach: bool = True) -> list[RunningCollector]:
        """Have every enabled collector loaded, then seal: no program is loaded for this worker after that."""
        wanted: dict[str, tuple[Collector, CollectorSettings]] = {}
        for spec, settings in self._specs():
            try:
                self._decoders |= {name: self.plugins.decoder(name) for name in decoder_names(spec)}
                agent = self.config.agent
                request = load_request(spec, settings, agent.load_timeout, rescan=agent.rescan, attach=attach)
            except BpfleetError as error:
                self._can_not(spec.name, "collector", error)
                continue
            if spec.name in wanted:
                self._can_not(spec.name, "collector", _twice(spec.name))
                continue
            wanted[spec.name] = spec, settings
            self._channel.send(plain(request))
        order = list(wanted)
        running = sorted(self._answers(wanted), key=lambda one: order.index(one.name))
        self._channel.send(plain(Seal(collectors=tuple(one.name for one in running))))
        return running

    def specs(self) -> list[Collector]:
        """The specs of every enabled collector; nothing is loaded."""
        return [spec for spec, _ in self._specs()]

    def sink_types(self, *, look: bool) -> list[tuple[str, SinkType, list[BpfleetError]]]:
        """(name, type, what is wrong) of every enabled sink; nothing is opened.

        With `look` the types' own checks are asked, which must be as the user that sinks run as.
        """
        return [
            (name, kind, self._problems(name, kind, settings) if look else [])
            for name, kind, settings in self._sinks()
        ]

    def _problems(self, name: str, kind: SinkType, settings: SinkSettings) -> list[BpfleetError]:
        if kind.check is None:
            return []
        context = SinkContext(name=name, state=self.state, agent="", host="", user=self.user)
        try:
            return list(kind.check(settings, context))
        except Exception as error:
            raised = f"the sink's check raised {type(error).__name__}: {error}"
            return [PluginError(raised, where=f"sink {name!r}", remedy="mend the plugin")]

    def sinks(self, origin: Origin, ledger: Ledger, changed: Any) -> list[Delivery]:
        """A queue and a thread for every enabled sink."""
        made = []
        for name, kind, settings in self._sinks():
            delivery = Delivery(
                name,
                kind.name,
                self._opener(kind, settings, origin),
                limit=settings.queue,
                origin=origin,
                ledger=ledger,
                changed=changed,
            )
            delivery.start()
            made.append(delivery)
        return made

    def labels(self) -> dict[str, str]:
        """The configuration's labels and those that plugins give."""
        labels: dict[str, str] = {}
        for name in self.config.agent.host_labels:
            try:
                hook = self.plugins.hook("labels", name)
                for given in hook.bpfleet_host_labels(facts=facts()):
                    labels |= {str(key): str(value) for key, value in given.items()}
            except BpfleetError as error:
                self._can_not(name, "labels", error)
            except Exception as error:
                self._can_not(
                    name,
                    "labels",
                    PluginError(
                        f"bpfleet_host_labels raised {type(error).__name__}: {error}",
                        where=f"labels {name!r}",
                        remedy="mend the plugin, or take it out of [agent] host_labels",
                    ),
                )
        return labels | self.config.agent.labels

    def _specs(self) -> Iterator[tuple[Collector, CollectorSettings]]:
        files = self._files()
        for name, table in {**{name: {} for name in files}, **self.config.collectors}.items():
            where = self._place("collectors", name)
            if table.get("enabled") is False:
                # A table that is switched off needs no plugin.
                self.absent.append(Absent(name, "collector", State.DISABLED))
                continue
            try:
                path = files.get(name) or (Path(name) if "/" in name else None)
                spec = file_collector(path) if path else self.plugins.collector(name)
                settings = convert(table, spec.settings, where=where)
            except BpfleetError as error:
                self._can_not(name, "collector", _placed(error, where))
                continue
            yield spec, settings

    def _files(self) -> dict[str, Path]:
        """The collectors of the configuration's folder; with `once NAME`, those named."""
        folder = self.config.agent.programs
        if folder is None:
            return {}
        try:
            found = files_in(Path(folder))
        except BpfleetError as error:
            self._can_not("programs", "collector", error)
            return {}
        return {name: path for name, path in found.items() if self.config.runs(name)}

    def _sinks(self) -> Iterator[tuple[str, SinkType, SinkSettings]]:
        for name, table in self.config.sinks.items():
            where = self._place("sinks", name)
            if table.get("enabled") is False:
                self.absent.append(Absent(name, "sink", State.DISABLED))
                continue
            try:
                kind = table.get("type", name)
                if not isinstance(kind, str):
                    raise ConfigError(f"type is {kind!r}", where=where, remedy='write type = "NAME"')
                found = self.plugins.sink_type(kind)
                settings = convert(table, found.settings, where=where)
            except BpfleetError as error:
                self._can_not(name, "sink", _placed(error, where))
                continue
            yield name, found, settings

    def _place(self, table: str, name: str) -> str:
        if table == "collectors" and name in self.config.from_command_line:
            return f"the command line: {name}"
        return f"{self.config.path}: [{table}.{name}]"

    def _answers(self, wanted: dict[str, tuple[Collector, CollectorSettings]]) -> Iterable[RunningCollector]:
        """One answer for each request, in whatever order loaders finish."""
        pending = dict(wanted)
        while pending:
            self._wait_for_answer()
            answer, fds = self._channel.receive()
            if answer.get("collector") not in pending:
                close_all(fds)  # of a request that a worker before us made
                continue
            spec, settings = pending.pop(answer["collector"])
            try:
                if answer["op"] == "failed":
                    raise BpfleetError.from_plain(answer["error"])
                interval = settings.interval or self.config.agent.interval
                made = RunningCollector.of(
                    spec,
                    settings,
                    interval,
                    typed(answer, Loaded),
                    fds,
                    self._decoders,
                    self._keeper(spec.name),
                )
                if self.reloaded and made.controls.changes:
                    undone = made.controls.undo()
                    log.info("collector %r: %s as configured again", spec.name, ", ".join(undone))
                for ladder in made.ladders:
                    _tell(spec.name, ladder)
                for one in made.programs:
                    if one.get("error"):
                        log.warning("collector %r goes on without a program: %s", spec.name, one["error"])
                if self.config.sinks and not made.maps:
                    log.warning(
                        "collector %r has no map that could be read: it runs and tells nothing", spec.name
                    )
                yield made
            except BpfleetError as error:
                close_all(fds)
                self._can_not(spec.name, "collector", error)

    def _keeper(self, collector: str) -> Callable[[tuple[Change, ...]], None]:
        """Tells the supervisor what is changed of a collector, for the next worker."""
        return lambda changes: self._channel.send(plain(Changed(collector=collector, changes=changes)))

    def _wait_for_answer(self) -> None:
        """Loaders take seconds; somebody may want to stop us meanwhile."""
        waiting: list[Any] = [self._channel] + ([self.wakeup] if self.wakeup else [])
        readable, _, _ = select.select(waiting, [], [])
        if self.wakeup in readable:
            raise Stopped

    @property
    def _channel(self) -> Channel:
        assert self.channel is not None
        return self.channel

    def _opener(self, kind: SinkType, settings: SinkSettings, origin: Origin) -> Any:
        def open_sink(delivery: Delivery) -> Sink:
            context = SinkContext(
                name=delivery.name,
                state=self.state,
                agent=origin.agent,
                host=origin.host,
                user=self.user,
                stopping=lambda: delivery.stopping,
                time_left=lambda: delivery.time_left,
                resumed=delivery.resumed,
                note_lost=delivery.lost,
                note_state=delivery.note_state,
            )
            return kind.open(settings, context)

        return open_sink

    def _can_not(self, name: str, kind: str, error: BpfleetError) -> None:
        state = state_of(error)
        self.absent.append(Absent(name, kind, state, error))
        log.error("%s %r does not run (%s): %s", kind, name, state.value, error)


def _tell(collector: str, ladder: LoadedLadder) -> None:
    """Which alternative was taken, and why no better one."""
    level = logging.INFO if ladder.rung else logging.WARNING
    which = f"by {ladder.taken}, alternative {ladder.rung}" if ladder.rung else "by none"
    why = "".join(f"\n  | {reason}" for reason in ladder.refused)
    log.log(level, "collector %r: %r %s of %d%s", collector, ladder.name, which, ladder.rungs, why)


def _placed(error: BpfleetError, where: str) -> BpfleetError:
    """A name that nothing offers is wrong where the configuration has it."""
    if isinstance(error, ConfigError) and not error.where:
        error.where = where
    return error


def _twice(name: str) -> ConfigError:
    return ConfigError(
        f"two collectors are named {name!r}",
        where=f"[collectors.{name}]",
        remedy="a collector made of a file is named after it: rename the file",
    )
