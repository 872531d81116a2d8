"""A list of jobs: a folder, a pattern, or a table whose columns are options of a command."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path, PurePosixPath
from typing import Any

from tempomask.batch.places import Place
from tempomask.errors import InputError, place, unknown_name
from tempomask.files import check_link, given_path, read_text
from tempomask.schema import parse_json, shown

# What a job's folder says about it: written when the job is done or has failed.
MARKER = "job.json"
_MARKER = {"words": [str], "error": (str, None), "report": (dict, None)}
_TABLES = (".jsonl", ".csv")
# Options that take the content of their file too.
_WRITTEN_OUT = ("prompts", "detections")


@dataclass(frozen=True)
class Job:
    """One call of a command.

    Attributes:
        name: The folder of its results, within that of all.
        where: In the list, for messages.
        words: The command line, without the folder.
        place: Where its results go.
    """

    name: str
    where: str
    words: tuple[str, ...]
    place: Place

    @property
    def out(self) -> Path:
        """The folder that it is done in."""
        return self.place.folder

    def marker(self) -> Mapping[str, Any] | None:
        """What an earlier run of the very same job left when it ended; None without one."""
        data = self.place.read(MARKER)
        if data is None:
            return None
        found = parse_json(data, f"marker {self.place}/{MARKER}", _MARKER)
        return found if found["words"] == list(self.words) else None

    def mark(self, report: dict[str, Any] | None = None, error: str | None = None) -> None:
        """Say where its results are that it is done, or why it failed."""
        marker = {"words": self.words, "error": error, "report": report}
        self.place.write(MARKER, [json.dumps(marker, indent=2, ensure_ascii=False).encode()])


def read_jobs(jobs: str, out: Place, flags: Mapping[str, bool], each: Sequence[str]) -> list[Job]:
    """The jobs of a folder of videos, a pattern, or a JSONL or CSV file.

    Args:
        jobs: As it was given.
        out: The place of all results.
        flags: The columns there may be besides `source` and `out`, and whether each is a flag.
        each: NAME=VALUE, for the jobs that do not say otherwise.

    Raises:
        InputError: For what is not a list of jobs, unknown columns, missing sources, and two jobs
            into one folder or one within the other.
    """
    common: dict[str, Any] = {}
    for text in each:
        name, _, value = text.partition("=")
        _check_name("--each", name, flags)
        common[name] = value
    found: dict[str, Job] = {}
    for where, row in _rows(jobs):
        with place(where):
            job = _job(where, {**common, **row}, out, flags)
            other = found.setdefault(job.name, job)
            if other is not job:
                raise InputError(
                    f"writes to {job.place}, as {other.where} does; give one of them another out"
                )
    if not found:
        raise InputError(f"{jobs} lists no job")
    for job in found.values():
        for above in PurePosixPath(job.name).parents:
            if other := found.get(str(above)):
                raise InputError(
                    f"{job.where} writes to {job.place}, inside the folder of {other.where}; give"
                    " one of them another out"
                )
    return list(found.values())


def _rows(jobs: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    path = given_path(jobs)
    if path.is_dir():
        sources = [item for item in sorted(path.iterdir()) if _is_source(item)]
        if not sources:
            raise InputError(f"{path} holds no video and no folder of images")
        yield from map(_of_file, sources)
    elif path.suffix.lower() in _TABLES:
        yield from (_jsonl if path.suffix.lower() == ".jsonl" else _csv)(path)
    elif any(c in jobs for c in "*?["):
        sources = [Path(item) for item in sorted(glob(str(path), recursive=True))]
        if not any(map(_is_source, sources)):
            raise InputError(f"{jobs} fits no video and no folder of images")
        yield from map(_of_file, filter(_is_source, sources))
    else:
        raise InputError(f"{jobs} is not a folder, pattern, .jsonl or .csv file of jobs")


def _is_source(path: Path) -> bool:
    from tempomask.io.images import IMAGE_SUFFIXES
    from tempomask.io.sources import VIDEO_SUFFIXES

    if path.is_dir():
        return any(item.suffix.lower() in IMAGE_SUFFIXES for item in path.iterdir())
    return path.suffix.lower() in VIDEO_SUFFIXES


def _of_file(path: Path) -> tuple[str, Mapping[str, Any]]:
    """The job of a video; prompts stand in a JSON file of the same name beside it, if any."""
    prompts = path.with_name(f"{path.name if path.is_dir() else path.stem}.json")
    row = {"source": str(path)}
    return str(path), row | ({"prompts": str(prompts)} if prompts.exists() else {})


def _jsonl(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, line in enumerate(read_text(path, "list of jobs").splitlines(), 1):
        if line.strip():
            where = f"{path} line {number}"
            yield where, parse_json(line, where, {str: object})


def _csv(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    text = io.StringIO(read_text(path, "list of jobs"), newline="")
    rows = csv.DictReader(text, restkey="", skipinitialspace=True)
    try:
        for row in rows:
            where = f"{path} line {rows.line_num}"
            if "" in row or None in row.values():
                raise InputError(f"{where} has not as many cells as the header")
            yield where, {name.strip(): cell or None for name, cell in row.items()}
    except csv.Error as error:
        raise InputError(f"{path} is not a CSV file: {error}") from None


def _job(where: str, row: Mapping[str, Any], out: Place, flags: Mapping[str, bool]) -> Job:
    options = {name: value for name, value in row.items() if value is not None}
    source, name = options.pop("source", None), options.pop("out", None)
    if not isinstance(source, str | int) or source == "":
        raise InputError("has no source; give the path of a video")
    source = str(source)
    path = given_path(source)
    if not (path.exists() or source.isdecimal() or "://" in source):
        raise InputError(f"no such file or folder: {source}; check the path")
    if not isinstance(name, str | None):
        raise InputError(f"out {shown(name)} is not a folder")
    name = name or (path.name if path.is_dir() else path.stem)
    inside = Path(name)
    if inside.is_absolute() or ".." in inside.parts or not inside.parts:
        raise InputError(f"out {name} is not within the folder of all results")
    given_path(out.folder / inside)
    for part in (inside, *inside.parents):
        check_link(out.folder / part, out.folder)
    words = [source]
    for option, value in options.items():
        _check_name("column", option, flags)
        words += _words(option, value, flags[option])
    return Job(inside.as_posix(), where, tuple(words), out.inside(inside))


def _check_name(what: str, name: str, flags: Iterable[str]) -> None:
    if name not in flags:
        raise unknown_name(f"unknown {what} {name!r}", name, ["source", "out", *flags])


def _words(option: str, value: Any, flag: bool) -> list[str]:
    """An option as it stands on a command line.

    >>> _words("point", [[1, 2], [3, 4]], False)
    ['--point=1,2', '--point=3,4']
    """
    name = f"--{option.replace('_', '-')}"
    if option in _WRITTEN_OUT and isinstance(value, list | dict):
        return [f"{name}={json.dumps(value, separators=(',', ':'))}"]
    if flag:
        known = {"true": True, "1": True, "false": False, "0": False, "": False}
        on = value if isinstance(value, bool) else known.get(str(value).lower())
        if on is None:
            raise InputError(f"{option} is {shown(value)}, not true or false")
        return [name] * on
    if isinstance(value, list) and value and isinstance(value[0], list):
        return [word for item in value for word in _words(option, item, False)]
    return [f"{name}={_cell(option, value)}"]


def _cell(option: str, value: Any) -> str:
    if isinstance(value, list):
        return ",".join(_cell(option, item) for item in value)
    if isinstance(value, bool | dict):
        raise InputError(f"{option} is {shown(value)}, not a number, text or a list of them")
    return value if isinstance(value, str) else json.dumps(value)
