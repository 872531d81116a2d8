"""The record of a run of instance segmentation, `frames.jsonl`: one line per finished frame.

A line holds the instances of its frame: track id, class, score, box, area and mask (COCO run-length
encoding), and which decoder layers ran. Resuming and all exports are made from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tempomask.errors import InputError
from tempomask.frames import Size
from tempomask.io.journal import JournalFile, read_header
from tempomask.results import InstanceResult
from tempomask.rle import RLE, decode_masks, encode_rle

# In the settings of the header, so that runs of `track` and of `instances` are told apart.
TASK = "instances"


@dataclass(frozen=True, eq=False)
class InstanceRecord:
    """One finished frame, as read back: as `InstanceResult`, with encodings and areas (N,)."""

    index: int
    size: Size
    track_ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    scores: NDArray[np.float32]
    boxes: NDArray[np.float32]
    areas: NDArray[np.int64]
    encodings: tuple[RLE, ...]
    layers: NDArray[np.bool_]
    classes: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The class name of each instance."""
        return tuple(self.classes[label] for label in self.labels)

    @cached_property
    def masks(self) -> NDArray[np.bool_]:
        """bool (N, H, W)."""
        return decode_masks(self.encodings, self.size)


class InstanceJournal(JournalFile):
    """The journal of a run of instance segmentation; its settings have `task` and `classes`."""

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.info.settings["classes"])

    def add(self, result: InstanceResult) -> None:
        """Write the line of one frame, whole or not at all."""
        self.add_line(result.index, _frame_line(result))

    def records(self) -> Iterator[InstanceRecord]:
        """All frames, in the order of the video."""
        for index in sorted(self.finished):
            yield self.record(index)

    def record(self, index: int) -> InstanceRecord:
        """One frame; KeyError if it is not finished."""
        return _record(self.line(index), self.info.size, self.classes)


def open_instance_journal(path: str | Path) -> InstanceJournal:
    """The journal of an earlier run, to read its records; InputError if it is none of instances."""
    info = read_header(path)
    if info.settings.get("task") != TASK:
        raise InputError(
            f"{path} is of a run of `tempomask track`; choose another output folder for instances"
        )
    return InstanceJournal(path, info, resume=True)


def _frame_line(result: InstanceResult) -> dict[str, Any]:
    instances = [
        {
            "id": int(track_id),
            "label": int(label),
            "score": round(float(score), 4),
            "box": [float(side) for side in box],
            "area": int(np.count_nonzero(mask)),
            "rle": encode_rle(mask)["counts"],
        }
        for track_id, label, score, box, mask in zip(
            result.track_ids, result.labels, result.scores, result.boxes, result.masks, strict=True
        )
    ]
    layers = "".join("1" if ran else "0" for ran in result.layers)
    return {"frame": result.index, "layers": layers, "instances": instances}


def _record(line: dict[str, Any], size: Size, classes: tuple[str, ...]) -> InstanceRecord:
    items = line["instances"]
    return InstanceRecord(
        index=line["frame"],
        size=size,
        track_ids=np.array([item["id"] for item in items], dtype=np.int64),
        labels=np.array([item["label"] for item in items], dtype=np.int64),
        scores=np.array([item["score"] for item in items], dtype=np.float32),
        boxes=np.array([item["box"] for item in items], dtype=np.float32).reshape(-1, 4),
        areas=np.array([item["area"] for item in items], dtype=np.int64),
        encodings=tuple(RLE(size=list(size), counts=item["rle"]) for item in items),
        layers=np.array([mark == "1" for mark in line["layers"]], dtype=bool),
        classes=classes,
    )
