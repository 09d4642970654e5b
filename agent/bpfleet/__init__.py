"""bpfleet: a fleet-wide eBPF telemetry agent, and the API that its plugins import.

    from bpfleet import Collector, Map, core, counter, hookimpl, label

Names are imported when they are first used, so that the small processes of the agent stay small.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bpfleet.errors import (
        BpfleetError,
        ConfigError,
        SinkError,
        SinkFull,
        SinkGone,
        StoreError,
        WireError,
    )
    from bpfleet.hooks import hookimpl
    from bpfleet.kernel_enums import kernel_enum
    from bpfleet.schema import (
        Field,
        Fold,
        Map,
        Meaning,
        counter,
        gauge,
        histogram,
        label,
        padding,
        stack,
        struct,
        timestamp,
    )
    from bpfleet.settings import CollectorSettings, Duration, SinkSettings, Size
    from bpfleet.spec import (
        Attach,
        Collector,
        Decoder,
        Program,
        Sink,
        SinkContext,
        SinkType,
        SysFiles,
        bcc,
        core,
    )
    from bpfleet.stores import Received, Store, StoreContext, StoreReader, StoreSettings, StoreType
    from bpfleet.wire import Frame

__version__ = "0.1.0"

_HOME = {
    "errors": (
        "BpfleetError",
        "ConfigError",
        "SinkError",
        "SinkFull",
        "SinkGone",
        "StoreError",
        "WireError",
    ),
    "hooks": ("hookimpl",),
    "kernel_enums": ("kernel_enum",),
    "schema": (
        "Field",
        "Fold",
        "Map",
        "Meaning",
        "counter",
        "gauge",
        "histogram",
        "label",
        "padding",
        "stack",
        "struct",
        "timestamp",
    ),
    "settings": ("CollectorSettings", "Duration", "SinkSettings", "Size"),
    "spec": (
        "Attach",
        "Collector",
        "Decoder",
        "Program",
        "Sink",
        "SinkContext",
        "SinkType",
        "SysFiles",
        "bcc",
        "core",
    ),
    "stores": ("Received", "Store", "StoreContext", "StoreReader", "StoreSettings", "StoreType"),
    "wire": ("Frame",),
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "Attach",
    "BpfleetError",
    "Collector",
    "CollectorSettings",
    "ConfigError",
    "Decoder",
    "Duration",
    "Field",
    "Fold",
    "Frame",
    "Map",
    "Meaning",
    "Program",
    "Received",
    "Sink",
    "SinkContext",
    "SinkError",
    "SinkFull",
    "SinkGone",
    "SinkSettings",
    "SinkType",
    "Size",
    "Store",
    "StoreContext",
    "StoreError",
    "StoreReader",
    "StoreSettings",
    "StoreType",
    "SysFiles",
    "WireError",
    "bcc",
    "core",
    "counter",
    "gauge",
    "histogram",
    "hookimpl",
    "kernel_enum",
    "label",
    "padding",
    "stack",
    "struct",
    "timestamp",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE:
        raise AttributeError(f"module 'bpfleet' has no attribute {name!r}")
    return getattr(import_module(f"bpfleet.{_MODULE[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
