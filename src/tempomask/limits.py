"""How much of an input is taken: limits that are checked from headers, before anything is decoded.

The environment variable TEMPOMASK_LIMITS, or the option --limits of every command, sets some of
them: `pixels=400000000,objects=5000`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from functools import lru_cache

from tempomask.errors import InputError, unknown_name

VARIABLE = "TEMPOMASK_LIMITS"
_COUNTLESS = 10**18  # of what a file only claims; Python writes no number of 5,000 digits
_UNITS = {"nesting": "levels of nesting", "file_bytes": "bytes", "line_bytes": "bytes"}


@dataclass(frozen=True)
class Limits:
    """The most that is taken of an input; what has more is refused in one line.

    Attributes:
        pixels: Of a frame, an image or a mask.
        objects: On a frame of a mask image, of a journal or of a file of prompts; also points of
            one prompt.
        file_bytes: Of a file of JSON, of text or of pickled arrays.
        line_bytes: Of a line of a journal.
        nesting: Of lists and objects in JSON.
        playlists: 1 to follow playlists (m3u8, dash, sdp, ffconcat), which name other files.
    """

    pixels: int = 89_000_000
    objects: int = 1000
    file_bytes: int = 2**31
    line_bytes: int = 2**27
    nesting: int = 64
    playlists: int = 0


def limits() -> Limits:
    """The limits in force; InputError for a variable that cannot be read."""
    return parse_limits(os.environ.get(VARIABLE, ""))


@lru_cache(maxsize=8)
def parse_limits(text: str) -> Limits:
    """The limits that a text changes, such as "pixels=4e8"; InputError for another text."""
    known = [each.name for each in fields(Limits)]
    values: dict[str, int] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, number = part.partition("=")
        if name not in known:
            raise unknown_name(f"limits: unknown limit {name!r}", name, known)
        try:
            values[name] = int(float(number))
        except (ValueError, OverflowError):
            values[name] = -1
        if values[name] < 0:
            raise InputError(f"limits: {name} needs a number such as {name}=1000, got {number!r}")
    return Limits(**values)


def check_limit(name: str, found: int, what: str) -> None:
    """InputError, with the way to raise it, if `what` has more than a limit allows.

    >>> check_limit("objects", 5, "the mask")
    """
    most = getattr(limits(), name)
    if found > most:
        number = f"{found:,}" if found < _COUNTLESS else "countless"
        raise InputError(
            f"{what} has {number} {_UNITS.get(name, name)}, more than the limit of {most:,}; if it"
            f" is to be trusted, raise the limit with --limits {name}={min(found, _COUNTLESS)}"
        )
