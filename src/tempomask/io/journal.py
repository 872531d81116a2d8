"""The record of a run, `frames.jsonl`: one line per finished frame, from which the rest is made.

The first line describes the video; every other line holds one frame: ids, scores, boxes and masks
(COCO run-length encoding), and which encoder blocks ran; of instances also their classes, and which
decoder layers ran. A line is written when everything else of its frame is on disk, so the file
tells which frames are finished, whatever stopped the run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tempomask.errors import InputError
from tempomask.files import absolute_path, check_regular, replacing
from tempomask.frames import Size
from tempomask.io.records import INSTANCES, TRACK, FrameRecord, line_of, read_line
from tempomask.limits import check_limit, limits
from tempomask.schema import one_of, parse_json, whole

if TYPE_CHECKING:
    from tempomask.io.sources import Video

_VERSION = 1
# What the first line holds, see `schema`.
HEADER = {
    "tempomask": one_of(_VERSION),
    "size": [whole(1), whole(1)],
    "fps": (float, None),
    "num_frames": (whole(1), None),
    "names": {str: str},
    "settings": {"task?": one_of(TRACK, INSTANCES), "classes?": [str]},
    "source?": (str, None),
}


@dataclass(frozen=True)
class VideoInfo:
    """What a run was about.

    Attributes:
        size: (H, W) in pixels.
        fps: Frames per second; None where the source has no clock.
        num_frames: Of the video; None where unknown.
        names: Of objects by id.
        settings: What must not change when a run is resumed. A run of instances has its `task` and
            its `classes` there.
        source: Where the frames are, if they are a file or folder.
    """

    size: Size
    fps: float | None = None
    num_frames: int | None = None
    names: Mapping[int, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    source: str | None = None

    @classmethod
    def of(
        cls, video: Video, settings: Mapping[str, Any], classes: tuple[str, ...] | None = None
    ) -> Self:
        """Of a run through an open video. classes: names of labels, of a run of instances."""
        if classes is not None:
            settings = {"task": INSTANCES, "classes": list(classes), **settings}
        path = absolute_path(video.name)
        source = None if path is None else str(path)
        return cls(video.size, video.fps, video.num_frames, settings=settings, source=source)

    @property
    def task(self) -> str:
        """`track` or `instances`."""
        return self.settings.get("task", TRACK)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names that labels point to; none for tracked objects."""
        return tuple(self.settings.get("classes", ()))


