"""Result files made from the journal when a run ends: COCO RLE JSON, boxes as CSV, arrays as NPZ.

Masks stream through: what is held of a frame is a few numbers per object.
"""

from __future__ import annotations

import csv
import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from tempomask.files import replacing
from tempomask.io.journal import FrameRecord, Journal, VideoInfo

LOST_LINE = "0,0,0,0\n"
BOX_COLUMNS = ("frame", "object", "x0", "y0", "x1", "y1", "score", "predicted_iou", "name")


def write_rle(path: Path, journal: Journal) -> None:
    """One JSON file in the layout of YouTube-VIS (COCO with videos): one annotation per object.

    Each annotation has, by frame of the video, `segmentations` (an RLE, or null where the object is
    not seen or the frame was not tracked), `areas`, `bboxes` (x, y, w, h), `scores` (logits, > 0 is
    present) and `predicted_ious`; `score` is the mean predicted IoU where the object is seen.
    """
    info = journal.info
    length = max(info.num_frames or 0, 1 + max(journal.finished, default=-1))
    head = {
        "info": {"description": "tempomask", "fps": info.fps},
        "videos": [
            {"id": 1, "width": info.size[1], "height": info.size[0], "length": length},
        ],
        "categories": [{"id": 1, "name": "object"}],
    }
    with (
        replacing(path) as part,
        part.open("w", encoding="utf-8") as file,
        TemporaryFile("w+", dir=path.parent, encoding="utf-8") as spool,
    ):
        file.write(json.dumps(head)[:-1] + ', "annotations": [')
        tracks = _spool_tracks(journal, spool, length)
        for number, object_id in enumerate(sorted(tracks)):
            name = journal.info.names.get(object_id, str(object_id))
            file.write(",\n" if number else "\n")
            _write_annotation(file.write, spool, tracks[object_id], object_id, name, journal.info)
        file.write("\n]}\n")


def write_boxes(path: Path, journal: Journal) -> None:
    """CSV, one row per frame and object; and of each object ID, `boxes/ID.txt` beside it.

    In the CSV x1 and y1 lie past the last pixel, the box is left blank where the mask is empty,
    score is the object score's logit, > 0 present, and name that of the source's image. ID.txt
    has one line per frame of the video, as box tracking benchmarks want it: x,y,w,h, zeros where
    the object was not found or not tracked.
    """
    lines: dict[int, dict[int, str]] = {}
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(BOX_COLUMNS)
        for record in journal.records():
            for i, object_id in enumerate(record.object_ids):
                box = [f"{side:g}" for side in record.boxes[i]] if record.areas[i] else [""] * 4
                scores = f"{record.object_scores[i]:.4f}", f"{record.predicted_iou[i]:.4f}"
                writer.writerow([record.index, object_id, *box, *scores, record.name or ""])
                x0, y0, x1, y1 = record.boxes[i].tolist()
                line = box_line((x0, y0, x1 - x0, y1 - y0))
                lines.setdefault(object_id, {})[record.index] = line
    length = max(journal.info.num_frames or 0, 1 + max(journal.finished, default=-1))
    folder = box_lines_folder(path)
    folder.mkdir(exist_ok=True)
    for object_id, found in lines.items():
        with replacing(folder / f"{object_id}.txt") as part:
            text = "".join(found.get(t, LOST_LINE) for t in range(length))
            part.write_text(text, encoding="utf-8")


def box_line(box: Sequence[float]) -> str:
    """One line of a box file, x,y,w,h, with no more digits than needed."""
    return ",".join(f"{value:.10g}" for value in box) + "\n"


def box_lines_folder(path: Path) -> Path:
    """Where the box files by object lie, beside the CSV."""
    return path.with_suffix("")


