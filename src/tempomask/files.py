"""Writing files whole or not at all, and saying in one line why a file cannot be written."""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tempomask.errors import InputError

_FULL = {errno.ENOSPC, errno.EDQUOT}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`; renamed to it at the end, removed if the block fails.

    >>> with replacing(folder / "scores.csv") as part:  # doctest: +SKIP
    ...     part.write_text("frame,score")
    """
    path = Path(path)
    part = part_path(path)
    try:
        yield part
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


@contextmanager
def replacing_folder(path: str | Path) -> Iterator[Path]:
    """A new folder beside `path`, put in its place at the end, removed if the block fails."""
    path = Path(path)
    part = part_path(path)
    shutil.rmtree(part, ignore_errors=True)
    make_folder(part)
    try:
        yield part
        with write_errors(path):
            if path.exists():
                shutil.rmtree(path)
            part.rename(path)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def write_json(path: str | Path, value: Any, default: Callable[[Any], Any] | None = None) -> None:
    """A JSON file that appears whole; InputError if it cannot be written.

    Args:
        path: Of the file.
        value: That JSON can hold.
        default: What to write for a value that JSON has no form for, a path for instance.
    """
    text = json.dumps(value, indent=2, default=default, ensure_ascii=False)
    with write_errors(path), replacing(path) as part:
        part.write_text(text + "\n", encoding="utf-8")


def write_csv(path: str | Path, header: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """A CSV file that appears whole; InputError if it cannot be written."""
    with (
        write_errors(path),
        replacing(path) as part,
        part.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def read_json(path: str | Path, what: str) -> Any:
    """The parsed file; InputError, which calls it `what`, if it is not there or no JSON."""
    try:
        return json.loads(Path(path).read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {what} {path}: {error.strerror or error}") from None
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}; the file may be cut off") from None


def part_path(path: Path) -> Path:
    """The hidden name under which `path` is written until it is whole."""
    return path.with_name(f".{path.name}.part")


def absolute_path(source: str | Path) -> Path | None:
    """Of a source that is a file or folder; None for any other, such as a camera."""
    path = Path(source).expanduser()
    return path.resolve() if path.exists() else None


@contextmanager
def write_errors(place: str | Path) -> Iterator[None]:
    """Turn an OSError of the block into an InputError that names `place` and the remedy."""
    try:
        yield
    except OSError as error:
        raise InputError(_explain(error, place)) from error


def make_folder(folder: str | Path) -> Path:
    """The folder, made with its parents if need be; InputError if it is a file or not writable."""
    folder = Path(folder)
    for part in (folder, *folder.parents):
        if part.exists() and not part.is_dir():
            raise InputError(f"output folder {folder}: {part} is a file; choose another folder")
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        # Permission bits do not tell (root, network shares, full disks); trying does.
        probe = part_path(folder / "probe")
        try:
            probe.write_bytes(b"tempomask")
        finally:
            probe.unlink(missing_ok=True)
    return folder


def _explain(error: OSError, place: str | Path) -> str:
    if error.errno in _FULL:
        return f"no space left to write {place}; free some space or choose another output folder"
    if error.errno in _FORBIDDEN:
        reason = error.strerror or "permission denied"
        return f"{place} is not writable ({reason}); choose another output folder"
    return f"cannot write {place}: {error.strerror or error}"
