"""What the commands share in talking to a person: results on stdout, all else on stderr."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.status import Status
from rich.table import Table

from tempomask.errors import InputWarning

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


def show_warning(message: Warning | str, kind: type[Warning], *place: Any) -> None:
    """Take the place of `warnings.showwarning`: ours in one line, others as they are."""
    if issubclass(kind, InputWarning):
        err.print(f"warning: {message}", style="yellow", soft_wrap=True)
    else:
        sys.stderr.write(warnings.formatwarning(message, kind, *place[:2]))


def waiting(message: str) -> Status:
    """A spinner with a message while a block takes its time; nothing where nobody looks."""
    return err.status(message)


def bars(unit: str = "") -> Progress:
    """Progress bars on stderr that count; unit: what, with a space before it."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}" + unit),
        TimeElapsedColumn(),
        console=err,
    )


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


def speed_of(report: Mapping[str, Any]) -> str:
    """How fast a run was, to follow its count of frames."""
    fps = report["fps"]
    return "" if fps is None else f" in {report['seconds']:.1f} s, {fps:.1f} FPS"


def stop_of(report: Mapping[str, Any], remedy: str = "--resume goes on") -> str:
    """Whether a run was stopped, and what then, to end a sentence about it."""
    return f", stopped by Ctrl-C; {remedy}" if report["interrupted"] else ""


def conclude(
    report: Mapping[str, Any],
    files: Mapping[str, Path],
    as_json: bool,
    show: Callable[[Mapping[str, Any]], None],
) -> int:
    """The end of a run: its report, its files, and the exit code that says whether it was stopped.

    show: prints the report for a person.
    """
    if as_json:
        print_json({**report, "files": {name: str(path) for name, path in files.items()}})
    else:
        show(report)
        width = max((8, *map(len, files)))
        for name, path in sorted(files.items()):
            out.print(f"{name:{width}} {path}", soft_wrap=True)
    return INTERRUPTED if report["interrupted"] else 0