def write_npz(path: Path, journal: Journal) -> None:
    """Arrays for `load_npz` or `numpy.load`, T frames by N objects.

    frames int64 (T,), object_ids int64 (N,), size int64 (2,) = H, W; masks uint8
    (T, N, H, ceil(W / 8)), bits packed along rows; object_scores and predicted_iou float32 (T, N),
    NaN where an object was not tracked; boxes float32 (T, N, 4), zeros for an empty mask; blocks
    bool (T, L).
    """
    ids = _object_ids(journal)
    height, width = journal.info.size
    records = list(map(_without_masks, journal.records()))
    arrays = {
        "frames": np.array([record.index for record in records], dtype=np.int64),
        "object_ids": np.array(ids, dtype=np.int64),
        "size": np.array([height, width], dtype=np.int64),
        "object_scores": np.stack([_by_id(r, r.object_scores, ids, np.nan) for r in records]),
        "predicted_iou": np.stack([_by_id(r, r.predicted_iou, ids, np.nan) for r in records]),
        "boxes": np.stack([_by_id(r, r.boxes, ids, 0) for r in records]),
        "blocks": np.stack([record.blocks for record in records]),
    }
    masks = (np.packbits(_by_id(r, r.masks, ids, 0), axis=-1) for r in journal.records())
    shape = (len(records), len(ids), height, (width + 7) // 8)
    with replacing(path) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            _write_array(archive, name, array.shape, array.dtype, iter([array]))
        _write_array(archive, "masks", shape, np.dtype(np.uint8), masks)


def load_npz(path: str | Path) -> dict[str, NDArray[Any]]:
    """The arrays of `write_npz`, masks unpacked to bool (T, N, H, W)."""
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    width = int(arrays["size"][1])
    arrays["masks"] = np.unpackbits(arrays["masks"], axis=-1, count=width).astype(bool)
    return arrays


@dataclass
class _Track:
    """One object through the video; masks lie in the spool at `places` (start, or -1 for none)."""

    places: NDArray[np.int64]
    areas: list[int | None]
    bboxes: list[list[float] | None]
    scores: list[float | None]
    predicted_ious: list[float | None]

    @classmethod
    def of_length(cls, length: int) -> Self:
        none = [None] * length
        return cls(np.full(length, -1), list(none), list(none), list(none), list(none))


def _spool_tracks(journal: Journal, spool: IO[str], length: int) -> dict[int, _Track]:
    """Objects by id; their masks go to the spool, one line each, so that none are held."""
    tracks: dict[int, _Track] = {}
    for record in journal.records():
        for i, object_id in enumerate(record.object_ids):
            track = tracks.setdefault(object_id, _Track.of_length(length))
            track.areas[record.index] = int(record.areas[i])
            track.scores[record.index] = round(float(record.object_scores[i]), 4)
            track.predicted_ious[record.index] = round(float(record.predicted_iou[i]), 4)
            if record.areas[i]:
                x0, y0, x1, y1 = record.boxes[i].tolist()
                track.bboxes[record.index] = [x0, y0, x1 - x0, y1 - y0]
                track.places[record.index] = spool.tell()
                spool.write(json.dumps(record.encodings[i]) + "\n")
    return tracks


def _write_annotation(
    write: Callable[[str], Any],
    spool: IO[str],
    track: _Track,
    object_id: int,
    name: str,
    info: VideoInfo,
) -> None:
    head = {
        "id": object_id,
        "video_id": 1,
        "category_id": 1,
        "iscrowd": 0,
        "width": info.size[1],
        "height": info.size[0],
        "name": name,
    }
    write(json.dumps(head)[:-1] + ', "segmentations": [')
    for frame, place in enumerate(track.places.tolist()):
        write(", " if frame else "")
        if place >= 0:
            spool.seek(place)
        write(spool.readline().rstrip() if place >= 0 else "null")
    ious = zip(track.predicted_ious, track.areas, strict=True)
    seen = [iou for iou, area in ious if iou is not None and area]
    rest = {
        "areas": track.areas,
        "bboxes": track.bboxes,
        "scores": track.scores,
        "predicted_ious": track.predicted_ious,
        "score": round(float(np.mean(seen)), 4) if seen else 0.0,
    }
    write("], " + json.dumps(rest)[1:])


def _object_ids(journal: Journal) -> list[int]:
    ids: set[int] = set()
    for record in journal.records():
        ids.update(record.object_ids)
    return sorted(ids)


def _without_masks(record: FrameRecord) -> FrameRecord:
    return replace(record, encodings=())


def _by_id(
    record: FrameRecord, values: NDArray[Any], ids: list[int], missing: float
) -> NDArray[Any]:
    """Values (n, ...) of a record's objects as (N, ...), in the order of `ids`."""
    ordered = np.full((len(ids), *values.shape[1:]), missing, dtype=values.dtype)
    for object_id, value in zip(record.object_ids, values, strict=True):
        ordered[ids.index(object_id)] = value
    return ordered


def _write_array(
    archive: zipfile.ZipFile,
    name: str,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    parts: Iterator[NDArray[Any]],
) -> None:
    """One array of an NPZ file, from parts along its first axis."""
    header = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": shape,
    }
    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            file.write(np.ascontiguousarray(part, dtype=dtype).tobytes())
