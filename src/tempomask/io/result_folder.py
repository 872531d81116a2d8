"""What a folder of results must not take the place of: input, and files that no run wrote."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tempomask.errors import InputError
from tempomask.io.journal import read_header

JOURNAL = "frames.jsonl"


def check_folder(
    directory: str | Path, names: Iterable[str], inputs: Iterable[str | Path] = ()
) -> None:
    """InputError if results in `directory` would overwrite input, or what no run has written.

    names: of the files and folders that a run may write there. inputs: files and folders that are
    read, among them names that are no paths.
    """
    folder, names = Path(directory), list(names)
    if not folder.is_dir():
        return
    taken = [(folder / name).resolve() for name in names]
    for given in inputs:
        place = place_of(given)
        if place is None:
            continue
        path = Path(place)
        if path == folder.resolve() or any(path == part or part in path.parents for part in taken):
            raise InputError(
                f"results in {directory} would overwrite or mingle with the input {given}; choose"
                " another output folder"
            )
    if (folder / JOURNAL).exists():
        return
    for name in names:
        path = folder / name
        if any(path.iterdir()) if path.is_dir() else path.exists():
            raise InputError(
                f"{path} is there already and, without {JOURNAL} beside it, not known to be of an"
                " earlier run; move it away, or choose another output folder"
            )


def place_of(source: str | Path) -> str | None:
    """The whole path of a source that is a file or folder, None for any other."""
    path = Path(source).expanduser()
    return str(path.resolve()) if path.exists() else None


def holds_another(directory: Path, source: str) -> bool:
    """Whether a folder has the results of a run of another source than this one."""
    if not (directory / JOURNAL).exists():
        return False
    info, place = read_header(directory / JOURNAL), place_of(source)
    if info.source is not None and place is not None:
        return info.source != place
    return info.settings.get("source") != Path(source).name
