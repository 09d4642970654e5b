"""The few lines of a compiler's or verifier's log that tell what is wrong."""

from __future__ import annotations

import os
import re
import tempfile
from types import TracebackType

__all__ = ["Stderr", "compiler_errors", "telling_lines"]

_WIDEST = 120
"""Characters kept of one line: the verifier writes every register's state behind an instruction."""
_COMPILER_LINES = 12

_BEGIN = re.compile(r"-- BEGIN PROG LOAD LOG --")
_END = re.compile(r"-- END PROG LOAD LOG --")
_PROCESSED = re.compile(r"processed \d+ insns")
_SOURCE = re.compile(r"; *[^@ ]")
"""A line of the program's source, which the verifier repeats where the object has BTF."""
_NO_SOURCE = re.compile(r"; *@")
_TYPES_LOG = re.compile(
    r"^.*-- BEGIN BTF LOAD LOG -+$.*?^.*BTF is optional, ignoring\.$\n?", re.MULTILINE | re.DOTALL
)
"""What the kernel has against an object's types, which libbpf then does without."""
_ECHO = re.compile(
    r"libbpf: (permission error while running as root; try raising 'ulimit -l'.*"
    r"|prog '[^']*': failed to (load|prepare load attributes): -\d+|failed to load object '.*')\Z"
)
"""Lines of libbpf's that say nothing more. Since 5.11 no limit on locked memory counts."""
_DIAGNOSTIC = re.compile(r"(error|warning|note|remark): ")
_ERROR = re.compile(r"(^|[:\s])(fatal )?error: ")
_SUMMARY = re.compile(r"\d+ (warning|error)s?( and \d+ errors?)? generated\.|fatal error: too many errors")


def telling_lines(log: str, most: int = 12) -> str:
    """The end of a verifier's log: what it complains of, the last steps before, and the source line.

    `log` is the kernel's own or libbpf's around it; at most `most` lines come back, joined by newlines.
    The complaint stands last. A log without the verifier's closing `processed N insns` (the kernel
    refused types, or libbpf an object) gives its last lines.
    """
    log = _TYPES_LOG.sub("", log)
    lines = [line.rstrip() for line in log.splitlines() if line.strip() and not _NO_SOURCE.match(line)]
    lines = [line for line in lines if not _ECHO.match(line)] or lines
    lines = _inside(lines, most)
    told = [_narrow(line) for line in lines[-most:]]
    if most > 1 and not any(_SOURCE.match(line) for line in told):
        source = next((line for line in reversed(lines) if _SOURCE.match(line)), None)
        if source is not None:
            told = [_narrow(source), *told[-(most - 1) :]]
    return "\n".join(told)


def _inside(lines: list[str], most: int) -> list[str]:
    """The lines of the last program's log, up to but not including what the kernel counted."""
    begin = max((i for i, line in enumerate(lines) if _BEGIN.search(line)), default=-1)
    if begin >= 0:
        end = next((i for i in range(begin, len(lines)) if _END.search(lines[i])), len(lines))
        if end > begin + 1:
            lines = lines[begin + 1 : end]
    closing = max((i for i, line in enumerate(lines) if _PROCESSED.match(line)), default=-1)
    if closing < 0:
        return lines
    return lines[:closing] or lines[-most:]


def _narrow(line: str) -> str:
    line = re.sub(r" {2,}; ", "  ; ", line)
    return line if len(line) <= _WIDEST else line[: _WIDEST - 1] + "…"


def compiler_errors(log: str) -> str:
    """clang's errors, each with its file:line, the source line and the caret; at most 12 lines.

    Warnings, notes and what clang repeats are left out. A log that names no error gives its last lines.
    """
    lines = [line.rstrip() for line in log.splitlines() if line.strip()]
    told: list[str] = []
    seen: set[str] = set()
    for at, line in enumerate(lines):
        if not _ERROR.search(line) or _SUMMARY.match(line) or line in seen:
            continue
        seen.add(line)
        found = [line.removeprefix("error: "), *_shown_with(lines, at)]
        if told and len(told) + len(found) > _COMPILER_LINES:
            break
        told.extend(found)
    return "\n".join(told[:_COMPILER_LINES] or lines[-_COMPILER_LINES:])


def _shown_with(lines: list[str], at: int) -> list[str]:
    """The source line and the caret that clang shows below the diagnostic at index `at`."""
    shown = []
    for line in lines[at + 1 : at + 3]:
        if _DIAGNOSTIC.search(line) or _SUMMARY.match(line) or line.startswith("In file included"):
            break
        shown.append(line.replace("\t", " "))
    return shown


class Stderr:
    """Keeps what is written to fd 2 while entered: LLVM and bcc write their logs there."""

    _KEPT = 1 << 20
    """Bytes read back from the end; a verifier's log may be hundreds of megabytes."""

    def __init__(self) -> None:
        self.text = ""

    def __enter__(self) -> Stderr:
        self._file = tempfile.TemporaryFile()
        self._before = os.dup(2)
        os.dup2(self._file.fileno(), 2)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.dup2(self._before, 2)
        os.close(self._before)
        size = self._file.seek(0, os.SEEK_END)
        self._file.seek(max(0, size - self._KEPT))
        self.text = self._file.read().decode("utf-8", "replace")
        self._file.close()
