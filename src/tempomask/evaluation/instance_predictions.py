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
from tempomask.errors import InputError, place
from tempomask.files import read_json, replacing, write_errors
from tempomask.metrics.video_ap import PredictedTrack

Row = dict[str, Any]
RESULTS = "results.json"
_KEYS = ("video_id", "category_id", "segmentations", "score")


def read_predictions(path: str | Path, dataset: YouTubeVIS) -> dict[int, list[PredictedTrack]]:
    """Predicted tracks by video id, in the order of the file; videos without any are left out.

    Raises:
        InputError: The file is no list of rows, or a row is of an unknown video or category, has
            another number of frames, masks of another size, or no score.
    """
    rows = read_json(path, "predictions")
    if not isinstance(rows, list):
        raise InputError(
            f"{path} holds a {type(rows).__name__}; results are a list of"
            " {video_id, category_id, segmentations, score}"
        )
    by_video: dict[int, list[PredictedTrack]] = {}
    for number, row in enumerate(rows):
        with place(f"{path}, prediction {number}"):
            track = _track(row, dataset)
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
    encodings = []
    for frame, mask in enumerate(masks):
        with place(f"frame {frame} of video {video.id} ({video.name})"):
            encodings.append(as_rle(mask, video.size))
    return PredictedTrack(row["category_id"], encodings, float(score))
