"""What JSON files hold, declared and checked before anything is made of it.

A schema is a type (`int`, `float` for any finite number, `str`, `bool`, `dict`, `object` for
anything), None, a tuple of alternatives, a list with the schema of its items (or with one for each
of them), a dictionary from names to schemas ("name?" may be left out, and `str` stands for any
name; others are passed over, unless it is `only` these), or a function that gives the value or
raises a ValueError.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tempomask.errors import InputError
from tempomask.limits import check_limit

# Of a file, in bytes, with room for a suffix.
_LONGEST_NAME = 240
_NAMES = {int: "a whole number", float: "a finite number", str: "text", bool: "true or false"}


def parse_json(data: bytes | str, what: str, schema: Any = object) -> Any:
    """The value in JSON of a schema; InputError, which calls it `what`, for anything else."""
    try:
        value = json.loads(data)
    except RecursionError:
        raise InputError(f"{what} is nested too deep") from None
    except (ValueError, MemoryError) as error:
        raise InputError(f"{what} is not JSON: {error}; it may be cut off") from None
    check_limit("nesting", _nesting(value), what)
    check(value, schema, what)
    return value


def check(value: Any, schema: Any, what: str) -> None:
    """InputError, which says where in `what`, for a value that a schema does not allow."""
    try:
        _check(value, schema, "")
    except ValueError as error:
        raise InputError(f"{what}: {error}") from None


def whole(low: int = 0, high: int = 2**53) -> Callable[[Any], int]:
    """The schema of a whole number from `low` to `high`."""

    def check_whole(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"is {shown(value)}, not a whole number from {low} to {high}")
        return value

    return check_whole


def number(low: float, high: float) -> Callable[[Any], float]:
    """The schema of a number from `low` to `high`."""

    def check_number(value: Any) -> float:
        if type(value) not in (int, float) or not low <= value <= high:
            raise ValueError(f"is {shown(value)}, not a number from {low:g} to {high:g}")
        return value

    return check_number


def matching(pattern: str, what: str) -> Callable[[Any], str]:
    """The schema of text of which all matches a pattern; `what` says so in words."""

    def check_text(value: Any) -> str:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise ValueError(f"is {shown(value)}, not {what}")
        return value

    return check_text


@dataclass(frozen=True)
class only:
    """The schema of a dictionary with no other names than its own.

    Args:
        fields: From names to schemas.
    """

    fields: dict[str, Any]

    def refuse_others(self, value: Any, where: str) -> None:
        """ValueError for another name."""
        known = {name.removesuffix("?") for name in self.fields}
        for name in sorted(set(value) - known) if isinstance(value, dict) else ():
            raise ValueError(f"{where or 'it'} has an unknown {shown(name)}")


def one_of(*allowed: Any) -> Callable[[Any], Any]:
    """The schema of some constants."""

    def check_one(value: Any) -> Any:
        if type(value) not in map(type, allowed) or value not in allowed:
            raise ValueError(f"is {shown(value)}, not {' or '.join(map(str, allowed))}")
        return value

    return check_one


def plain_name(value: Any) -> str:
    """The schema of a name that is a file inside a folder, and leads nowhere else.

    >>> plain_name("00001.jpg")
    '00001.jpg'
    """
    plain = isinstance(value, str) and value not in ("", ".", "..")
    if not plain or any(c in value for c in "/\\\0") or not 0 < _length(value) <= _LONGEST_NAME:
        raise ValueError(f"is {shown(value)}, which is not a plain name of a file")
    return value


def _length(name: str) -> int:
    """Bytes of a name on disk; 0 if no name on disk is written so."""
    try:
        return len(os.fsencode(name))
    except UnicodeEncodeError:
        return 0


def inner_path(value: Any) -> str:
    """The schema of a path that leads to something inside a folder, such as `dog/00001.jpg`."""
    if not isinstance(value, str):
        raise ValueError(f"is {shown(value)}, not text")
    for part in value.split("/"):
        plain_name(part)
    return value


def shown(value: Any) -> str:
    """A value in a message, cut to a few words."""
    if isinstance(value, list | dict):  # what is in it may be anything, and deep
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    if type(value) is int and value.bit_length() > 128:
        return "a huge number"
    text = json.dumps(value[:60] if isinstance(value, str) else value, default=repr)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _check(value: Any, schema: Any, where: str) -> None:
    at = where or "it"
    if isinstance(schema, tuple):
        _check_any(value, schema, where)
    elif isinstance(schema, list):
        if not isinstance(value, list) or (len(schema) > 1 and len(value) != len(schema)):
            many = f" of {len(schema)}" if len(schema) > 1 else ""
            raise ValueError(f"{at} is {shown(value)}, not a list{many}")
        items = schema if len(schema) > 1 else schema * len(value)
        for i, (item, kind) in enumerate(zip(value, items, strict=True)):
            _check(item, kind, f"{where}[{i}]")
    elif isinstance(schema, dict):
        _check_object(value, schema, where)
    elif isinstance(schema, only):
        schema.refuse_others(value, where)
        _check_object(value, schema.fields, where)
    elif isinstance(schema, type):
        kinds = (int, float) if schema is float else (schema,)
        fits = schema is object or type(value) in kinds  # by which true is not a number
        if not fits or (schema is float and not _is_finite(value)):
            raise ValueError(f"{at} is {shown(value)}, not {_NAMES.get(schema, schema.__name__)}")
    elif schema is None:
        if value is not None:
            raise ValueError(f"{at} is {shown(value)}, not null")
    else:
        try:
            schema(value)
        except ValueError as error:
            raise ValueError(f"{at} {error}") from None


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number of hundreds of digits
        return False


def _check_any(value: Any, schemas: tuple[Any, ...], where: str) -> None:
    errors: list[ValueError] = []
    for schema in schemas:
        try:
            _check(value, schema, where)
            return
        except ValueError as error:
            errors.append(error)
    raise errors[0]


def _check_object(value: Any, schema: dict[Any, Any], where: str) -> None:
    if not isinstance(value, dict):
        raise ValueError(f"{where or 'it'} is {shown(value)}, not an object")
    for key, kind in schema.items():
        if key is str:
            for name, item in value.items():
                _check(item, kind, f"{where}.{name[:40]}")
            continue
        name = key.removesuffix("?")
        if name in value:
            _check(value[name], kind, f"{where}.{name}".lstrip("."))
        elif name == key:
            raise ValueError(f"{where or 'it'} has no {name}")


def _nesting(value: Any) -> int:
    """How deep lists and objects lie in each other; level by level, as recursion may not reach."""
    level, depth = [value] if isinstance(value, list | dict) else [], 0
    while level:
        inside = (v.values() if isinstance(v, dict) else v for v in level)
        level = [x for items in inside for x in items if isinstance(x, list | dict)]
        depth += 1
    return depth
