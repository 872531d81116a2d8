"""Options that commands share which go through videos: what is read, where results go."""

from __future__ import annotations

from itertools import chain, count
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from tempomask.cli import console
from tempomask.errors import InputError

_OUTPUT = "Output"
# What --save of the trackers knows.
TRACKED = "masks, objects, overlay, rle, npz, boxes, chart, blocks"
Number = TypeVar("Number", int, float)

Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="Video file, folder of images, stream URL, or a number for a camera.",
        show_default=False,
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Go on with an interrupted run in the same folder, after its last finished frame.",
        rich_help_panel=_OUTPUT,
    ),
]
Names = Annotated[
    bool,
    typer.Option(
        "--names",
        help="Call masks after the source's images, as YouTube-VOS and MOSE do, not by number.",
        rich_help_panel=_OUTPUT,
    ),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print one JSON object on stdout, all else on stderr.",
        rich_help_panel=_OUTPUT,
    ),
]
Sequences = Annotated[
    str | None,
    typer.Option(metavar="A,B", help="Only these sequences.", show_default=False),
]


def folder(help_text: str) -> Any:
    """An option that names a folder for results, to annotate `Path` or `Path | None` with."""
    return typer.Option(help=help_text, rich_help_panel=_OUTPUT, show_default=False)


def formats(names: str) -> Any:
    """The option --save, of which `names` may be given, to annotate `str` with."""
    return typer.Option(metavar="A,B", help=f"Any of {names}.", rich_help_panel=_OUTPUT)


def default_folder(source: str, what: str) -> Path:
    """Where results go unless a folder is named: in this folder, beside those of other sources."""
    from tempomask.io.result_folder import holds_another

    name = f"camera{source}" if source.isdecimal() else Path(source.rstrip("/")).stem
    first = Path(f"{name or 'video'}-{what}")
    folders = chain([first], (first.with_name(f"{first.name}-{n}") for n in count(2)))
    folder = next(folder for folder in folders if not holds_another(folder, source))
    if folder != first:
        console.note(f"{first} holds the results of another source; these go to {folder}")
    return folder


def words(text: str) -> list[str]:
    """What stands between commas, without spaces and empty parts."""
    return [part.strip() for part in text.split(",") if part.strip()]


def listed(option: str, text: str | None) -> list[str] | None:
    """The words of an option, None if it was not given; InputError if there are none."""
    if text is None:
        return None
    found = words(text)
    if not found:
        raise InputError(f"--{option} is empty; leave it out, or give names with commas between")
    return found


def numbers(option: str, text: str, kind: type[Number]) -> list[Number]:
    """The numbers of an option; InputError for other words, or for none."""
    try:
        found = [kind(part) for part in words(text)]
    except ValueError:
        found = []
    if not found:
        raise InputError(f"--{option} {text!r} is no list of numbers, such as 1,2,3")
    return found
