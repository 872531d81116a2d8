"""Video instance segmentation on data in YouTube-VIS format: a model or a results file, scored.

Average precision and recall are those of the YouTube-VIS protocol (`metrics.video_ap`). Files
without annotations, as in the benchmarks' validation sets, give a results file to hand in: rows
{video_id, category_id, segmentations: [RLE or null], score}, one for each track with a class.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tempomask.data.segmentations import as_rle
from tempomask.data.youtube_vis import VideoEntry, YouTubeVIS
from tempomask.errors import Flaws, InputError, place
from tempomask.evaluation.settings import Progress, computation
from tempomask.files import make_folder, read_json, replacing, write_csv, write_errors, write_json
from tempomask.instances.model import InstanceModel
from tempomask.instances.options import PROTOCOL
from tempomask.metrics.video_ap import PredictedTrack, TrueTrack, VideoAP, VideoAPResult
from tempomask.results import InstanceResult
from tempomask.rle import RLE, encode_rle
from tempomask.schema import check

# Called with the video, the frame as it was read, and what was found on it.
Observer = Callable[[VideoEntry, NDArray[np.uint8], InstanceResult], None]
# The papers hand in so many pairs of track and class for each video.
PREDICTIONS_PER_VIDEO = 10
_ROW = {"video_id": int, "category_id": int, "segmentations": [object], "score": float}


@dataclass(frozen=True)
class InstanceEvaluation:
    """What an evaluation found.

    Attributes:
        scores: None where the file has no annotations.
        classes: Names by category id.
        predictions: Rows in the results.
        videos: Run or scored.
        frames: Of these videos.
        settings: Of the run.
        fps: Frames over seconds of the session's steps, None for a results file.
        layers_run: Decoder layers a frame, None for a results file.
        flaws: Why a video is not among them, by name.
    """

    scores: VideoAPResult | None
    classes: Mapping[int, str]
    predictions: int
    videos: int
    frames: int
    settings: Mapping[str, Any]
    fps: float | None = None
    layers_run: float | None = None
    flaws: Mapping[str, str] = field(default_factory=Flaws)

    def to_dict(self) -> dict[str, Any]:
        """As in summary.json: scores in percent, None where there is nothing to find."""
        scores = {} if self.scores is None else self.scores.to_dict()
        return {
            **{name: None if np.isnan(value) else value for name, value in scores.items()},
            "classes": {row[0]: row[1] for row in self.class_rows()},
            "videos": self.videos,
            "frames": self.frames,
            "tracks": None if self.scores is None else self.scores.tracks,
            "predictions": self.predictions,
            "FPS": self.fps,
            "layers_run": self.layers_run,
            "settings": dict(self.settings),
            "flaws": dict(self.flaws),
        }

    def class_rows(self) -> list[tuple[str, float, float, int]]:
        """Name, AP and AR10 in percent, and tracks, of every class that has tracks."""
        scored = () if self.scores is None else self.scores.categories
        return [
            (self.classes[c.category_id], 100 * c.ap, 100 * c.recall["all", 10], c.tracks)
            for c in scored
            if c.tracks
        ]

    def write(self, folder: Path) -> None:
        """summary.json, and classes.csv where there are scores."""
        write_json(folder / "summary.json", self.to_dict(), default=str)
        if self.scores is not None:
            rows = (
                [n, f"{ap:.3f}", f"{ar:.3f}", tracks] for n, ap, ar, tracks in self.class_rows()
            )
            write_csv(folder / "classes.csv", ["class", "AP", "AR10", "tracks"], rows)


def evaluate_predictions(
    dataset: YouTubeVIS, predictions: str | Path, *, out: str | Path | None = None
) -> InstanceEvaluation:
    """Score a results file.

    Args:
        dataset: With annotations.
        predictions: The file, see `read_predictions`.
        out: Folder for summary.json and classes.csv; None writes nothing.

    Raises:
        InputError: The file does not fit, or there are no annotations.
    """
    if not dataset.annotated:
        raise InputError(
            f"{dataset.path} has no annotations to score against; benchmarks keep them on their"
            " servers, hand the results in there"
        )
    found = read_predictions(predictions, dataset)
    metric, flaws = VideoAP(dataset.categories), Flaws()
    for video in dataset.videos:
        with flaws.of(video.name):
            metric.update(true_tracks(dataset, video), found.get(video.id, []))
    flaws.check(range(len(dataset) - len(flaws)))
    name = {"predictions": Path(predictions).name}
    summary = InstanceEvaluation(
        metric.compute(),
        dataset.categories,
        predictions=sum(len(found.get(video.id, [])) for video in dataset.videos),
        videos=len(dataset),
        frames=sum(len(video) for video in dataset.videos),
        settings={"model": None, **name, "dataset": dataset.path.name},
        flaws=flaws,
    )
    if out is not None:
        summary.write(make_folder(out))
    return summary


def evaluate_instances(
    model: InstanceModel,
    dataset: YouTubeVIS,
    *,
    out: str | Path | None = None,
    limit: int = PREDICTIONS_PER_VIDEO,
    progress: Progress | None = None,
) -> InstanceEvaluation:
    """Run a model on every video, score it if there are annotations, and write the results.

    Args:
        model: That knows all classes of the data; `load_instances` takes other names for its own.
        dataset: Without annotations, results are only written.
        out: Folder for results.json (as the servers take it), summary.json and classes.csv; None
            writes nothing.
        limit: Predictions a video.
        progress: Told about every frame.

    Raises:
        InputError: The model does not know a class of the data, or images are missing or damaged.
    """
    if not dataset.annotated and out is None:
        raise InputError(
            f"{dataset.path} has no annotations to score against; name an output folder for the"
            " results"
        )
    run = InstanceRun(model, dataset, limit, progress)
    folder = None if out is None else make_folder(out)
    if folder is None:
        deque(run.tracks(), maxlen=0)
    else:
        _write_predictions(folder / "results.json", run.tracks())
    summary = InstanceEvaluation(
        run.metric.compute() if dataset.annotated else None,
        dataset.categories,
        predictions=run.predictions,
        videos=len(dataset) - len(run.flaws),
        frames=run.frames,
        settings={
            "model": model.name,
            "router": None if model.router is None else type(model.router).__name__,
            "short_side": model.config.short_side,
            **computation(model.device, model.dtype),
            "limit": limit,
            "dataset": dataset.path.name,
        },
        fps=run.frames / run.seconds if run.seconds else None,
        layers_run=run.layers / run.frames if run.frames else None,
        flaws=run.flaws,
    )
    if folder is not None:
        summary.write(folder)
    return summary


class InstanceRun:
    """Tracks videos one after the other, and adds each to the metric, if there are annotations.

    Of the videos so far: seconds of the session's steps, frames, decoder layers, and predictions.
    """

    def __init__(
        self,
        model: InstanceModel,
        dataset: YouTubeVIS,
        limit: int = PREDICTIONS_PER_VIDEO,
        progress: Progress | None = None,
        observe: Observer | None = None,
    ) -> None:
        """See `evaluate_instances`; observe sees every frame with its result."""
        if limit < 1:
            raise InputError(f"limit must be 1 or more predictions a video, got {limit}")
        self.model, self.dataset, self.limit = model, dataset, limit
        self.progress, self.observe = progress, observe
        self.category_ids = categories_of(model.classes, dataset)
        self.metric = VideoAP(dataset.categories)
        self.seconds, self.frames, self.layers, self.predictions = 0.0, 0, 0, 0
        self.flaws = Flaws()

    def tracks(self) -> Iterator[tuple[VideoEntry, PredictedTrack]]:
        """Results of all videos but those with a flaw, which are noted, unless all have one."""
        for video in self.dataset.videos:
            with self.flaws.of(video.name):
                for track in self.track(video):
                    yield video, track
        self.flaws.check(range(len(self.dataset) - len(self.flaws)))

    def track(self, video: VideoEntry) -> list[PredictedTrack]:
        """The best pairs of track and class of a video."""
        # Every track, also those that look like nothing: the protocol ranks, it does not cut off.
        session = self.model.session(options=PROTOCOL)
        masks: dict[int, list[RLE | None]] = {}
        for index, frame in enumerate(self.dataset.frames(video)):
            started = time.perf_counter()
            result = session.step(frame)
            self.seconds += time.perf_counter() - started
            self.layers += int(result.layers.sum())
            # As run lengths: a video's masks would not fit.
            for track_id, mask in zip(result.track_ids.tolist(), result.masks, strict=True):
                tube = masks.setdefault(track_id, [None] * len(video))
                if mask.any():
                    tube[index] = encode_rle(mask)
            if self.observe is not None:
                self.observe(video, frame, result)
            if self.progress is not None:
                self.progress(video.name, index + 1, len(video))
        self.frames += len(video)
        # Classes that the data does not have take no place among the best.
        ranked = session.summary().predictions(limit=len(masks) * len(self.model.classes))
        tracks = [
            PredictedTrack(self.category_ids[row.label], masks[row.track_id], row.score)
            for row in ranked
            if row.label in self.category_ids
        ][: self.limit]
        self.predictions += len(tracks)
        if self.dataset.annotated:
            self.metric.update(true_tracks(self.dataset, video), tracks)
        return tracks


def true_tracks(dataset: YouTubeVIS, video: VideoEntry) -> list[TrueTrack]:
    """What is to be found in a video; areas are those of the file, where it has them."""
    tracks = []
    for annotation in dataset.annotations(video.id):
        areas = [area for area in annotation.areas or () if area]
        tracks.append(
            TrueTrack(
                category_id=annotation.category_id,
                masks=[annotation.rle(frame) for frame in range(len(video))],
                area=float(np.mean(areas)) if areas else None,
                is_crowd=annotation.is_crowd,
            )
        )
    return tracks


def categories_of(classes: Sequence[str], dataset: YouTubeVIS) -> dict[int, int]:
    """The category id of each of the model's labels, by name; labels of other classes are left out.

    Raises:
        InputError: The data has a class that the model does not know.
    """

    def plain(name: str) -> str:
        # Spelling differs between data sets.
        return name.casefold().replace("_", " ").strip()

    places = {plain(name): label for label, name in enumerate(classes)}
    unknown = [name for name in dataset.classes if plain(name) not in places]
    if unknown:
        shown = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        raise InputError(
            f"{dataset.path} has {len(unknown)} classes that the model does not know ({shown}); it"
            f" knows {', '.join(classes[:5])}{', ...' if len(classes) > 5 else ''}: take a model"
            " for this data, or rename its classes with a classes file"
        )
    return {places[plain(name)]: category for category, name in dataset.categories.items()}


def read_predictions(path: str | Path, dataset: YouTubeVIS) -> dict[int, list[PredictedTrack]]:
    """Predicted tracks by video id, in the order of the file; videos without any are left out.

    Raises:
        InputError: The file is not a list of rows, or a row is of an unknown video or category, has
            another number of frames, masks of another size, or no score.
    """
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


def _write_predictions(path: Path, tracks: Iterable[tuple[VideoEntry, PredictedTrack]]) -> None:
    """Write the tracks as one JSON list, one row a line; they may come from a generator."""
    with write_errors(path), replacing(path) as part, part.open("w", encoding="utf-8") as file:
        file.write("[")
        for number, (video, track) in enumerate(tracks):
            values = (video.id, track.category_id, list(track.masks), track.score)
            row = json.dumps(dict(zip(_ROW, values, strict=True)), separators=(",", ":"))
            file.write(f",\n{row}" if number else f"\n{row}")
        file.write("\n]\n")
