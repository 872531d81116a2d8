"""Result files made from the journal when a run ends: YouTube-VIS JSON, tables as CSV, NPZ.

Masks stream through: what is held of a frame is a few numbers per object. An export takes the path
to write, the journal, and the tracks of the whole video, which only runs of instances have.
"""

from __future__ import annotations

import json
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from tempomask.files import replacing, write_csv
from tempomask.io.journal import Journal
from tempomask.io.records import FrameRecord, image_stem
from tempomask.results import InstanceTrack

Tracks = Sequence[InstanceTrack]
Export = Callable[[Path, Journal, Tracks], None]
Lists = dict[str, list[Any]]

_MASKS = "segmentations"
_NO_BOX = "0,0,0,0\n"
BOX_COLUMNS = ("frame", "object", "x0", "y0", "x1", "y1", "score", "predicted_iou", "name")
INSTANCE_BOX_COLUMNS = ("frame", "track", "class", "score", "x0", "y0", "x1", "y1", "area")
TRACK_COLUMNS = ("track", "class", "score", "first_frame", "last_frame", "frames", "mean_area")


def write_rle(path: Path, journal: Journal, tracks: Tracks = ()) -> None:
    """One JSON file in the layout of YouTube-VIS (COCO with videos): one annotation per object.

    Each annotation has, by frame from the video's first to the last one tracked, `segmentations`
    (an RLE, or null where the object is not seen or the frame was not tracked), `areas`, `bboxes`
    (x, y, w, h), `scores` (logits, > 0 is present) and `predicted_ious`; `score` is the mean
    predicted IoU where the object is seen.
    """

    def annotation(object_id: int, lists: Lists) -> dict[str, Any]:
        pairs = zip(lists["predicted_ious"], lists["areas"], strict=True)
        seen = [iou for iou, area in pairs if area]
        return {
            "id": object_id,
            "video_id": 1,
            "category_id": 1,
            "iscrowd": 0,
            **_sides(journal),
            "name": journal.info.names.get(object_id, str(object_id)),
            _MASKS: None,
            **lists,
            "score": round(float(np.mean(seen)), 4) if seen else 0.0,
        }

    _write_json(path, journal, annotation, ["object"])


def write_youtube_vis(path: Path, journal: Journal, tracks: Tracks) -> None:
    """One JSON file in YouTube-VIS format, which can be read as a data set: an annotation a track.

    Categories are the classes, numbered from 1; an annotation's id is the track id. It has, by
    frame of the video, `segmentations` (an RLE, or null), `areas`, `bboxes` (x, y, w, h) and
    `scores`, and for the whole track `category_id` and `score`, see `InstanceTrack`. Files are
    called after the source's images, or by number as extracted one by one.
    """
    by_id = {track.track_id: track for track in tracks}

    def annotation(track_id: int, lists: Lists) -> dict[str, Any]:
        track = by_id[track_id]
        return {
            "id": track_id,
            "video_id": 1,
            "category_id": track.label + 1,
            "iscrowd": 0,
            **_sides(journal),
            "length": len(lists["areas"]),
            "score": round(track.score, 4),
            _MASKS: None,
            **{name: lists[name] for name in ("areas", "bboxes", "scores")},
        }

    _write_json(path, journal, annotation, journal.info.classes, list(by_id))


def write_boxes(path: Path, journal: Journal, tracks: Tracks = ()) -> None:
    """CSV, one row per frame and object; and of each object ID, `boxes/ID.txt` beside it.

    In the CSV x1 and y1 lie past the last pixel, the box is left blank where the mask is empty,
    score is the object score's logit, > 0 present, and name that of the source's image. ID.txt
    has one line per frame of the video, as box tracking benchmarks want it: x,y,w,h, zeros where
    the object was not found or not tracked.
    """
    lines: dict[int, dict[int, str]] = defaultdict(dict)

    def rows() -> Iterator[list[Any]]:
        for record in journal.records():
            for i, object_id in enumerate(record.ids):
                lines[object_id][record.index] = box_line(_xywh(record, i))
                box = _numbers(record.boxes[i]) if record.areas[i] else [""] * 4
                scores = f"{record.scores[i]:.4f}", f"{record.predicted_iou[i]:.4f}"
                yield [record.index, object_id, *box, *scores, record.name or ""]

    write_csv(path, BOX_COLUMNS, rows())
    folder = box_lines_folder(path)
    folder.mkdir(exist_ok=True)
    for object_id, found in lines.items():
        with replacing(folder / f"{object_id}.txt") as part:
            text = "".join(found.get(t, _NO_BOX) for t in range(journal.length))
            part.write_text(text, encoding="utf-8")


