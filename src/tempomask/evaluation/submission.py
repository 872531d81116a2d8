"""The zip that a benchmark's server takes: named beforehand, written whole or not at all."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tempomask.errors import InputError
from tempomask.files import replacing, write_errors


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
