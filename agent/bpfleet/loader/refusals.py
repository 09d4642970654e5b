"""Why libbpf or the kernel refuses an object, in words: which program or map, the reason, what to do.

libbpf tells it in the lines that it logs, some of them for its own developers. These are libbpf 1.1's and
later ones' words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from bpfleet.errors import LoadError, ObjectError, VerifierError
from bpfleet.loader.logs import telling_lines

__all__ = ["load_refused", "open_refused"]

_INSPECT = "bpfleet inspect shows what the file holds"
_DOCTOR = "bpfleet doctor shows what this kernel lacks"

_OPEN = (
    (
        r"legacy map definitions in '(?P<name>[^']+)'",
        "its maps are defined in the section {name!r}, as libbpf took them before 1.0",
        'define them in SEC(".maps"), with __uint(type, …), __type(key, …) and so on',
    ),
    (
        r"BTF is required, but is missing",
        "it has no types (BTF), which tell what its maps are",
        "compile it with clang -g",
    ),
    (
        r"program '(?P<name>[^']+)' is static",
        "program {name!r} is a static function",
        "take `static` away; a function that programs call has no SEC",
    ),
    (
        r"failed to find BTF for extern '(?P<name>[^']+)'",
        "{name!r} is declared in it and defined elsewhere",
        "link it with the object that defines it: bpftool gen object BOTH.bpf.o ONE.bpf.o OTHER.bpf.o",
    ),
    (
        r"unrecognized extern section '\.maps'",
        "a map is declared in it and defined elsewhere",
        "link it with the object that defines it: bpftool gen object BOTH.bpf.o ONE.bpf.o OTHER.bpf.o",
    ),
    (
        r"attr 'map_extra': expected PTR|\.addr_space\.",
        "it has an arena, which this libbpf does not know",
        "install libbpf 1.4 or later",
    ),
)
_LOAD = (
    (
        r"prog '(?P<name>[^']+)': missing BPF prog type, check ELF section name '\.text'",
        "program {name!r} has no section that says what kind of program it is",
        'write SEC("…") in front of the function',
    ),
    (
        r"prog '(?P<name>[^']+)': missing BPF prog type, check ELF section name '(?P<section>[^']+)'",
        "this libbpf does not know the section {section!r} of program {name!r}",
        "install a newer libbpf, or name a section that this one knows",
    ),
    (
        r"extern (?:\((?:func|var) ksym\) )?'(?P<name>[^']+)'"
        r"(?: \(strong\): not resolved|: not found in kernel)",
        "this kernel has no {name!r}, which the object declares as extern",
        "load the module that has it, or declare it __weak and let the program look for it",
    ),
    (
        r"prog '(?P<name>[^']+)': failed to find kernel BTF type ID of '(?P<target>[^']+)'",
        "this kernel has no {target!r}, where program {name!r}{section} goes",
        "name a function or tracepoint that there is, or let a ladder have alternatives",
    ),
    (
        r"couldn't reuse pinned map at '(?P<path>[^']+)': parameter mismatch\n.*map '(?P<name>[^']+)'",
        "map {name!r} is pinned at {path}, and of another kind or size there",
        "rm {path}, where nobody uses it any more, or give the map another name",
    ),
    (
        r"map '(?P<name>[^']+)': failed to create: (?P<reason>[^(\n]+)",
        "the kernel does not make map {name!r}: {reason}",
        "bpfleet inspect shows its sizes; where max_entries is 0, for the object's own loader to fill in, "
        "say it under [maps.{name}] in the .toml beside the program",
    ),
    (
        r"prog '(?P<name>[^']+)': BPF program load failed: (?P<reason>[^\n]+)",
        "the kernel refuses program {name!r}{section}: {reason}",
        _DOCTOR,
    ),
)
_VERIFIER = re.compile(r"prog '(?P<name>[^']+)': -- BEGIN PROG LOAD LOG --")


def open_refused(path: str, reason: str, log: str) -> ObjectError:
    """The error for an object that libbpf does not open; `reason` is what it returned, in words."""
    what, remedy = _first(_OPEN, log, {}) or (reason, _INSPECT)
    return ObjectError(f"libbpf can't open it: {what}", where=path, log=telling_lines(log), remedy=remedy)


def load_refused(path: str, reason: str, log: str, sections: Mapping[str, str]) -> LoadError:
    """The error for an object that does not get into the kernel; `sections` are its programs'.

    VerifierError where the kernel's verifier says why.
    """
    verifier = _VERIFIER.findall(log)
    if verifier:
        name = verifier[-1]
        return VerifierError(
            f"the kernel's verifier refuses program {name!r}{_of(name, sections)}",
            where=path,
            log=telling_lines(log),
            remedy="mend the program at the line named",
        )
    what, remedy = _first(_LOAD, log, sections) or (f"the kernel refuses the object: {reason}", _DOCTOR)
    return LoadError(what, where=path, log=telling_lines(log), remedy=remedy)


def _first(
    known: tuple[tuple[str, str, str], ...], log: str, sections: Mapping[str, str]
) -> tuple[str, str] | None:
    for pattern, what, remedy in known:
        found = re.search(pattern, log)
        if found:
            said = {"section": _of(found.groupdict().get("name", ""), sections)}
            said |= found.groupdict()
            return what.format(**said), remedy.format(**said)
    return None


def _of(name: str, sections: Mapping[str, str]) -> str:
    return f" ({sections[name]})" if name in sections else ""
