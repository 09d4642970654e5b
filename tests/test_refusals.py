"""What libbpf or the kernel refuses is told by the name of program or map, with the reason and what to do."""

from __future__ import annotations

import os

import pytest

from bpfleet.errors import BpfleetError, LoadError, ObjectError, VerifierError
from bpfleet.loader.core import open_core
from bpfleet.loader.logs import telling_lines
from bpfleet.loader.refusals import load_refused
from bpfleet.protocol import Load
from objects_fixture import Objects

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

HEAD = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
char LICENSE[] SEC("license") = "GPL";
"""
ON_EXEC = 'SEC("tp_btf/sched_process_exec") int on_exec(__u64 *ctx)'
COUNTS = '__uint(type, BPF_MAP_TYPE_HASH); __type(key, int); __type(value, int); } counts SEC(".maps");'


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Objects:
    return Objects(tmp_path_factory.mktemp("refused"))


def refused(objects: Objects, name: str, source: str, *flags: str) -> BpfleetError:
    """How the loader refuses a program; its text is on one screen, and the object is named."""
    made = objects.compile(HEAD + source, name, *flags)
    with pytest.raises(BpfleetError) as raised:
        open_core(Load(collector="c", kind="core", source=str(made))).load()
    assert str(made) in raised.value.where
    assert raised.value.log.count("\n") < 12
    assert "failed to load object" not in raised.value.log
    return raised.value


@needs_root
@pytest.mark.parametrize(
    ("name", "source", "what", "remedy"),
    [
        (
            "unknown_section",
            'SEC("tcy/ingress") int on_packet(void *ctx) { return 0; }',
            "this libbpf does not know the section 'tcy/ingress' of program 'on_packet'",
            "install a newer libbpf",
        ),
        (
            "no_section",
            "int on_packet(void *ctx) { return 0; }",
            "program 'on_packet' has no section that says what kind of program it is",
            'write SEC("…") in front of the function',
        ),
        (
            "no_such_function",
            f"extern void bpf_other(void) __ksym; {ON_EXEC} {{ bpf_other(); return 0; }}",
            "this kernel has no 'bpf_other', which the object declares as extern",
            "declare it __weak",
        ),
        (
            "no_such_option",
            f"extern int CONFIG_OF_ANOTHER __kconfig; {ON_EXEC} {{ return CONFIG_OF_ANOTHER == 1; }}",
            "this kernel has no 'CONFIG_OF_ANOTHER', which the object declares as extern",
            "declare it __weak",
        ),
        (
            "no_such_place",
            'SEC("tp_btf/of_other") int on_other(__u64 *ctx) { return 0; }',
            "this kernel has no 'of_other', where program 'on_other' (tp_btf/of_other) goes",
            "ladder",
        ),
        (
            "empty_map",
            f"struct {{ {COUNTS} {ON_EXEC} {{ int k = 0; return bpf_map_lookup_elem(&counts, &k) != 0; }}",
            "the kernel does not make map 'counts': Invalid argument",
            "say it under [maps.counts] in the .toml beside the program",
        ),
    ],
)
def test_what_the_kernel_has_not(objects: Objects, name: str, source: str, what: str, remedy: str) -> None:
    error = refused(objects, name, source)
    assert isinstance(error, LoadError)
    assert error.what == what
    assert remedy in error.remedy


@needs_root
def test_the_verifiers_refusal_names_the_program(objects: Objects) -> None:
    source = f"{ON_EXEC} {{ return *(int *)ctx[9]; }} {ON_EXEC.replace('on_exec', 'other')} {{ return 0; }}"
    error = refused(objects, "unsafe", source)
    assert isinstance(error, VerifierError)
    assert error.what == ("the kernel's verifier refuses program 'on_exec' (tp_btf/sched_process_exec)")


@needs_root
@pytest.mark.parametrize(
    ("name", "source", "flags", "what", "remedy"),
    [
        (
            "older_maps",
            "struct older { unsigned type, key_size, value_size, max_entries, flags; };"
            'struct older SEC("maps") counts = { BPF_MAP_TYPE_HASH, 4, 4, 9 };'
            f"{ON_EXEC} {{ int key = 0; return bpf_map_lookup_elem(&counts, &key) != 0; }}",
            (),
            "its maps are defined in the section 'maps', as libbpf took them before 1.0",
            'define them in SEC(".maps")',
        ),
        (
            "typeless",
            f"struct {{ __uint(max_entries, 9); {COUNTS}"
            f"{ON_EXEC} {{ int key = 0; return bpf_map_lookup_elem(&counts, &key) != 0; }}",
            ("-g0",),
            "it has no types (BTF), which tell what its maps are",
            "clang -g",
        ),
        (
            "static_program",
            'SEC("tracepoint/raw_syscalls/sys_enter") __attribute__((used)) static int hidden(void *ctx)'
            "{ return 0; }",
            (),
            "program 'hidden' is a static function",
            "take `static` away",
        ),
        (
            "half",
            f"extern int there; {ON_EXEC} {{ return there; }}",
            (),
            "'there' is declared in it and defined elsewhere",
            "bpftool gen object",
        ),
    ],
)
def test_what_libbpf_does_not_open(
    objects: Objects, name: str, source: str, flags: tuple[str, ...], what: str, remedy: str
) -> None:
    error = refused(objects, name, source, *flags)
    assert isinstance(error, ObjectError)
    assert error.what == f"libbpf can't open it: {what}"
    assert remedy in error.remedy


def test_what_nobody_foresaw_keeps_libbpfs_words() -> None:
    error = load_refused("x.bpf.o", "Cannot allocate memory", "libbpf: something else\n", {})
    assert error.what == "the kernel refuses the object: Cannot allocate memory"
    assert error.log == "libbpf: something else"


def test_what_libbpf_can_do_without_is_not_told() -> None:
    """Its own words, of an object whose types the kernel refused and whose map it then refused too."""
    log = (
        "libbpf: -- BEGIN BTF LOAD LOG ---\nmagic: 0xeb9f\n[1] INT int size=4 Invalid\n"
        "-- END BTF LOAD LOG --\nlibbpf: Error loading .BTF into kernel: -22. BTF is optional, ignoring.\n"
        "libbpf: prog 'p': BPF program load failed: Operation not permitted\n"
        "libbpf: permission error while running as root; try raising 'ulimit -l'? current value: 8.0 MiB\n"
        "libbpf: prog 'p': failed to load: -1\nlibbpf: failed to load object 'x.bpf.o'\n"
    )
    assert telling_lines(log) == "libbpf: prog 'p': BPF program load failed: Operation not permitted"
