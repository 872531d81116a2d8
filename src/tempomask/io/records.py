"""What is kept of a frame, of tracked objects and of instances alike, and its line in the journal.

N objects or instances, L encoder blocks or decoder layers.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tempomask.errors import InputError
from tempomask.frames import Size
from tempomask.limits import check_limit
from tempomask.results import FrameResult, InstanceResult
from tempomask.rle import RLE, decode_masks, encode_rle
from tempomask.schema import parse_json, plain_name, whole

Result = FrameResult | InstanceResult

TRACK, INSTANCES = "track", "instances"
# What a line calls its objects and its blocks, by task.
KEYS = {TRACK: ("objects", "blocks"), INSTANCES: ("instances", "layers")}
# What a line holds, see `schema`.
_ITEM = {
    "id": whole(-(2**63), 2**63 - 1),
    "label?": whole(),
    "score": float,
    "predicted_iou?": float,
    "box": [float] * 4,
    "area": whole(),
    "rle": (str, [whole()]),
}
FRAME = whole(0, 2**31)
LINE = {
    task: {"frame": FRAME, objects: [_ITEM], blocks: str, "name?": (plain_name, None)}
    for task, (objects, blocks) in KEYS.items()
}


@dataclass(frozen=True, eq=False)
class FrameRecord:
    """One finished frame, of tracked objects or of instances.

    Attributes:
        index: Of the frame.
        size: (H, W) in pixels.
        ids: Of the N objects or tracks.
        encodings: N masks, run-length encoded.
        boxes: float32 (N, 4), x0, y0, x1, y1 edges in pixels; zeros for an empty mask.
        scores: float32 (N,), an object score's logit (> 0 is present), of instances the
            probability of the class.
        predicted_iou: float32 (N,) in [0, 1]; NaN for instances.
        areas: int64 (N,), pixels of the masks.
        blocks: bool (L,), the encoder blocks that ran, of instances the decoder layers.
        name: Of the source's image; None where frames have no names.
        labels: int64 (N,), index in `classes`; -1 for tracked objects.
        classes: The names that labels point to.
    """

    index: int
    size: Size
    ids: tuple[int, ...]
    encodings: tuple[RLE, ...]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    predicted_iou: NDArray[np.float32]
    areas: NDArray[np.int64]
    blocks: NDArray[np.bool_]
    name: str | None = None
    labels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    classes: tuple[str, ...] = ()

    @cached_property
    def masks(self) -> NDArray[np.bool_]:
        """bool (N, H, W)."""
        return decode_masks(self.encodings, self.size)

    @property
    def names(self) -> tuple[str, ...]:
        """The class name of each instance; none for tracked objects."""
        return tuple(self.classes[label] for label in self.labels) if self.classes else ()

    def label_map(self) -> NDArray[np.int32]:
        """int32 (H, W): the id of each pixel, 0 for none; where masks overlap, the last one's."""
        labels = np.zeros(self.size, dtype=np.int32)
        for object_id, mask in zip(self.ids, self.masks, strict=True):
            labels[mask] = object_id
        return labels


def ids_of(result: Result | FrameRecord) -> tuple[int, ...]:
    """The ids of a result's objects or tracks."""
    if isinstance(result, FrameRecord):
        return result.ids
    if isinstance(result, InstanceResult):
        return tuple(result.track_ids.tolist())
    return result.object_ids


def record_of(result: Result | FrameRecord, name: str | None = None) -> FrameRecord:
    """What is kept of a result. name: of the source's image."""
    if isinstance(result, FrameRecord):
        return replace(result, name=name)
    count, masks = len(result.masks), result.masks
    shared = {
        "index": result.index,
        "size": result.size,
        "ids": ids_of(result),
        "encodings": tuple(encode_rle(mask) for mask in masks),
        "boxes": result.boxes,
        "areas": np.count_nonzero(masks, axis=(1, 2)),
        "name": name,
    }
    if isinstance(result, InstanceResult):
        return FrameRecord(
            **shared,
            scores=result.scores,
            predicted_iou=np.full(count, np.nan, np.float32),
            blocks=result.layers,
            labels=result.labels,
            classes=result.classes,
        )
    return FrameRecord(
        **shared,
        scores=result.object_scores,
        predicted_iou=result.predicted_iou,
        blocks=result.blocks,
        labels=np.full(count, -1),
    )


def image_stem(index: int, name: str | None = None) -> str:
    """What the images of a frame are called: its number, or the name of the source's image.

    Raises:
        InputError: For a name that leads elsewhere, as a journal from somebody else may have one.
    """
    if name is not None and (name in ("", ".", "..") or "/" in name or "\\" in name):
        raise InputError(f"frame {index} is called {name!r}, which is not a plain name of a file")
    return f"{index:05d}" if name is None else name


def line_of(record: FrameRecord, task: str) -> dict[str, Any]:
    """The content of a frame's line in the journal."""
    objects, blocks = KEYS[task]
    items = []
    for i, object_id in enumerate(record.ids):
        item: dict[str, Any] = {"id": object_id}
        if task == INSTANCES:
            item["label"] = int(record.labels[i])
        item["score"] = round(float(record.scores[i]), 4)
        if task == TRACK:
            item["predicted_iou"] = round(float(record.predicted_iou[i]), 4)
        item["box"] = record.boxes[i].tolist()
        item["area"] = int(record.areas[i])
        item["rle"] = record.encodings[i]["counts"]
        items.append(item)
    ran = "".join("1" if ran else "0" for ran in record.blocks)
    named = {} if record.name is None else {"name": record.name}
    return {"frame": record.index, blocks: ran, objects: items, **named}


def read_line(text: bytes, task: str, size: Size, classes: tuple[str, ...]) -> FrameRecord:
    """A frame from its line; InputError for a line that is none."""
    line = parse_json(text, "its line", LINE[task])
    objects, blocks = KEYS[task]
    items = line[objects]
    check_limit("objects", len(items), "the frame")
    if task == INSTANCES and any(item.get("label", 0) >= len(classes) for item in items):
        raise InputError("its line has a label of no class")

    def column(key: str, dtype: type[np.generic], missing: float | None = None) -> NDArray[Any]:
        values = [item[key] if missing is None else item.get(key, missing) for item in items]
        return np.array(values, dtype=dtype)

    return FrameRecord(
        index=line["frame"],
        size=size,
        ids=tuple(item["id"] for item in items),
        encodings=tuple(RLE(size=list(size), counts=item["rle"]) for item in items),
        boxes=column("box", np.float32).reshape(len(items), 4),
        scores=column("score", np.float32),
        predicted_iou=column("predicted_iou", np.float32, np.nan),
        areas=column("area", np.int64),
        blocks=np.array([mark == "1" for mark in line[blocks]], dtype=bool),
        name=line.get("name"),
        labels=column("label", np.int64, -1),
        classes=classes,
    )
