"""What the commands share in talking to a person: results on stdout, all else on stderr."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console
from rich.status import Status
from rich.table import Table

INTERRUPTED = 130  # what shells expect after Ctrl-C
BAD_INPUT = 2

# Where nobody looks at a terminal (a pipe, a file), lines are not folded at 80 columns.
_WIDTH = None if sys.stdout.isatty() else 160

out = Console(highlight=False, markup=False, width=_WIDTH)
err = Console(stderr=True, highlight=False, markup=False)


def error(message: str) -> None:
    """One red line on stderr, however long the message is."""
    line = " ".join(message.split())
    err.print(f"error: {line}", style="red", soft_wrap=True)


def note(message: str) -> None:
    """One line on stderr."""
    err.print(message, soft_wrap=True)


def waiting(message: str) -> Status:
    """A spinner with a message while a block takes its time; nothing where nobody looks."""
    return err.status(message)


def print_json(value: Any) -> None:
    """One JSON document on stdout, and nothing else there."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def table(*columns: str, title: str | None = None) -> Table:
    """A plain table; a column whose name starts with > is aligned to the right."""
    made = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        right = column.startswith(">")
        made.add_column(
            column.removeprefix(">"), justify="right" if right else "left", overflow="fold"
        )
    return made
