"""Records for people and for other programs: JSON lines and tables.

plain      record → plain dict, or one line of JSON
table      one snapshot as aligned lines (`render_table`)
drawing    a grid of text as lines: alignment, width, colour, ASCII
rates      what grew since an earlier snapshot, per second
histogram  sparkline and quantiles of log2 slots
units      numbers as people read them
parts      the parts of one large snapshot, put together
folded     stacks as flame graphs' input (`Folder`)
follow     a stream of records as text: tables, gaps, changes of state (`Follower`)
"""

from __future__ import annotations

from bpfleet.views.drawing import Look, look_for
from bpfleet.views.folded import Folder
from bpfleet.views.follow import Follower
from bpfleet.views.parts import Assembler
from bpfleet.views.plain import json_line, to_json
from bpfleet.views.rates import rates
from bpfleet.views.table import render_table

__all__ = [
    "Assembler",
    "Folder",
    "Follower",
    "Look",
    "json_line",
    "look_for",
    "rates",
    "render_table",
    "to_json",
]
