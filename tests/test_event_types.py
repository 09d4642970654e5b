"""Which type the events of a map are taken to have, and how a declaration is held against it."""

from __future__ import annotations

import pytest

from bpfleet.errors import SchemaMismatch
from bpfleet.layout import Layout, declared
from bpfleet.loader.backend import CompiledMap
from bpfleet.loader.bcc_tables import event_layout
from bpfleet.loader.event_types import EventTypes
from bpfleet.loader.schema_check import check_schema, derived_maps
from bpfleet.loader.submitted import KEPT, submitted
from bpfleet.schema import FieldWords, Map, MapWords, Meaning, counter, gauge, label

SMALL = declared([label("pid", "u32"), gauge("took", "u32")])
LARGE = declared([label("pid", "u32"), gauge("took", "u64"), label("text", "char[100]")])


def types(
    structs: dict[str, Layout],
    pointed: tuple[str, ...] = (),
    *,
    alone: bool = True,
    known: Layout | None = None,
) -> EventTypes:
    return EventTypes(structs.get, {f"to_{name}": name for name in pointed}, alone, known)


@pytest.mark.parametrize(
    ("events", "struct"),
    [
        (types({"event": SMALL}), "event"),
        (types({"data_t": SMALL}), "data_t"),
        (types({"event": SMALL, "data_t": LARGE}), ""),
        (types({"opens": SMALL, "event": LARGE}), "opens"),
        (types({"open": SMALL}, alone=False), "open"),
        (types({"event": SMALL}, alone=False), ""),
        (types({"event": SMALL, "mine": LARGE}, ("mine",)), "mine"),
        (types({"a": SMALL, "b": LARGE}, ("a", "b")), ""),
        (types({"a": SMALL}, ("a",), alone=False), "a"),
        (types({}), ""),
    ],
)
def test_a_type_is_taken_where_only_one_can_be_meant(events: EventTypes, struct: str) -> None:
    guess = events.guess("opens")
    assert guess.struct == struct
    assert (guess.layout is None) == (struct == "")


def test_what_the_source_submits_goes_before_all_guesses() -> None:
    structs = {"opens": SMALL, "event": SMALL, "other": LARGE}
    pointed = {f"{KEPT}opens": "other", f"{KEPT}closes": "event"}
    events = EventTypes(structs.get, pointed)
    assert (events.guess("opens").struct, events.guess("closes").struct) == ("other", "event")
    assert events.guess("reads").struct == ""
    assert "submits" in events.guess("opens").how


@pytest.mark.parametrize(
    ("source", "struct"),
    [
        ("struct seen *one = bpf_ringbuf_reserve(&opens, sizeof(*one), 0);", "seen"),
        ("struct task *task, *one; one = bpf_ringbuf_reserve(&opens, sizeof *one, 0);", "task"),
        ("struct task *task; struct seen *one;\none = bpf_ringbuf_reserve(&opens, sizeof(*one), 0);", "seen"),
        ("void *one = bpf_ringbuf_reserve(&opens, sizeof(struct seen), 0);", "seen"),
        ("one = (struct x *)bpf_ringbuf_reserve(&opens, sizeof(struct seen) + 8, 0);", "seen"),
        ("struct seen one = {};\nbpf_ringbuf_output(&opens, &one, sizeof(one), 0);", "seen"),
        (
            "struct seen one = {.at = f(1)};\nbpf_perf_event_output(ctx, &opens, CPU, &one, sizeof(one));",
            "seen",
        ),
        (
            "void tell(struct pt_regs *ctx, struct seen *one)\n{\n"
            "bpf_perf_event_output(ctx, &opens, BPF_F_CURRENT_CPU,\n\t\tone, sizeof(*one));",
            "seen",
        ),
        # One map with two types, a number, a macro, a comment, another map.
        (
            "struct seen *one = bpf_ringbuf_reserve(&opens, sizeof(*one), 0);"
            "struct other *two = bpf_ringbuf_reserve(&opens, sizeof(*two), 0);",
            None,
        ),
        ("int one = 1; bpf_ringbuf_output(&opens, &one, sizeof(one), 0);", None),
        ("bpfleet_reserve(opens, struct seen);", None),
        ("/* struct seen *one = bpf_ringbuf_reserve(&opens, sizeof(*one), 0); */", None),
        ("struct seen *one = bpf_ringbuf_reserve(&closes, sizeof(*one), 0);", None),
    ],
)
def test_the_struct_that_a_source_submits_is_seen(source: str, struct: str | None) -> None:
    assert submitted(source).get("opens") == struct


