"""What the page may say: every message is checked here, before anything is done with it.

A message is a JSON object with a `type`; what it may hold besides stands in `FIELDS`. The page
names videos, frames and objects by number, and never a path.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from tempomask.errors import InputError

# Characters of one message; the mask of a large image is the longest there is.
LONGEST = 4_000_000
_NAME_LENGTH = 80
_COLOR = re.compile(r"#[0-9a-f]{6}")
_COUNTS = re.compile(r"[0-o]*")
_MOST_FRAME = 10_000_000

Check = Callable[[Any], Any]
Message = dict[str, Any]


class BadMessage(InputError):
    """A message that no page of ours sends; its socket is closed."""


def _whole(low: int, high: int) -> Check:
    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"needs a whole number from {low} to {high}")
        return value

    return check


def _number(low: float, high: float) -> Check:
    def check(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError("needs a number")
        if not math.isfinite(value) or not low <= value <= high:
            raise ValueError(f"needs a number from {low:g} to {high:g}")
        return float(value)

    return check


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("needs true or false")
    return value


def _text(value: Any) -> str:
    text = " ".join(value.split()) if isinstance(value, str) else ""
    if not 0 < len(text) <= _NAME_LENGTH or not text.isprintable():
        raise ValueError(f"needs a name of 1 to {_NAME_LENGTH} printable characters")
    return text


def _matching(pattern: re.Pattern[str], what: str) -> Check:
    def check(value: Any) -> str:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise ValueError(f"needs {what}")
        return value

    return check


def _one_of(*choices: str) -> Check:
    def check(value: Any) -> str:
        if value not in choices:
            raise ValueError(f"needs one of {', '.join(choices)}")
        return value

    return check


def _list_of(check: Check, most: int) -> Check:
    def check_all(value: Any) -> list[Any]:
        if not isinstance(value, list) or len(value) > most:
            raise ValueError(f"needs a list of at most {most}")
        return [check(each) for each in value]

    return check_all


def _or_null(check: Check) -> Check:
    return lambda value: None if value is None else check(value)


_FRAME, _OBJECT = _whole(0, _MOST_FRAME), _whole(1, 65535)
_SIDE = _number(-1, 100_000)
_SPOT: Mapping[str, Check] = {"frame": _FRAME, "object": _OBJECT}
_POINT: Mapping[str, Check] = {**_SPOT, "x": _SIDE, "y": _SIDE, "label": _whole(0, 1)}
# Of each type what it must hold; a name with ? may be left out.
FIELDS: Mapping[str, Mapping[str, Check]] = {
    "open": {"video": _whole(0, 100_000)},
    "look": {"frame": _FRAME},
    "masks": {"first": _FRAME, "last": _FRAME},
    "add-object": {},
    "edit-object": {
        "object": _OBJECT,
        "name?": _text,
        "color?": _matching(_COLOR, "a colour such as #20a0ff"),
        "visible?": _flag,
        "locked?": _flag,
    },
    "delete-object": {"object": _OBJECT},
    # Object 0 stands for one that is not there yet.
    "hover": {**_POINT, "object": _whole(0, 65535), "id": _whole(0, 2**53)},
    "click": _POINT,
    "box": {**_SPOT, "box": _list_of(_SIDE, 4)},
    "paint": {**_SPOT, "counts": _matching(_COUNTS, "a run-length code")},
    "clear": _SPOT,
    "everything": {"frame": _FRAME},
    "undo": {},
    "redo": {},
    "track": {
        "direction": _one_of("forward", "backward", "both"),
        "frame": _FRAME,
        "first?": _FRAME,
        "last?": _FRAME,
        "objects?": _list_of(_OBJECT, 1000),
    },
    "stop": {},
    "routing": {
        "budget": _or_null(_number(0.05, 1)),
        "fps": _or_null(_number(0.1, 1000)),
    },
    "export": {"formats": _list_of(_matching(re.compile(r"[a-z-]{1,20}"), "a format"), 20)},
}


def parse(text: str | bytes) -> Message:
    """A message, checked: its type and its fields, and nothing else.

    Raises:
        BadMessage: For anything else.
    """
    if len(text) > LONGEST:
        raise BadMessage(f"a message of {len(text):,} characters; at most {LONGEST:,} are taken")
    try:
        given = json.loads(text)
    except (ValueError, RecursionError):
        raise BadMessage("a message that is not JSON") from None
    kind = given.get("type") if isinstance(given, dict) else None
    if not isinstance(kind, str) or kind not in FIELDS:
        raise BadMessage(f"a message of unknown type {str(kind)[:40]!r}")
    fields = FIELDS[kind]
    unknown = set(given) - {"type"} - {name.rstrip("?") for name in fields}
    if unknown:
        raise BadMessage(f"{kind}: unknown field {sorted(map(str, unknown))[0][:40]!r}")
    message: Message = {"type": kind}
    for field, check in fields.items():
        name = field.rstrip("?")
        if name not in given:
            if field.endswith("?"):
                continue
            raise BadMessage(f"{kind}: {name} is missing")
        try:
            message[name] = check(given[name])
        except ValueError as error:
            raise BadMessage(f"{kind}: {name} {error}") from None
    return message
