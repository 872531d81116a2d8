"""Writing files whole or not at all, and saying in one line why a file cannot be written."""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, ClassVar

from tempomask.errors import InputError
from tempomask.limits import check_limit
from tempomask.schema import parse_json, shown

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
    part.unlink(missing_ok=True)  # a link there would lead the writing elsewhere
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
        # A name on disk need not be text; what stands for its bytes is escaped as JSON has it.
        part.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


def write_csv(path: str | Path, header: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """A CSV file that appears whole; InputError if it cannot be written."""
    with (
        write_errors(path),
        replacing(path) as part,
        # A name on disk need not be text in UTF-8.
        part.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def read_file(path: str | Path, what: str) -> bytes:
    """The content of a file; InputError, which calls it `what`, if it is none or too large."""
    path = Path(path)
    try:
        check_regular(path, what)
        check_limit("file_bytes", path.stat().st_size, f"{what} {path}")
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: no name of a file at all
        if isinstance(error, InputError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot read {what} {path}: {reason}") from None


def check_regular(path: str | Path, what: str) -> None:
    """InputError for what is there and no file: reading a pipe would wait for ever."""
    path = given_path(path)
    if not path.is_file() and path.exists():
        raise InputError(f"{what} {path} is not a file")


def read_text(path: str | Path, what: str) -> str:
    """The text in a file; InputError, which calls it `what`, if there is none."""
    try:
        return read_file(path, what).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{what} {path} is not text in UTF-8") from None


def read_json(path: str | Path, what: str, schema: Any = object) -> Any:
    """The value in a JSON file of a schema; InputError, which calls it `what`, for all else."""
    return parse_json(read_file(path, what), f"{what} {path}", schema)


def part_path(path: Path) -> Path:
    """The hidden name under which `path` is written until it is whole."""
    return path.with_name(f".{path.name}.part")


def absolute_path(source: str | Path) -> Path | None:
    """Of a source that is a file or folder; None for any other, such as a camera."""
    path = given_path(source)
    return path.resolve() if path.exists() else None


def given_path(text: str | Path) -> Path:
    """The path that a person means: as it stands if it is there, else with ~ for their home.

    Raises:
        InputError: No file can be called so.
    """
    if text == "":  # of a variable that is not set; a path would stand for this folder
        raise InputError("an empty name is no file or folder; write . for this folder")
    path = Path(text)
    try:
        if "\0" in str(path):  # which some versions of Python take for a path that is not there
            raise ValueError("embedded null byte")
        return path if path.exists() else path.expanduser()
    except RuntimeError:  # ~ and a name, but of no user
        return path
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"no file can be called {shown(str(path))}: {reason}") from None


@contextmanager
def write_errors(place: str | Path) -> Iterator[None]:
    """Turn an OSError of the block into an InputError that names `place` and the remedy."""
    try:
        yield
    except OSError as error:
        raise InputError(_explain(error, place)) from error


def make_folder(folder: str | Path, *inside: str) -> Path:
    """The folder, made with its parents if need be.

    Args:
        folder: That a person named.
        inside: Names in it that are to be written, see `check_links`.

    Raises:
        InputError: It is a file or not writable, or something inside leads out of it.
    """
    folder = Path(folder)
    given_path(folder)
    check_links(folder, inside)
    for part in (folder, *folder.parents):
        if part.exists() and not part.is_dir():
            raise InputError(f"output folder {folder}: {part} is a file; choose another folder")
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        # Permission bits do not tell (root, network shares, full disks); trying does.
        probe = part_path(folder / "probe")
        probe.unlink(missing_ok=True)
        try:
            probe.write_bytes(b"tempomask")
        finally:
            probe.unlink(missing_ok=True)
    return folder


def check_links(folder: Path, names: Iterable[str]) -> None:
    """Refuse links out of a folder, by which its results would be written or removed elsewhere.

    Args:
        folder: That a person named.
        names: Of files and folders in it that are written, with all that is in them.

    Raises:
        InputError: One is there.
    """
    left = [folder / name for name in names]
    while left:
        path = left.pop()
        check_link(path, folder)
        if path.is_dir() and not path.is_symlink():
            with os.scandir(path) as entries:
                left += [Path(e.path) for e in entries if e.is_symlink() or e.is_dir()]


def check_link(path: Path, folder: Path) -> None:
    """InputError if a path in a folder is a link that leads out of it."""
    inside = path == folder or not path.is_symlink()
    with suppress(RuntimeError):  # of a link that leads in a circle
        inside = inside or path.resolve().is_relative_to(folder.resolve())
    if not inside:
        raise InputError(
            f"{path} is a link that leads out of {folder}, and nothing is written through such;"
            " remove it, or name another output folder"
        )


class FolderLock:
    """A folder that one run writes to at a time; a run that ended holds nothing, however it did.

    Args:
        folder: That is there.
        name: Of the file that is locked; runs that lock others do not keep each other out.

    Raises:
        InputError: Another run, which is named, holds it.

    Attributes:
        last: The folder that this process held last.
    """

    last: ClassVar[Path | None] = None

    def __init__(self, folder: str | Path, name: str = ".tempomask.lock") -> None:
        self.path = Path(folder) / name
        if self.path.is_symlink():  # none of ours; what it leads to would be written over
            self.path.unlink()
        while True:
            file = self.path.open("a+b")
            if not _lock(file):
                file.seek(0)
                holder = file.read(20).decode("ascii", "replace").strip()
                file.close()
                raise InputError(
                    f"another run{f' (process {holder})' * bool(holder)} is writing to {folder};"
                    " wait for it, or choose another output folder"
                )
            with suppress(OSError):  # a run that ended just now may have removed the file
                if os.path.samestat(os.fstat(file.fileno()), self.path.stat()):
                    break
            file.close()
        self._file, FolderLock.last = file, Path(folder)
        with suppress(OSError):
            file.truncate(0)
            file.write(str(os.getpid()).encode())
            file.flush()

    def release(self) -> None:
        """Let others in. Harmless when it is done twice."""
        if not self._file.closed:
            with suppress(OSError):
                self.path.unlink(missing_ok=True)
            self._file.close()


def _lock(file: IO[bytes]) -> bool:
    """Lock an open file for this process; False if another has it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(1000)  # past the text, which others may read
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        # A file system without locks is no reason to refuse.
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK)
    return True


def _explain(error: OSError, place: str | Path) -> str:
    if error.errno in _FULL:
        return f"no space left to write {place}; free some space or choose another output folder"
    if error.errno in _FORBIDDEN:
        reason = error.strerror or "permission denied"
        return f"{place} is not writable ({reason}); choose another output folder"
    return f"cannot write {place}: {error.strerror or error}"
