"""What the page may say: every message is checked here, before anything is done with it.

A message is a JSON object with a `type`; what it may hold besides stands in `FIELDS`. The page
names videos, frames and objects by number, and never a path.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tempomask.errors import InputError
from tempomask.schema import check, matching, number, one_of, only, parse_json, whole

# Characters of one message; the mask of a large image is the longest there is.
LONGEST = 4_000_000

Message = dict[str, Any]


class BadMessage(InputError):
    """A message that no page of ours sends; its socket is closed."""


COLOR = matching("#[0-9a-f]{6}", "a colour such as #20a0ff")
COUNTS = matching("[0-o]*", "a run-length code")
BUDGET, FPS = (number(0.05, 1), None), (number(0.1, 1000), None)


def _name(value: Any) -> str:
    """The schema of what a person calls an object."""
    if not isinstance(value, str) or not 0 < len(value.strip()) <= 80 or not value.isprintable():
        raise ValueError("is not a name of 1 to 80 printable characters")
    return value


_FRAME, OBJECT = whole(0, 10_000_000), whole(1, 65535)
_SIDE = number(-1, 100_000)
_SPOT = {"frame": _FRAME, "object": OBJECT}
_POINT = {**_SPOT, "x": _SIDE, "y": _SIDE, "label": one_of(0, 1)}
# Of each type what it must hold, see `schema`.
FIELDS: Mapping[str, dict[str, Any]] = {
    "open": {"video": whole(0, 100_000)},
    "look": {"frame": _FRAME},
    "masks": {"first": _FRAME, "last": _FRAME},
    "add-object": {},
    "edit-object": {
        "object": OBJECT,
        "name?": _name,
        "color?": COLOR,
        "visible?": bool,
        "locked?": bool,
    },
    "delete-object": {"object": OBJECT},
    # Object 0 stands for one that is not there yet.
    "hover": {**_POINT, "object": whole(0, 65535), "id": whole()},
    "click": _POINT,
    "box": {**_SPOT, "box": [_SIDE] * 4},
    "paint": {**_SPOT, "counts": COUNTS},
    "clear": _SPOT,
    "everything": {"frame": _FRAME},
    "undo": {},
    "redo": {},
    "track": {
        "direction": one_of("forward", "backward", "both"),
        "frame": _FRAME,
        "first?": _FRAME,
        "last?": _FRAME,
        "objects?": [OBJECT],
    },
    "stop": {},
    "routing": {"budget": BUDGET, "fps": FPS},
    "export": {"formats": [matching("[a-z-]{1,20}", "a format")]},
}


def parse(text: str | bytes) -> Message:
    """A message, checked: its type and its fields, and nothing else.

    Raises:
        BadMessage: For anything else.
    """
    if len(text) > LONGEST:
        raise BadMessage(f"a message of {len(text):,} characters; at most {LONGEST:,} are taken")
    try:
        message = parse_json(text, "a message", {"type": one_of(*FIELDS)})
        check(message, only({"type": str, **FIELDS[message["type"]]}), message["type"])
    except InputError as error:
        raise BadMessage(str(error)) from None
    return message
