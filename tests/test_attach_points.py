"""What a section's name says of where its program goes, beside libbpf."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpfleet.attach_points import SECTION_NAMES, AttachPoint, attach_point
from objects_fixture import (
    libbpf_knows_section,
)

_NEWER = """
    kprobe.session uprobe.multi uretprobe.multi uprobe.session fsession struct_ops netfilter sk_skb/verdict
    tc/ingress tc/egress tcx/ingress tcx/egress netkit/primary netkit/peer
    cgroup/connect_unix cgroup/sendmsg_unix cgroup/recvmsg_unix
    cgroup/getpeername_unix cgroup/getsockname_unix
    tracepoint.s tp.s raw_tracepoint.s raw_tp.s tp_btf.s uprobe.multi.s uretprobe.multi.s usdt.s fsession.s
    struct_ops.s
"""
NEWER_THAN_LIBBPF_1_1 = frozenset(_NEWER.split())


@pytest.mark.parametrize("name", sorted(SECTION_NAMES - NEWER_THAN_LIBBPF_1_1))
def test_every_kind_of_section_is_one_that_libbpf_knows(name: str) -> None:
    assert attach_point(name).kind != "custom"
    assert libbpf_knows_section(name)


@pytest.mark.parametrize("name", sorted(SECTION_NAMES))
def test_what_follows_a_kind_is_read_as_libbpf_reads_it(name: str) -> None:
    if name not in NEWER_THAN_LIBBPF_1_1:
        known = libbpf_knows_section(f"{name}/a/b")
        assert (attach_point(f"{name}/a/b").kind != "custom") == known
    assert attach_point(f"{name}_more").kind == "custom"
    assert not libbpf_knows_section(f"{name}_more")


@pytest.mark.parametrize("name", ["kprobe.s/x", "xdp/drop", "kprobe_x", "tp/", "", "license", "Kprobe/x"])
def test_a_section_of_no_known_kind_is_custom(name: str) -> None:
    assert attach_point(name) == AttachPoint("custom", name)
    assert attach_point(f"?{name}") == AttachPoint("custom", name, autoload=False)


@pytest.mark.parametrize(
    ("symbol", "offset"),
    [("f+0x10", 16), ("f+16", 16), ("f+020", 16), ("f+0", 0), ("f+0XfF", 255), ("f", 0)],
)
def test_offsets_are_read_as_c_reads_them(symbol: str, offset: int) -> None:
    assert attach_point(f"uprobe/x:{symbol}") == AttachPoint("uprobe", "x", "f", offset)
    assert attach_point(f"kprobe/{symbol}") == AttachPoint("kprobe", "f", offset=offset)


@pytest.mark.parametrize("symbol", ["f+", "f+x", "f+09", "f+-1", "+1"])
def test_what_is_no_offset_stays_in_the_symbol(symbol: str) -> None:
    assert attach_point(f"uprobe/x:{symbol}") == AttachPoint("uprobe", "x", symbol)


@pytest.mark.parametrize(
    ("section", "text"),
    [
        ("tp/a/b", "tracepoint a:b"),
        ("uprobe/libc.so.6:malloc+16", "uprobe libc.so.6:malloc+0x10"),
        ("xdp", "xdp"),
        ("kprobe/f+8", "kprobe f+0x8"),
    ],
)
def test_an_attach_point_reads_well(section: str, text: str) -> None:
    assert str(attach_point(section)) == text


@settings(deadline=None)
@given(st.text(max_size=30) | st.text("uprobetks/.:+0x?", max_size=30))
def test_any_section_name_is_read(name: str) -> None:
    assert attach_point(name).kind