class Journal:
    """The lines of one run, being written or read.

    Args:
        path: Of the file.
        info: What the run is about.
        resume: Go on with the journal that is there; else a new one takes its place once it has
            begun.

    Raises:
        InputError: If the one that is there is of another video or other settings, or no journal.
    """

    def __init__(self, path: str | Path, info: VideoInfo, resume: bool = False) -> None:
        self.path = Path(path)
        self.info = info
        # Where in the file the line of each frame starts; a frame done twice has its last line.
        self._lines: dict[int, int] = {}
        if resume and self.path.exists():
            self._check_header()
            self._find_lines()
        else:
            self._end = 0
        self._file: FileIO | None = None

    @property
    def begun(self) -> bool:
        """Whether the file is this run's, and not yet that of an earlier one."""
        return self._end > 0

    @property
    def finished(self) -> set[int]:
        """Indices of the frames in the journal."""
        return set(self._lines)

    @property
    def length(self) -> int:
        """Frames of the video; if that is unknown, up to the last finished one."""
        return max(self.info.num_frames or 0, 1 + max(self._lines, default=-1))

    def begin(self) -> None:
        """Take the place of an earlier run's journal, if that has not been done."""
        if self._end == 0:
            with replacing(self.path) as part:
                part.write_text(_dump(_header(self.info)), encoding="utf-8")
            self._end = self.path.stat().st_size

    def add(self, record: FrameRecord) -> None:
        """Write the line of one frame, whole or not at all."""
        self.begin()
        if self._file is None:
            # Unbuffered: of a line that does not fit on the disk, nothing is left to be written.
            self._file = FileIO(self.path, "r+")
            self._file.truncate(self._end)
            self._file.seek(self._end)
        line = _dump(line_of(record, self.info.task)).encode()
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            self._file.truncate(self._end)
            self._file.seek(self._end)
            raise
        self._lines[record.index] = self._end
        self._end += len(line)

    def record(self, index: int) -> FrameRecord:
        """One frame; KeyError if it is not finished."""
        position, info = self._lines[index], self.info
        with self.path.open("rb") as file:
            file.seek(position)
            line = file.readline()
        try:
            return read_line(line, info.task, info.size, info.classes)
        except InputError as error:
            raise self._damaged(position, error) from None

    def records(self) -> Iterator[FrameRecord]:
        """All frames, in the order of the video."""
        for index in sorted(self._lines):
            yield self.record(index)

    def close(self) -> None:
        """Close the file, if anything was written."""
        if self._file is not None:
            self._file.close()

    def _check_header(self) -> None:
        there = read_header(self.path, self.info.task)
        if there.size != self.info.size:
            raise InputError(
                f"{self.path.parent} holds results for a video of {there.size[1]} x"
                f" {there.size[0]} pixels, this one has {self.info.size[1]} x {self.info.size[0]};"
                " choose another output folder, or do not resume"
            )
        before, now = dict(there.settings), json.loads(_dump(dict(self.info.settings)))
        for key in sorted({*before, *now}):
            if before.get(key) != now.get(key):
                raise InputError(
                    f"{self.path.parent} was made with {key}={before.get(key)!r}, this run has"
                    f" {now.get(key)!r}; use the same, another output folder, or do not resume"
                )

    def _find_lines(self) -> None:
        """Note where each frame's line starts; a last line that was not finished does not count."""
        last = whole(0, (self.info.num_frames or 2**31) - 1)
        with self.path.open("rb") as file:
            file.readline()
            position = file.tell()
            while (line := file.readline(limits().line_bytes)).endswith(b"\n"):
                try:
                    self._lines[parse_json(line, "its line", {"frame": last})["frame"]] = position
                except InputError as error:
                    raise self._damaged(position, error) from None
                position = file.tell()
        if line:
            check_limit("line_bytes", len(line) + 1, f"{self.path}: a line")
        self._end = position

    def _damaged(self, position: int, error: Exception) -> InputError:
        return InputError(
            f"{self.path} is damaged at byte {position} ({error}); do not resume, or choose another"
            " output folder"
        )


def open_journal(path: str | Path, task: str | None = None) -> Journal:
    """The journal of an earlier run, to read its records; InputError as in `read_header`."""
    return Journal(path, read_header(path, task), resume=True)


def read_header(path: str | Path, task: str | None = None) -> VideoInfo:
    """What the journal at `path` says of its video.

    Raises:
        InputError: If it is not a journal, or of another task than `task`.
    """
    check_regular(path, "the record")
    try:
        with Path(path).open("rb") as file:
            header = parse_json(file.readline(limits().line_bytes), "its header", HEADER)
        height, width = header["size"]
        check_limit("pixels", height * width, "its frame")
        info = VideoInfo(
            size=(height, width),
            fps=header["fps"],
            num_frames=header["num_frames"],
            names={int(key): name for key, name in header["names"].items()},
            settings=header["settings"],
            source=header.get("source"),
        )
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} is not a record of finished frames ({error}); delete it, or choose another"
            " output folder"
        ) from None
    if task not in (None, info.task):
        raise InputError(
            f"{path} is of a run of `tempomask {info.task}`; choose another output folder for"
            f" results of {task}"
        )
    return info


def _header(info: VideoInfo) -> dict[str, Any]:
    return {
        "tempomask": _VERSION,
        "size": list(info.size),
        "fps": info.fps,
        "num_frames": info.num_frames,
        "names": {str(key): name for key, name in info.names.items()},
        "settings": dict(info.settings),
        "source": info.source,
    }


def _dump(line: dict[str, Any]) -> str:
    return json.dumps(line, separators=(",", ":"), default=str) + "\n"
