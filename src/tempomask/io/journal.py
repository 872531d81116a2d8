"""The record of a run, `frames.jsonl`: one line per finished frame, from which the rest is made.

The first line describes the video; every other line holds one frame: ids, scores, boxes and masks
(COCO run-length encoding), and which encoder blocks ran. A line is written when everything else of
its frame is on disk, so the file tells which frames are finished, whatever stopped the run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tempomask.errors import InputError
from tempomask.files import replacing
from tempomask.frames import Size
from tempomask.results import FrameResult
from tempomask.rle import RLE, decode_masks, encode_rle

_VERSION = 1


@dataclass(frozen=True)
class VideoInfo:
    """What a run was about: size (H, W), frame rate and number of frames where known, names of
    objects by id, and settings that must not change when a run is resumed. source: where the frames
    are, if they are a file or folder.
    """

    size: Size
    fps: float | None = None
    num_frames: int | None = None
    names: Mapping[int, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    source: str | None = None


@dataclass(frozen=True, eq=False)
class FrameRecord:
    """One finished frame, as read back: index, size (H, W), ids (N), and per object the mask's
    encoding, box, score (logit), predicted IoU and area in pixels; blocks bool (L,). name: of the
    source's image, None where frames have no names.
    """

    index: int
    size: Size
    object_ids: tuple[int, ...]
    encodings: tuple[RLE, ...]
    boxes: NDArray[np.float32]
    object_scores: NDArray[np.float32]
    predicted_iou: NDArray[np.float32]
    areas: NDArray[np.int64]
    blocks: NDArray[np.bool_]
    name: str | None = None

    @cached_property
    def masks(self) -> NDArray[np.bool_]:
        """bool (N, H, W)."""
        return decode_masks(self.encodings, self.size)

    def label_map(self) -> NDArray[np.int32]:
        """int32 (H, W); where masks overlap, the later object's id."""
        labels = np.zeros(self.size, dtype=np.int32)
        for object_id, mask in zip(self.object_ids, self.masks, strict=True):
            labels[mask] = object_id
        return labels


class JournalFile:
    """The lines of one run, whatever they say of a frame, being written or read.

    resume: go on with the journal that is there; else a new one takes its place once it has begun.
    Raises InputError if the one that is there is of another video or other settings, or no journal.
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

    def begin(self) -> None:
        """Take the place of an earlier run's journal, if that has not been done."""
        if self._end == 0:
            with replacing(self.path) as part:
                part.write_text(_dump(_header(self.info)), encoding="utf-8")
            self._end = self.path.stat().st_size

    def add_line(self, index: int, content: dict[str, Any]) -> None:
        """Write the line of one frame, whole or not at all; `content` has its index as "frame"."""
        self.begin()
        if self._file is None:
            # Unbuffered: of a line that does not fit on the disk, nothing is left to be written.
            self._file = FileIO(self.path, "r+")
            self._file.truncate(self._end)
            self._file.seek(self._end)
        line = _dump(content).encode()
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            self._file.truncate(self._end)
            self._file.seek(self._end)
            raise
        self._lines[index] = self._end
        self._end += len(line)

    def line(self, index: int) -> dict[str, Any]:
        """The content of a frame's line; KeyError if it is not finished."""
        with self.path.open("rb") as file:
            file.seek(self._lines[index])
            return json.loads(file.readline())

    def close(self) -> None:
        """Close the file, if anything was written."""
        if self._file is not None:
            self._file.close()

    def _check_header(self) -> None:
        there = read_header(self.path)
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
        with self.path.open("rb") as file:
            file.readline()
            position = file.tell()
            while (line := file.readline()).endswith(b"\n"):
                try:
                    self._lines[int(json.loads(line)["frame"])] = position
                except (ValueError, KeyError, TypeError) as error:
                    raise InputError(
                        f"{self.path} is damaged at byte {position} ({error}); do not resume, or"
                        " choose another output folder"
                    ) from None
                position = file.tell()
        self._end = position


class Journal(JournalFile):
    """The journal of a tracking run: prompted objects, frame by frame."""

    def add(self, result: FrameResult, name: str | None = None) -> None:
        """Write the line of one frame, whole or not at all. name: of the source's image."""
        named = {} if name is None else {"name": name}
        self.add_line(result.index, {**_frame_line(result), **named})

    def records(self) -> Iterator[FrameRecord]:
        """All frames, in the order of the video."""
        for index in sorted(self._lines):
            yield self.record(index)

    def record(self, index: int) -> FrameRecord:
        """One frame; KeyError if it is not finished."""
        return _record(self.line(index), self.info.size)


def read_header(path: str | Path) -> VideoInfo:
    """What the journal at `path` says of its video; InputError if it is no journal."""
    try:
        with Path(path).open("rb") as file:
            header = json.loads(file.readline())
        if header["tempomask"] != _VERSION:
            raise ValueError(f"format {header['tempomask']!r}")
        height, width = header["size"]
        return VideoInfo(
            size=(int(height), int(width)),
            fps=header["fps"],
            num_frames=header["num_frames"],
            names={int(key): name for key, name in header["names"].items()},
            settings=header["settings"],
            source=header.get("source"),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is no record of finished frames ({error}); delete it, or choose another output"
            " folder"
        ) from None


def open_journal(path: str | Path) -> Journal:
    """The journal of an earlier run, to read its records; InputError if it is none."""
    return Journal(path, read_header(path), resume=True)


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


def _frame_line(result: FrameResult) -> dict[str, Any]:
    objects = [
        {
            "id": object_id,
            "score": round(float(score), 4),
            "predicted_iou": round(float(iou), 4),
            "box": [float(side) for side in box],
            "area": int(np.count_nonzero(mask)),
            "rle": encode_rle(mask)["counts"],
        }
        for object_id, score, iou, box, mask in zip(
            result.object_ids,
            result.object_scores,
            result.predicted_iou,
            result.boxes,
            result.masks,
            strict=True,
        )
    ]
    blocks = "".join("1" if ran else "0" for ran in result.blocks)
    return {"frame": result.index, "blocks": blocks, "objects": objects}


def _record(line: dict[str, Any], size: Size) -> FrameRecord:
    objects = line["objects"]
    return FrameRecord(
        index=line["frame"],
        size=size,
        object_ids=tuple(item["id"] for item in objects),
        encodings=tuple(RLE(size=list(size), counts=item["rle"]) for item in objects),
        boxes=np.array([item["box"] for item in objects], dtype=np.float32).reshape(-1, 4),
        object_scores=np.array([item["score"] for item in objects], dtype=np.float32),
        predicted_iou=np.array([item["predicted_iou"] for item in objects], dtype=np.float32),
        areas=np.array([item["area"] for item in objects], dtype=np.int64),
        blocks=np.array([mark == "1" for mark in line["blocks"]], dtype=bool),
        name=line.get("name"),
    )


def _dump(line: dict[str, Any]) -> str:
    return json.dumps(line, separators=(",", ":"), default=str) + "\n"