def compiled(events: EventTypes, *, own: bool = False) -> dict[str, CompiledMap]:
    return {"opens": CompiledMap("opens", -1, None, None, kind="ringbuf", events=events, own=own)}


def test_events_without_a_type_are_bytes_and_words_say_how_many() -> None:
    made = derived_maps("c", compiled(types({})), {})
    ours, event = made["opens"]
    assert [leaf.name for leaf in ours.columns()] == ["event_number", "event_size"]
    assert (event.size, event.leaves[0].ctype) == (128, "bytes[128]")
    made = derived_maps("c", compiled(types({})), {"opens": MapWords(size=24)})
    assert made["opens"][1].size == 24


def test_a_type_is_cut_to_the_bytes_that_are_wanted() -> None:
    words = {"opens": MapWords(event="struct large", size=30)}
    _, event = derived_maps("c", compiled(types({"large": LARGE})), words)["opens"]
    assert [(leaf.name, leaf.ctype) for leaf in event.leaves] == [
        ("pid", "u32"),
        ("took", "u64"),
        ("text", "char[14]"),
    ]
    assert event.size == 30


def test_a_map_that_the_program_keeps_for_itself_needs_words_to_be_drained() -> None:
    own = compiled(types({"event": SMALL}), own=True)
    assert derived_maps("c", own, {}) == {}
    assert list(derived_maps("c", own, {"opens": MapWords(help="mine too")})) == ["opens"]


def declare(*value: object, **changes: object) -> Map:
    return Map("opens", (), value, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (declare(label("pid", "u32"), gauge("took", "u64"), event="struct event"), "took"),
        (declare(label("pid", "u32"), event="struct evnt"), "no type 'struct evnt'"),
        (declare(label("pid", "u32"), counter("took", "u32")), "declared as a counter"),
        (Map("opens", (label("cpu", "u32"),), (label("pid", "u32"),)), "declared with a key"),
    ],
)
def test_a_declaration_that_can_not_be_is_refused(spec: Map, says: str) -> None:
    with pytest.raises(SchemaMismatch, match=says):
        check_schema("c", [spec], compiled(types({"event": SMALL})))


def test_a_declaration_that_agrees_is_taken() -> None:
    spec = declare(label("pid", "u32"), gauge("took", "u32"), event="struct event")
    ours, event = check_schema("c", [spec], compiled(types({"event": SMALL})))["opens"]
    assert [leaf.meaning for leaf in ours.columns()] == [Meaning.EVENT]
    assert event == SMALL


def test_words_can_make_nothing_of_an_event_grow() -> None:
    words = {"opens": MapWords(fields={"took": FieldWords(meaning=Meaning.COUNTER)})}
    with pytest.raises(SchemaMismatch, match="declared as a counter"):
        derived_maps("c", compiled(types({"event": SMALL})), words)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            ["pid#u32", "ts#u64", "comm#char[16]", "ret#int", "at#void *", "e#enum kind"],
            [("pid", 0), ("ts", 8), ("comm", 16), ("ret", 32), ("at", 40), ("e", 48)],
        ),
        (["a#u8[3]", "b#__u16", "c#unsigned long long"], [("a", 0), ("b", 4), ("c", 8)]),
        (["x#struct other"], None),
        (["x#unsigned __int128[2]"], None),
        ([], None),
    ],
)
def test_bcc_s_description_of_what_is_submitted(
    fields: list[str], expected: list[tuple[str, int]] | None
) -> None:
    layout = event_layout(fields)
    assert (layout and [(leaf.name, leaf.offset) for leaf in layout.leaves]) == expected