def write_instance_boxes(path: Path, journal: Journal, tracks: Tracks = ()) -> None:
    """CSV, one row per frame and instance; x1 and y1 lie past the last pixel."""
    rows = (
        [record.index, track_id, record.names[i], f"{record.scores[i]:.4f}"]
        + [*_numbers(record.boxes[i]), record.areas[i]]
        for record in journal.records()
        for i, track_id in enumerate(record.ids)
    )
    write_csv(path, INSTANCE_BOX_COLUMNS, rows)


def write_tracks(path: Path, journal: Journal, tracks: Tracks) -> None:
    """CSV, one row per track, see `InstanceTrack`; frames: on which it is shown."""
    classes = journal.info.classes
    rows = (
        [track.track_id, classes[track.label], f"{track.score:.4f}"]
        + [track.first_frame, track.last_frame, track.num_frames, f"{track.mean_area:.1f}"]
        for track in tracks
    )
    write_csv(path, TRACK_COLUMNS, rows)


def write_npz(path: Path, journal: Journal, tracks: Tracks = ()) -> None:
    """Arrays for `load_npz` or `numpy.load`, T frames by N objects.

    frames int64 (T,), object_ids int64 (N,), size int64 (2,) = H, W; masks uint8
    (T, N, H, ceil(W / 8)), bits packed along rows; object_scores and predicted_iou float32 (T, N),
    NaN where an object was not tracked; boxes float32 (T, N, 4), zeros for an empty mask; blocks
    bool (T, L).
    """
    height, width = journal.info.size
    records = [replace(record, encodings=()) for record in journal.records()]
    ids = sorted({object_id for record in records for object_id in record.ids})
    arrays = {
        "frames": np.array([record.index for record in records], dtype=np.int64),
        "object_ids": np.array(ids, dtype=np.int64),
        "size": np.array([height, width], dtype=np.int64),
        "object_scores": np.stack([_by_id(r, r.scores, ids, np.nan) for r in records]),
        "predicted_iou": np.stack([_by_id(r, r.predicted_iou, ids, np.nan) for r in records]),
        "boxes": np.stack([_by_id(r, r.boxes, ids, 0) for r in records]),
        "blocks": np.stack([record.blocks for record in records]),
    }
    masks = (np.packbits(_by_id(r, r.masks, ids, 0), axis=-1) for r in journal.records())
    shape = (len(records), len(ids), height, (width + 7) // 8)
    with replacing(path) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            _write_array(archive, name, array.shape, array.dtype, [array])
        _write_array(archive, "masks", shape, np.dtype(np.uint8), masks)


def load_npz(path: str | Path) -> dict[str, NDArray[Any]]:
    """The arrays of `write_npz`, masks unpacked to bool (T, N, H, W)."""
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    width = int(arrays["size"][1])
    arrays["masks"] = np.unpackbits(arrays["masks"], axis=-1, count=width).astype(bool)
    return arrays


def box_line(box: Sequence[float]) -> str:
    """One line of a box file, x,y,w,h, with no more digits than needed."""
    return ",".join(f"{value:.10g}" for value in box) + "\n"


def box_lines_folder(path: Path) -> Path:
    """Where the box files by object lie, beside the CSV."""
    return path.with_suffix("")


def _write_json(
    path: Path,
    journal: Journal,
    annotation: Callable[[int, Lists], dict[str, Any]],
    categories: Iterable[str],
    ids: list[int] | None = None,
) -> None:
    """The layout of YouTube-VIS, of one video up to its last finished frame.

    annotation: of an object, by its id and its lists by frame; masks come in the place of _MASKS.
    ids: of the annotations, None for all there are.
    """
    count = 1 + max(journal.finished)
    names = {index: journal.record(index).name for index in journal.finished}
    files = [f"{image_stem(index, names.get(index))}.jpg" for index in range(count)]
    video = {"id": 1, **_sides(journal), "length": count, "file_names": files}
    document = {
        "info": {"description": "tempomask", "fps": journal.info.fps},
        "videos": [video],
        "categories": [{"id": i, "name": name} for i, name in enumerate(categories, 1)],
    }
    with (
        replacing(path) as part,
        part.open("w", encoding="utf-8") as file,
        TemporaryFile("w+", dir=path.parent, encoding="utf-8") as spool,
    ):
        found = _spool(journal, spool)
        file.write(json.dumps(document)[:-1] + ', "annotations": [')
        for number, object_id in enumerate(sorted(found) if ids is None else ids):
            lists = {
                name: [values.get(frame) for frame in range(count)]
                for name, values in found[object_id].items()
            }
            places = lists.pop(_MASKS)
            text = json.dumps(annotation(object_id, lists))
            before, after = text.split(f'"{_MASKS}": null', 1)
            file.write(("," if number else "") + f'\n{before}"{_MASKS}": [')
            for frame, place in enumerate(places):
                file.write(", " if frame else "")
                if place is not None:
                    spool.seek(place)
                file.write("null" if place is None else spool.readline().rstrip())
            file.write("]" + after)
        file.write("\n]}\n")


def _spool(journal: Journal, spool: IO[str]) -> dict[int, dict[str, dict[int, Any]]]:
    """What there is of each object by list and frame; masks go to the spool, a line each.

    Those that are empty are left out, with their box, unless they are instances'.
    """
    names = (_MASKS, "areas", "bboxes", "scores", "predicted_ious")
    found: dict[int, dict[str, dict[int, Any]]] = defaultdict(lambda: {name: {} for name in names})
    for record in journal.records():
        for i, object_id in enumerate(record.ids):
            lists, frame = found[object_id], record.index
            lists["areas"][frame] = int(record.areas[i])
            if record.areas[i] or record.classes:
                lists["bboxes"][frame] = _xywh(record, i)
                lists[_MASKS][frame] = spool.tell()
                spool.write(json.dumps(record.encodings[i]) + "\n")
            lists["scores"][frame] = round(float(record.scores[i]), 4)
            lists["predicted_ious"][frame] = round(float(record.predicted_iou[i]), 4)
    return found


def _sides(journal: Journal) -> dict[str, int]:
    return {"width": journal.info.size[1], "height": journal.info.size[0]}


def _xywh(record: FrameRecord, i: int) -> list[float]:
    x0, y0, x1, y1 = record.boxes[i].tolist()
    return [x0, y0, x1 - x0, y1 - y0]


def _numbers(values: NDArray[np.float32]) -> list[str]:
    return [f"{value:g}" for value in values]


def _by_id(
    record: FrameRecord, values: NDArray[Any], ids: list[int], missing: float
) -> NDArray[Any]:
    """Values (n, ...) of a record's objects as (N, ...), in the order of `ids`."""
    ordered = np.full((len(ids), *values.shape[1:]), missing, dtype=values.dtype)
    for object_id, value in zip(record.ids, values, strict=True):
        ordered[ids.index(object_id)] = value
    return ordered


def _write_array(
    archive: zipfile.ZipFile,
    name: str,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    parts: Iterable[NDArray[Any]],
) -> None:
    """One array of an NPZ file, from parts along its first axis."""
    descr = np.lib.format.dtype_to_descr(dtype)
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            file.write(np.ascontiguousarray(part, dtype=dtype).tobytes())
