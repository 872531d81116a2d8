"""Result files in the formats that detectors and trackers are trained and scored on.

COCO, one annotation a frame and object; YOLO's polygons; MOTChallenge's boxes; MOTS's masks; and
objects cut out of their frames. All are made from the journal, like `exports`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tempomask.files import replacing
from tempomask.frames import Frame
from tempomask.io.exports import Tracks
from tempomask.io.images import save_png
from tempomask.io.journal import Journal
from tempomask.io.records import FrameRecord, image_stem
from tempomask.results import mask_boxes
from tempomask.rle import encode_rle

# MOTS knows two classes, 1 for cars and 2 for pedestrians; evaluation of one class takes this.
_MOTS_CLASS = 2
_POINTS = NDArray[np.float64]


def write_coco(path: Path, journal: Journal, tracks: Tracks = ()) -> None:
    """COCO detection JSON: an image a frame, an annotation for each object seen on it.

    Every object is a category of its own, with its name; `track_id` is the object too, `score` its
    predicted IoU. Images are called after the source's, or by number as extracted one by one.
    """
    height, width = journal.info.size
    ids, images = set[int](), list[dict[str, Any]]()
    number = 0
    with replacing(path) as part, part.open("w", encoding="utf-8") as file:
        file.write('{"annotations": [')
        for record in journal.records():
            name = f"{_stem(record)}.jpg"
            images.append({"id": record.index, "file_name": name, "width": width, "height": height})
            for place, object_id in enumerate(record.ids):
                ids.add(object_id)
                if not record.areas[place]:
                    continue
                number += 1
                x0, y0, x1, y1 = record.boxes[place].tolist()
                annotation = {
                    "id": number,
                    "image_id": record.index,
                    "category_id": object_id,
                    "track_id": object_id,
                    "iscrowd": 0,
                    "area": int(record.areas[place]),
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "score": round(float(record.predicted_iou[place]), 4),
                    "segmentation": record.encodings[place],
                }
                file.write(("," if number > 1 else "") + "\n" + json.dumps(annotation))
        categories = [{"id": i, "name": name} for i, name in _names(journal, ids)]
        rest = {"images": images, "categories": categories, "info": {"description": "tempomask"}}
        file.write("\n], " + json.dumps(rest)[1:] + "\n")


def write_yolo(path: Path, journal: Journal, tracks: Tracks = ()) -> None:
    """YOLO segments: `labels/FRAME.txt`, one line an object of class and polygon, and `data.yaml`.

    Every object is a class, numbered from 0 by id. Coordinates are shares of width and height;
    parts of an object are joined by lines of no width, and holes are filled.
    """
    labels = path / "labels"
    labels.mkdir(parents=True, exist_ok=True)
    ids = sorted({object_id for record in journal.records() for object_id in record.ids})
    size = np.array([journal.info.size[1], journal.info.size[0]])
    for record in journal.records():
        lines = []
        for object_id, mask in zip(record.ids, record.masks, strict=True):
            points = polygon(mask)
            if len(points):
                numbers = " ".join(f"{value:.6g}" for value in (points / size).ravel())
                lines.append(f"{ids.index(object_id)} {numbers}\n")
        with replacing(labels / f"{_stem(record)}.txt") as part:
            part.write_text("".join(lines), encoding="utf-8")
    names = {place: name for place, (_, name) in enumerate(_names(journal, set(ids)))}
    text = "".join(f"  {place}: {json.dumps(name)}\n" for place, name in names.items())
    with replacing(path / "data.yaml") as part:
        text = f"path: .\ntrain: images\nval: images\nnames:\n{text}"
        part.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_mot(path: Path, journal: Journal, tracks: Tracks = ()) -> None:
    """MOTChallenge's text: frame, id, left, top, width, height, confidence, -1, -1, -1.

    Frames and pixels count from 1, as its development kit has them; confidence is the predicted
    IoU.
    """

    def lines() -> Iterator[str]:
        for record in journal.records():
            for place, object_id in enumerate(record.ids):
                if record.areas[place]:
                    x0, y0, x1, y1 = record.boxes[place].tolist()
                    box = f"{x0 + 1:g},{y0 + 1:g},{x1 - x0:g},{y1 - y0:g}"
                    score = f"{record.predicted_iou[place]:.4f}"
                    yield f"{record.index + 1},{object_id},{box},{score},-1,-1,-1\n"

    with replacing(path) as part, part.open("w", encoding="utf-8") as file:
        file.writelines(lines())


def write_mots(path: Path, journal: Journal, tracks: Tracks = ()) -> None:
    """MOTS's text: frame, id, class, height, width and the run-length code of a mask.

    Frames count from 1; the class is 2, MOTS's pedestrian. Masks may not overlap there, so that a
    pixel goes to the object with the higher predicted IoU.
    """
    height, width = journal.info.size

    def lines() -> Iterator[str]:
        for record in journal.records():
            taken = np.zeros(record.size, dtype=bool)
            rows = []
            for place in np.argsort(-record.predicted_iou, kind="stable").tolist():
                mask = record.masks[place] & ~taken
                taken |= mask
                if mask.any():
                    counts = encode_rle(mask)["counts"]
                    start = f"{record.index + 1} {record.ids[place]} {_MOTS_CLASS}"
                    rows.append((record.ids[place], f"{start} {height} {width} {counts}\n"))
            yield from (line for _, line in sorted(rows))

    with replacing(path) as part, part.open("w", encoding="utf-8") as file:
        file.writelines(lines())


def write_cutout(path: Path, frame: Frame, mask: NDArray[np.bool_]) -> None:
    """One object on transparency, as large as the frame, PNG."""
    shown = np.where(mask[..., None], frame, np.uint8(0))
    save_png(path, np.dstack([shown, np.where(mask, np.uint8(255), np.uint8(0))]))


def polygon(mask: NDArray[np.bool_]) -> _POINTS:
    """The outline of a mask as one polygon (P, 2), x and y in pixels; its parts are joined.

    Pixel (i, j) covers the square from (j, i) to (j + 1, i + 1).
    """
    from contourpy import contour_generator
    from scipy import ndimage

    left, top, right, bottom = (int(side) for side in mask_boxes(mask[None])[0])
    if not right:
        return np.zeros((0, 2))
    inside = np.asarray(ndimage.binary_fill_holes(mask[top:bottom, left:right]))
    contours = contour_generator(z=np.pad(inside, 1).astype(np.float32))
    parts = [np.asarray(part)[:-1] for part in contours.lines(0.5)]
    joined, *others = sorted(parts, key=len, reverse=True)
    for part in others:
        joined = _bridged(joined, part)
    # Of the padded crop, with pixels at whole numbers.
    return joined + (left - 0.5, top - 0.5)


def _bridged(one: _POINTS, other: _POINTS) -> _POINTS:
    """Both outlines as one, by a line there and back between their nearest points."""
    # Every so many points are enough to find a short line.
    few, many = one[:: 1 + len(one) // 200], other[:: 1 + len(other) // 200]
    distances = ((few[:, None] - many[None]) ** 2).sum(axis=2)
    a, b = np.unravel_index(distances.argmin(), distances.shape)
    i, j = int(a) * (1 + len(one) // 200), int(b) * (1 + len(other) // 200)
    return np.concatenate([one[: i + 1], other[j:], other[: j + 1], one[i:]])


def _names(journal: Journal, ids: set[int]) -> list[tuple[int, str]]:
    return [(i, journal.info.names.get(i, str(i))) for i in sorted(ids)]


def _stem(record: FrameRecord) -> str:
    return image_stem(record.index, record.name)
