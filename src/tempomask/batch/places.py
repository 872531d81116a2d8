"""Where the results of jobs go: a folder, or a place such as s3://bucket/results.

What fsspec can write to is a place; the package for it (s3fs, gcsfs, ...) is the user's. A job is
done in a folder of this machine first, so that it can go on after a crash; then its files are
written to the place and, last, the marker that says so.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from tempomask.errors import InputError
from tempomask.files import make_folder, read_file, replacing, write_errors


@dataclass(frozen=True)
class Place:
    """A folder of results.

    Attributes:
        root: The folder of all results, that is worked in.
        url: Of the place of all results; None if they stay in the folder.
        inner: Where in there this one is, with slashes.
    """

    root: Path
    url: str | None = None
    inner: str = ""

    @classmethod
    def of(cls, text: str) -> Place:
        """The place of all results: a path, or a URL that fsspec knows."""
        if "://" not in text:
            return cls(Path(text))
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        return cls(Path(gettempdir(), f"tempomask-{digest}"), text)

    def inside(self, path: Path) -> Place:
        """A place within that of all results."""
        return Place(self.root, self.url, path.as_posix())

    @property
    def folder(self) -> Path:
        """That is worked in. Made anew, as a million paths would fill the memory."""
        return self.root / self.inner

    def __str__(self) -> str:
        """For messages."""
        return str(self.folder) if self.url is None else self._path(self.url)

    def check(self) -> None:
        """InputError unless files can be written here."""
        make_folder(self.folder)
        if self.url is not None:
            self.write(".tempomask", [b"tempomask"])
            with self._files() as (files, root):
                files.rm_file(f"{root}/.tempomask")

    def read(self, name: str) -> bytes | None:
        """The content of a file; None if there is none."""
        if self.url is None:
            path = self.folder / name
            return read_file(path, "marker") if path.exists() else None
        with self._files() as (files, root):
            try:
                return files.cat_file(f"{root}/{name}")
            except FileNotFoundError:
                return None

    def write(self, name: str, parts: Iterable[bytes]) -> None:
        """A file that appears whole."""
        if self.url is None:
            path = make_folder(self.folder) / name
            with write_errors(path), replacing(path) as part, part.open("wb") as file:
                file.writelines(parts)
            return
        with self._files() as (files, root):
            files.makedirs(root, exist_ok=True)
            with files.transaction, files.open(f"{root}/{name}", "wb") as file:
                for part in parts:
                    file.write(part)

    def remove(self) -> None:
        """What an earlier run wrote here beyond this machine."""
        if self.url is not None:
            with self._files() as (files, root):
                if files.exists(root):
                    files.rm(root, recursive=True)

    def hand_over(self) -> None:
        """Write all files of the folder to the place."""
        if self.url is None:
            return
        with self._files() as (files, root):
            for path in sorted(self.folder.rglob("*")):
                if path.is_file() and not path.name.startswith("."):
                    target = f"{root}/{path.relative_to(self.folder).as_posix()}"
                    files.makedirs(target.rpartition("/")[0], exist_ok=True)
                    files.put_file(str(path), target)

    def tidy(self) -> None:
        """Remove the folder once all is elsewhere."""
        if self.url is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, root: str) -> str:
        return "/".join(filter(None, (root.rstrip("/"), self.inner)))

    @contextmanager
    def _files(self) -> Iterator[tuple[Any, str]]:
        """The file system and the path in it; what it raises is an InputError."""
        try:
            from fsspec.core import url_to_fs

            files, root = url_to_fs(self.url)
            yield files, self._path(root)
        # Each file system has errors of its own, of rights, of networks and of names.
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(f"{self}: {reason}") from error
