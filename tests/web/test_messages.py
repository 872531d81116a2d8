"""What a page may say, and what closes its socket."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tempomask.web.messages import FIELDS, LONGEST, BadMessage, parse

CLICK = {"type": "click", "frame": 3, "object": 1, "x": 10.5, "y": 20, "label": 1}


def test_a_message_comes_out_as_it_went_in() -> None:
    assert parse(json.dumps(CLICK)) == CLICK
    assert parse('{"type": "undo"}') == {"type": "undo"}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"frame": -1}, "frame is"),
        ({"frame": 1.5}, "frame is"),
        ({"frame": True}, "frame is"),
        ({"object": "1"}, "object is"),
        ({"x": None}, "x is"),
        ({"x": 1e9}, "x is"),
        ({"label": 2}, "label is"),
        ({"path": "/etc/passwd"}, "unknown"),
        ({"type": "exec"}, "type is"),
        ({"type": ["click"]}, "type is"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(BadMessage, match=problem):
        parse(json.dumps({**CLICK, **change}))


@pytest.mark.parametrize(
    "said",
    [
        {"type": "edit-object", "object": 1, "color": "red"},
        {"type": "edit-object", "object": 1, "color": "#ff0000;x"},
        {"type": "edit-object", "object": 1, "name": "x" * 81},
        {"type": "edit-object", "object": 1, "name": "a\x00b"},
        {"type": "export", "formats": ["../masks"]},
        {"type": "edit-object", "object": 1, "name": "   "},
        {"type": "paint", "frame": 0, "object": 1, "counts": "é"},
        {"type": "routing", "budget": 0, "fps": None},
        {"type": "routing", "budget": None},
    ],
)
def test_texts_and_lists_are_bounded(said: dict[str, Any]) -> None:
    with pytest.raises(BadMessage):
        parse(json.dumps(said))


def test_what_is_no_json_object_is_refused() -> None:
    for text in ("", "{", "[]", "3", "null", '{"type": 3}', "[" * 100_000, " " * (LONGEST + 1)):
        with pytest.raises(BadMessage):
            parse(text)
    with pytest.raises(BadMessage):
        parse('{"type": "click", "frame": 0, "object": 1, "x": NaN, "y": 0, "label": 1}')


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
                    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)),
       st.sampled_from(sorted(FIELDS)))  # fmt: skip
def test_nothing_else_is_ever_raised(value: Any, kind: str) -> None:
    said = {"type": kind, **{name.rstrip("?"): value for name in FIELDS[kind]}}
    for text in (json.dumps(said), json.dumps(value)):
        try:
            assert parse(text)["type"] in FIELDS
        except BadMessage as error:
            assert "\n" not in str(error)
