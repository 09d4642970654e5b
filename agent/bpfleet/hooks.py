"""The hooks of the plugin API, major version 1.

A plugin is a module (or object) named by an entry point of group `bpfleet.v1`, such as::

    [project.entry-points."bpfleet.v1"]
    "collector.hits" = "my_package.hits"

    # my_package/hits.py
    @bpfleet.hookimpl
    def bpfleet_collectors():
        return [Collector(name="hits", …)]

The entry point's name says what the plugin offers (`collector.NAME`, `sink.NAME`, `decoder.NAME`,
`store.NAME`, `labels.NAME`, `cli.NAME`), so that the agent can list it without importing it. Hooks return
objects and do no I/O; they are called once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    import click

    from bpfleet.spec import Collector, Decoder, SinkType
    from bpfleet.stores import StoreType

__all__ = ["API_MAJOR", "ENTRY_POINT_GROUP", "Hooks", "hookimpl"]

API_MAJOR = 1
ENTRY_POINT_GROUP = f"bpfleet.v{API_MAJOR}"

hookspec = pluggy.HookspecMarker("bpfleet")
hookimpl = pluggy.HookimplMarker("bpfleet")
"""Marks a function of a plugin as the implementation of the hook of the same name."""


class Hooks:
    """Every hook, with what it returns."""

    @hookspec
    def bpfleet_collectors(self) -> Sequence[Collector]:
        """The collectors that this plugin offers."""
        raise NotImplementedError

    @hookspec
    def bpfleet_sinks(self) -> Sequence[SinkType]:
        """The sink types that this plugin offers."""
        raise NotImplementedError

    @hookspec
    def bpfleet_decoders(self) -> Sequence[Decoder]:
        """The decoders that this plugin offers."""
        raise NotImplementedError

    @hookspec
    def bpfleet_stores(self) -> Sequence[StoreType]:
        """The stores for an aggregator that this plugin offers."""
        raise NotImplementedError

    @hookspec
    def bpfleet_host_labels(self, facts: Mapping[str, str]) -> Mapping[str, str]:
        """Labels added to every `status` record; `facts` has host, kernel, machine and boot_id."""
        raise NotImplementedError

    @hookspec
    def bpfleet_cli(self, app: click.Group) -> None:
        """Add a subcommand to `app`."""
        raise NotImplementedError
