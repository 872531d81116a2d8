"""What every writer of a run's folder does: a thread behind the caller, and an end that is whole.

`writers.py` writes tracked objects and `instance_writer.py` instances of known classes with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Generic, Self, TypeVar

from tempomask.errors import InputError
from tempomask.files import write_errors
from tempomask.frames import Size
from tempomask.io.journal import JournalFile
from tempomask.io.result_folder import JOURNAL
from tempomask.io.video_writer import VideoWriter
from tempomask.io.writer_thread import WriterThread

JournalT = TypeVar("JournalT", bound=JournalFile)


def check_formats(formats: Iterable[str], known: Iterable[str]) -> frozenset[str]:
    """The formats asked for; InputError for one that is not known."""
    chosen = frozenset([formats] if isinstance(formats, str) else formats)
    for name in sorted(chosen - set(known)):
        raise InputError(f"unknown format {name!r}; choose from {', '.join(known)}")
    return chosen


class FolderWriter(Generic[JournalT]):
    """Finishes a folder of results, also after an error or Ctrl-C. A subclass sets the attributes.

    file_names: what each format is called on disk. formats: those asked for.
    """

    file_names: Mapping[str, str]
    formats: frozenset[str]
    directory: Path
    _new_folder: bool
    _journal: JournalT
    _overlay: VideoWriter
    _background: WriterThread
    _paths: dict[str, Path] | None = None

    def finish(self) -> dict[str, Path]:
        """Write what is still to be written; the paths by format, without formats left empty.

        Raises InputError for what went wrong; what could be written is there all the same.
        """
        if self._paths is not None:
            return self._paths
        self._paths = {}
        errors: list[Exception] = []
        try:
            for step in (self._background.finish, self._write_exports, self._finish_overlay):
                try:
                    with write_errors(self.directory):
                        step()
                except Exception as error:
                    errors.append(error)
        finally:  # also when Ctrl-C comes here
            self._overlay.discard()
            self._journal.close()
        names = {**{name: self.file_names[name] for name in self.formats}, "frames": JOURNAL}
        for name, file in names.items():
            path = self.directory / file
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
            if path.exists():
                self._paths[name] = path
        if not self._journal.finished:
            # What is there is an earlier run's, or of a first frame that could not be finished.
            if self._journal.begun and set(self._paths) == {"frames"}:
                self._journal.path.unlink()
            self._paths = {}
        if self._new_folder and not any(self.directory.iterdir()):
            self.directory.rmdir()
        if errors:
            raise errors[0]
        return self._paths

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.finish()
            return
        try:
            self.finish()
        except InputError as second:
            if str(second) != str(error):
                error.add_note(str(second))

    def _path(self, name: str) -> Path:
        return self.directory / self.file_names[name]

    def _check_open(self, size: Size) -> None:
        """InputError for a result of another size, or one that comes after the end."""
        if self._paths is not None:
            raise InputError(f"the results in {self.directory} are finished; open a new writer")
        height, width = self._journal.info.size
        if size != (height, width):
            raise InputError(
                f"a result of {size[1]} x {size[0]} pixels among results of {width} x"
                f" {height}; write each video to a folder of its own"
            )

    def _write_exports(self) -> None:
        """Write the files that are made from the journal at the end."""
        raise TypeError(f"{type(self).__name__} must implement _write_exports")

    def _finish_overlay(self) -> None:
        """Draw what the overlay still lacks, and close it."""
        raise TypeError(f"{type(self).__name__} must implement _finish_overlay")
