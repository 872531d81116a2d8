"""Results files of video instances, as the YouTube-VIS servers take them.

A JSON list of rows {video_id, category_id, segmentations: [RLE or null], score}, one for each track
with a class.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO

from tempomask.data.segmentations import as_rle
from tempomask.data.youtube_vis import VideoEntry, YouTubeVIS
from tempomask.errors import InputError, place
from tempomask.evaluation.submission import ReceivedZip, SubmissionFile
from tempomask.files import read_json, replacing, write_errors
from tempomask.metrics.video_ap import PredictedTrack
from tempomask.rle import RLE, decode_rle, encode_rle
from tempomask.schema import check, parse_json

Found = tuple[VideoEntry, PredictedTrack]
RESULTS = "results.json"
_ROW = {"video_id": int, "category_id": int, "segmentations": [object], "score": float}


def read_predictions(path: str | Path, dataset: YouTubeVIS) -> dict[int, list[PredictedTrack]]:
    """Predicted tracks by video id, in the order of the file; videos without any are left out.

    A zip made for a server holds results.json at its root.

    Raises:
        InputError: The file is not a list of rows, or a row is of an unknown video or category, has
            another number of frames, masks of another size, or no score.
    """
    if Path(path).suffix == ".zip":
        received = ReceivedZip(Path(path))
        received.needs_root(RESULTS in received.sizes, RESULTS, "zip the file alone")
        rows = parse_json(received.read(RESULTS), f"predictions {path}", [object])
    else:
        rows = read_json(path, "predictions", [object])
    by_video: dict[int, list[PredictedTrack]] = {}
    for number, row in enumerate(rows):
        with place(f"{path}, prediction {number}"):
            track = _predicted(row, dataset)
        by_video.setdefault(row["video_id"], []).append(track)
    return by_video


def _predicted(row: Any, dataset: YouTubeVIS) -> PredictedTrack:
    check(row, _ROW, "row")
    video = dataset.video(row["video_id"])
    if row["category_id"] not in dataset.categories:
        known = ", ".join(str(category) for category in list(dataset.categories)[:8])
        raise InputError(
            f"category {row['category_id']!r} is not in {dataset.path.name}; there are {known} ..."
        )
    masks = row["segmentations"]
    if len(masks) != len(video):
        raise InputError(
            f"{len(masks)} segmentations, but video {video.id} ({video.name}) has {len(video)}"
            " frames"
        )
    encodings = []
    for frame, mask in enumerate(masks):
        with place(f"frame {frame} of video {video.id} ({video.name})"):
            encodings.append(as_rle(mask, video.size))
    return PredictedTrack(row["category_id"], encodings, float(row["score"]))


def write_predictions(path: Path, tracks: Iterable[Found]) -> None:
    """Write the tracks as a results file; they may come from a generator."""
    with write_errors(path), replacing(path) as part, part.open("w", encoding="utf-8") as file:
        _write_rows(file, tracks)


def write_submission(
    submission: SubmissionFile, results: Path, dataset: YouTubeVIS
) -> dict[int, list[PredictedTrack]]:
    """Check a results file and write the zip with it, as results.json; gives what is in it.

    Run lengths that are lists are compressed, as servers read nothing else.

    Raises:
        InputError: Same as in `read_predictions`, and where there is no row: the servers' loader
            stops at an empty list.
    """
    found = read_predictions(results, dataset)
    if not found:
        raise InputError(f"{results} has no predictions; the servers refuse an empty list")
    rows = ((dataset.video(number), track) for number, tracks in found.items() for track in tracks)
    with (
        submission.writing(zipfile.ZIP_DEFLATED) as archive,
        archive.open(RESULTS, "w") as raw,
        io.TextIOWrapper(raw, encoding="utf-8") as file,
    ):
        _write_rows(file, rows)
    return found


def _write_rows(file: TextIO, tracks: Iterable[Found]) -> None:
    """One JSON list, one row a line."""
    file.write("[")
    for number, (video, track) in enumerate(tracks):
        masks = [_compressed(rle) for rle in track.masks]
        values = (video.id, track.category_id, masks, track.score)
        row = json.dumps(dict(zip(_ROW, values, strict=True)), separators=(",", ":"))
        file.write(f",\n{row}" if number else f"\n{row}")
    file.write("\n]\n")


def _compressed(rle: RLE | None) -> RLE | None:
    return encode_rle(decode_rle(rle)) if rle and isinstance(rle["counts"], list) else rle
