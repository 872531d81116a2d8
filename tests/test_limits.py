"""Limits on inputs, and schemas of JSON: what is let through, and what is named."""

from __future__ import annotations

from typing import Any

import pytest

from tempomask.errors import InputError
from tempomask.limits import VARIABLE, Limits, check_limit, parse_limits
from tempomask.schema import (
    check,
    inner_path,
    matching,
    number,
    one_of,
    only,
    parse_json,
    plain_name,
    shown,
    whole,
)


def test_limits_are_read_from_text(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_limits("") == Limits()
    assert parse_limits(" pixels=4e8, objects=5,") == Limits(pixels=400_000_000, objects=5)
    with pytest.raises(InputError, match="did you mean pixels"):
        parse_limits("pixel=1")
    for text in ("", "x", "-1", "nan", "inf"):
        with pytest.raises(InputError, match="pixels"):
            parse_limits(f"pixels={text}")
    monkeypatch.setenv(VARIABLE, "objects=3")
    check_limit("objects", 3, "the mask")
    with pytest.raises(InputError, match="4 objects.* 3; .*--limits objects=4"):
        check_limit("objects", 4, "the mask")


@pytest.mark.parametrize(
    ("schema", "good", "bad", "message"),
    [
        (int, [0, -5], [True, 1.0, "1", None], "not a whole number"),
        (float, [1, 0.5], [float("nan"), float("inf"), 10**400, True], "not a finite number"),
        (bool, [True], [1, None], "not true or false"),
        ((str, None), ["", None], [1, []], "not text"),
        ([int], [[], [1, 2]], [1, {}, [1, "2"]], "it is|1"),
        ([int, str], [[1, "a"]], [[1], [1, "a", 2], ["a", 1]], "not"),
        ({"a": int, "b?": str}, [{"a": 1}, {"a": 1, "c": []}], [{}, {"a": 1, "b": 2}, []], "a|b"),
        ({str: int}, [{}, {"x": 1}], [{"x": "1"}], "x is"),
        (whole(1, 9), [1, 9], [0, 10, 1.0, True, 10**40], "not a whole number from 1 to 9"),
        (one_of(1, "track"), [1, "track"], [True, 2, "x", []], "not 1 or track"),
        (
            plain_name,
            ["a.png", "..a"],
            ["", ".", "..", "a/b", "a\\b", "a\0", 1],
            "not a plain name",
        ),
        (
            inner_path,
            ["a/b.png"],
            ["/a", "../a", "a//b", "a/../b", 3, "a\\..\\b"],
            "plain|not text",
        ),
        (object, [None, [[]], float("nan")], [], ""),
        (number(0, 1), [0, 0.5, 1], [-1, 2, float("nan"), True, "0", None], "not a number from 0"),
        (matching("[a-z]+", "a word"), ["ab"], ["", "a b", "A", 3], "not a word"),
        (
            only({"a": int, "b?": str}),
            [{"a": 1}],
            [{"a": 1, "c": 2}, {"b": "x"}, []],
            "unknown|a|b",
        ),
    ],
)
def test_schemas(schema: Any, good: list[Any], bad: list[Any], message: str) -> None:
    for value in good:
        check(value, schema, "f")
    for value in bad:
        with pytest.raises(InputError, match=message):
            check(value, schema, "f")


def test_the_place_of_a_fault_is_named() -> None:
    schema = {"objects": [{"id": int}]}
    with pytest.raises(InputError, match=r"f: objects\[1\].id is \"x\", not a whole number"):
        check({"objects": [{"id": 1}, {"id": "x"}]}, schema, "f")


def test_json_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_json(b'{"a": [1]}', "f", {"a": [int]}) == {"a": [1]}
    with pytest.raises(InputError, match="f is not JSON"):
        parse_json(b"[", "f")
    with pytest.raises(InputError, match="nested"):
        parse_json(b"[" * 100_000, "f")
    with pytest.raises(InputError, match="65 .* 64"):
        parse_json(b"[" * 65 + b"]" * 65, "f")
    monkeypatch.setenv(VARIABLE, "nesting=65")
    parse_json(b"[" * 65 + b"]" * 65, "f")
    with pytest.raises(InputError, match="is not JSON"):
        parse_json(b"9" * 10_000, "f")


def test_values_are_shown_in_a_few_words() -> None:
    for value in ("x" * 10**6, 10**4000, [[0]] * 10**5, {"a": "b" * 999}, 1e308, "\x1b[31m", None):
        assert len(shown(value)) <= 60 and shown(value).isprintable()
