"""Results of video instance segmentation as rows: read, checked against the data set, written.

A row is a track with a class: {video_id, category_id, segmentations: [RLE or null], score}, as the
evaluation servers of YouTube-VIS and OVIS take them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tempomask.data.segmentations import as_rle
from tempomask.data.youtube_vis import VideoEntry, YouTubeVIS
from tempomask.errors import InputError
from tempomask.files import replacing, write_errors
from tempomask.metrics.video_ap import PredictedTrack

Row = dict[str, Any]
RESULTS = "results.json"
_KEYS = ("video_id", "category_id", "segmentations", "score")


def read_predictions(path: str | Path, dataset: YouTubeVIS) -> dict[int, list[PredictedTrack]]:
    """Predicted tracks by video id, in the order of the file; videos without any are left out.

    Raises InputError for a file that is no list of rows, and for rows of unknown videos or
    categories, with another number of frames or masks of another size, or without a score.
    """
    path = Path(path)
    by_video: dict[int, list[PredictedTrack]] = {}
    for place, row in enumerate(_read_rows(path)):
        try:
            track = _track(row, dataset)
        except InputError as error:
            raise InputError(f"{path}, prediction {place}: {error}") from None
        by_video.setdefault(row["video_id"], []).append(track)
    return by_video


def write_predictions(path: Path, rows: Iterable[Row]) -> None:
    """Write the rows as one JSON list, one row a line; they may come from a generator."""
    with write_errors(path), replacing(path) as part, part.open("w", encoding="utf-8") as file:
        file.write("[")
        for number, row in enumerate(rows):
            file.write(",\n" if number else "\n")
            file.write(json.dumps(row, separators=(",", ":")))
        file.write("\n]\n")


def rows_of(tracks: Iterable[PredictedTrack], video: VideoEntry) -> Iterator[Row]:
    """Predicted tracks of one video as rows."""
    for track in tracks:
        yield {
            "video_id": video.id,
            "category_id": track.category_id,
            "segmentations": list(track.masks),
            "score": track.score,
        }


def _read_rows(path: Path) -> list[Any]:
    try:
        rows = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read predictions {path}: {error.strerror or error}") from None
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}; the file may be cut off") from None
    if not isinstance(rows, list):
        raise InputError(
            f"{path} holds a {type(rows).__name__}; results are a list of"
            " {video_id, category_id, segmentations, score}"
        )
    return rows


def _track(row: Any, dataset: YouTubeVIS) -> PredictedTrack:
    if not isinstance(row, dict):
        raise InputError(f"a {type(row).__name__}, not an object with {', '.join(_KEYS)}")
    for key in _KEYS:
        if row.get(key) is None:
            raise InputError(f"lacks {key}")
    video = dataset.video(row["video_id"])
    if row["category_id"] not in dataset.categories:
        known = ", ".join(str(category) for category in list(dataset.categories)[:8])
        raise InputError(
            f"category {row['category_id']!r} is not in {dataset.path.name}; there are {known} ..."
        )
    score = row["score"]
    if isinstance(score, bool) or not isinstance(score, (int, float)) or not math.isfinite(score):
        raise InputError(f"score {score!r} is not a number")
    masks = row["segmentations"]
    if not isinstance(masks, list) or len(masks) != len(video):
        found = f"{len(masks)} segmentations" if isinstance(masks, list) else "no list of them"
        raise InputError(f"{found}, but video {video.id} ({video.name}) has {len(video)} frames")
    return PredictedTrack(
        category_id=row["category_id"],
        masks=[_rle(mask, video, frame) for frame, mask in enumerate(masks)],
        score=float(score),
    )


def _rle(mask: Any, video: VideoEntry, frame: int) -> Any:
    try:
        return as_rle(mask, video.size)
    except InputError as error:
        raise InputError(f"frame {frame} of video {video.id} ({video.name}): {error}") from None
