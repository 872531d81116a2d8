"""Zips as a benchmark's server takes them: written whole or not at all, or read to be scored."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tempomask.errors import InputError
from tempomask.files import check_regular, replacing, write_errors
from tempomask.limits import check_limit


@dataclass(frozen=True)
class SubmissionFile:
    """The zip for a benchmark's server: its path, and the one folder at its root ("" for none)."""

    path: Path
    top: str = ""

    def __post_init__(self) -> None:
        if self.path.suffix != ".zip":
            raise InputError(f"--submission {self.path} must end in .zip")
        if not self.path.absolute().parent.is_dir():
            raise InputError(f"no such folder: {self.path.parent}; make it, or name another")

    def check(self, flaws: Mapping[str, str]) -> None:
        """InputError, with the first flaw, if something had to be left out."""
        if flaws:
            raise InputError(
                f"{self.path} is not written, as a server takes whole sets only:"
                f" {next(iter(flaws.values()))}"
            )

    @contextmanager
    def writing(self, compression: int = zipfile.ZIP_STORED) -> Iterator[zipfile.ZipFile]:
        """The open zip, which appears when the block ends; InputError if it cannot be written."""
        with (
            write_errors(self.path),
            replacing(self.path) as part,
            zipfile.ZipFile(part, "w", compression) as archive,
        ):
            yield archive


class ReceivedZip:
    """A zip that somebody made for a server.

    Args:
        path: Of the zip.

    Raises:
        InputError: It is none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        check_regular(path, "the zip")
        with self._open() as archive:
            self.sizes = {i.filename: i.file_size for i in archive.infolist() if not i.is_dir()}

    def needs_root(self, found: bool, wanted: str, remedy: str) -> None:
        """InputError, which tells what is at the root, unless what is wanted was found there."""
        if not found:
            roots = sorted({PurePosixPath(name).parts[0] for name in self.sizes})
            shown = ", ".join(roots[:3]) + (", ..." if len(roots) > 3 else "")
            raise InputError(
                f"{self.path} has {shown or 'nothing'} at its root, where the server looks for"
                f" {wanted}; {remedy}"
            )

    def read(self, name: str) -> bytes:
        """A file in it; InputError if it is too large or damaged."""
        check_limit("file_bytes", self.sizes[name], f"{self.path}: {name}")
        with self._open() as archive:
            return archive.read(name)

    @contextmanager
    def _open(self) -> Iterator[zipfile.ZipFile]:
        try:
            with zipfile.ZipFile(self.path) as archive:
                yield archive
        except (OSError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            raise InputError(f"cannot read the zip {self.path}: {error}") from None
