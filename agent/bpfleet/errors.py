"""What can go wrong, as one tree.

    BpfleetError
    ├── ConfigError        the configuration or a command line is wrong (exit code 2)
    ├── PluginError        a plugin can't be used
    │   ├── PluginImportError   importing it raised
    │   └── ApiMismatch         written for another major version of the API
    ├── UnsupportedError   this kernel or machine lacks what is needed
    ├── ObjectError        an object file, its BTF or its ELF is malformed
    ├── LoadError          a collector's program could not be brought into the kernel
    │   ├── CompileError        the compiler refused the source
    │   ├── VerifierError       the kernel refused the program
    │   ├── AttachError         a program could not be attached
    │   └── SchemaMismatch      declared maps differ from the compiled ones
    ├── ReadError          a map could not be read
    ├── WireError          bytes are not a record of wire format 1
    ├── SinkError          a sink can't take records now; it is tried again
    │   ├── SinkFull            a sink has no room now; it stays open and delivers what it has
    │   └── SinkGone            a sink will never take records again
    ├── StoreError         an aggregator's store can't do what it is asked now
    └── PrivilegeError     a place or a right is missing for the user in question

Each says what is wrong, where, and what to do about it. They are *expected*: shown without a
traceback. Any other exception is a defect and keeps its traceback.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "ApiMismatch",
    "AttachError",
    "BpfleetError",
    "CompileError",
    "ConfigError",
    "LoadError",
    "ObjectError",
    "PluginError",
    "PluginImportError",
    "PrivilegeError",
    "ReadError",
    "SchemaMismatch",
    "SinkError",
    "SinkFull",
    "SinkGone",
    "StoreError",
    "UnsupportedError",
    "VerifierError",
    "WireError",
]


class BpfleetError(Exception):
    """Base of every expected error: `what` is wrong, `where`, and the `remedy`.

    `log` holds the telling lines of a compiler's or verifier's log, already shortened.
    """

    def __init__(self, what: str, *, where: str = "", remedy: str = "", log: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.remedy = remedy
        self.log = log

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where:  {self.where}")
        lines.extend(f"  | {line}" for line in self.log.splitlines())
        if self.remedy:
            lines.append(f"  remedy: {self.remedy}")
        return "\n".join(lines)

    def to_plain(self) -> dict[str, str]:
        """The error as plain text fields, to cross a process boundary."""
        return {
            "error": type(self).__name__,
            "what": self.what,
            "where": self.where,
            "remedy": self.remedy,
            "log": self.log,
        }

    @staticmethod
    def from_plain(plain: dict[str, Any]) -> BpfleetError:
        """Rebuild what `to_plain` made; an unknown class becomes `BpfleetError`."""
        cls = _by_name(BpfleetError).get(str(plain.get("error")), BpfleetError)
        return cls(
            str(plain.get("what", "")),
            where=str(plain.get("where", "")),
            remedy=str(plain.get("remedy", "")),
            log=str(plain.get("log", "")),
        )


class ConfigError(BpfleetError):
    """Raised when the configuration, a setting or a command line is wrong."""


class PluginError(BpfleetError):
    """Raised when a plugin can't be used."""


class PluginImportError(PluginError):
    """Raised when importing a plugin raised."""


class ApiMismatch(PluginError):
    """Raised when a plugin was written for another major version of the plugin API."""


class UnsupportedError(BpfleetError):
    """Raised when this kernel or machine lacks a feature that is needed."""


class ObjectError(BpfleetError):
    """Raised when an object file, its BTF or its ELF structure is malformed."""


class LoadError(BpfleetError):
    """Raised when a collector's program could not be brought into the kernel."""


class CompileError(LoadError):
    """Raised when the compiler refused a source, or no compiler is there."""


class VerifierError(LoadError):
    """Raised when the kernel's verifier refused a program."""


class AttachError(LoadError):
    """Raised when a program could not be attached."""


class SchemaMismatch(LoadError):
    """Raised when a declared map differs from what the compiler made."""


class ReadError(BpfleetError):
    """Raised when a map could not be read."""


class WireError(BpfleetError):
    """Raised when bytes are not a record of wire format 1, or go beyond a limit."""


class SinkError(BpfleetError):
    """Raised by a sink that can't take records now; they are kept and tried again."""


class SinkFull(SinkError):
    """Raised by a sink without room for records now; it is not closed, and the records are offered again."""


class SinkGone(SinkError):
    """Raised by a sink that will never take records again: whoever read them has gone."""


class StoreError(BpfleetError):
    """Raised by an aggregator's store that can't do what it is asked now; the records are sent again."""


class PrivilegeError(BpfleetError):
    """Raised when a place or a right is missing for the user that needs it."""


def _by_name(cls: type[BpfleetError]) -> dict[str, type[BpfleetError]]:
    found = {cls.__name__: cls}
    for sub in cls.__subclasses__():
        found.update(_by_name(sub))
    return found
