"""What the commands share in talking to a person: results on stdout, all else on stderr."""

from __future__ import annotations

import errno
import json
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from tempomask import progress
from tempomask.errors import InputWarning, one_line
from tempomask.files import FolderLock
from tempomask.progress import Bars, Waiting, err

INTERRUPTED = 130  # what shells expect after Ctrl-C
BAD_INPUT = 2
FAILED = 1  # what nobody foresaw, and output that could not be written
REPORT = "see SECURITY.md"
_verbose = False

# Where nobody looks at a terminal (a pipe, a file), lines are not folded at 80 columns.
_WIDTH = None if sys.stdout and sys.stdout.isatty() else 160

out = Console(highlight=False, markup=False, width=_WIDTH)


def open_streams() -> None:
    """Open what a shell has closed: Python would have None there, and a file of ours its number."""
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: SIM115
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115


def error(message: str) -> None:
    """One red line on stderr."""
    err.quiet = False
    line = f"error: {one_line(message)}"
    try:
        err.print(line, style="red", soft_wrap=True)
    except OSError:  # it imports when it first prints, and no file can be opened any more
        with suppress(OSError):  # or nothing can be written; the exit code tells all the same
            sys.stderr.write(f"{line}\n")


def note(message: str) -> None:
    """One line on stderr."""
    err.print(one_line(message), soft_wrap=True)


def unexpected(fault: BaseException) -> int:
    """The last resort: one line for an error that nobody foresaw, its traceback in a file.

    Returns:
        The exit code.
    """
    if isinstance(fault, BrokenPipeError):  # whoever read the output has seen enough
        return FAILED
    if isinstance(fault, OSError) and fault.errno is not None:
        where = f": {fault.filename}" if fault.filename else ""
        if fault.errno == errno.ENAMETOOLONG:  # said of any path, and never a fault of ours
            error(f"{fault.strerror}: {str(fault.filename)[:60]}...; give a shorter one")
            return BAD_INPUT
        error(f"{fault.strerror or type(fault).__name__}{where}; --traceback shows where from")
        return FAILED
    text = " ".join(str(fault).split())
    what = f"{type(fault).__name__}: {text}" if text else type(fault).__name__
    full = ("out of memory", "allocate memory", "not enough memory")
    if isinstance(fault, MemoryError) or any(words in text.lower() for words in full):
        error("out of memory; give smaller frames, fewer objects at once or a smaller model")
        return FAILED
    try:
        # With the results, if there are any.
        out = FolderLock.last if FolderLock.last and FolderLock.last.is_dir() else None
        with NamedTemporaryFile(
            "w", prefix="tempomask-", suffix=".txt", delete=False, dir=out
        ) as file:
            file.write("".join(traceback.format_exception(fault)))
        kept = f"its traceback is in {file.name}; please report it with that file ({REPORT})"
    except OSError:
        kept = f"--traceback shows where from; please report it ({REPORT})"
    error(f"unexpected {what[:300]}; {kept}")
    return FAILED


def show_warning(message: Warning | str, kind: type[Warning], *place: Any) -> None:
    """Take the place of `warnings.showwarning`: ours in one line, those of others if asked."""
    if issubclass(kind, InputWarning):
        # Also with --quiet: what is probably wrong is not told by a code.
        quiet, err.quiet = err.quiet, False
        err.print(f"warning: {one_line(str(message))}", style="yellow", soft_wrap=True)
        err.quiet = quiet
    elif _verbose:  # what libraries tell their developers
        sys.stderr.write(warnings.formatwarning(message, kind, *place[:2]))


def detail(message: str) -> None:
    """One line on stderr for those who asked with --verbose."""
    if _verbose:
        note(message)


def speak(quiet: bool, verbose: bool) -> None:
    """How much is said from now on: errors, warnings and JSON alone, as usual, or more."""
    global _verbose
    out.quiet = err.quiet = quiet
    _verbose, progress.EVERY = verbose, 5.0 if verbose else 30.0


def waiting(message: str) -> Waiting:
    """A spinner with a message while a block takes its time."""
    return Waiting(message)


def bars(unit: str = "") -> Bars:
    """Progress bars on stderr that count; unit: what, with a space before it."""
    return Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}" + unit),
        TimeElapsedColumn(),
    )


def print_json(value: Any) -> None:
    """One JSON document on stdout, and nothing else there."""
    print(json.dumps(value, indent=2, ensure_ascii=False), flush=True)


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
            out.print(f"{name:{width}} {one_line(str(path))}", soft_wrap=True)
    return INTERRUPTED if report["interrupted"] else 0
