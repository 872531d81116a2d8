"""Video instance segmentation on data in YouTube-VIS format: a model or a results file, scored.

Average precision and recall are those of the YouTube-VIS protocol (`metrics.video_ap`). Files
without annotations, as of the benchmarks' validation sets, give a results file to hand in.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tempomask.data.youtube_vis import VideoEntry, YouTubeVIS
from tempomask.errors import InputError
from tempomask.evaluation.instance_predictions import (
    RESULTS,
    read_predictions,
    rows_of,
    write_predictions,
)
from tempomask.evaluation.settings import computation
from tempomask.files import make_folder, replacing, write_errors, write_json
from tempomask.instances.model import InstanceModel
from tempomask.metrics.video_ap import PredictedTrack, TrueTrack, VideoAP, VideoAPResult
from tempomask.results import InstanceResult
from tempomask.rle import RLE, encode_rle

# Called with the video, the number of its frames that are done, and the number of all of them.
Progress = Callable[[str, int, int], None]
# Called with the video, the frame as it was read, and what was found on it.
Observer = Callable[[VideoEntry, NDArray[np.uint8], InstanceResult], None]
# The papers hand in so many pairs of track and class for each video.
PREDICTIONS_PER_VIDEO = 10


@dataclass(frozen=True)
class InstanceEvaluation:
    """What an evaluation found.

    scores: None where the file has no annotations. classes: names by category id. predictions: rows
    in the results. frames, videos: run or scored. fps: frames over seconds of the session's steps,
    layers_run: decoder layers a frame; both None for a results file. settings: of the run.
    """

    scores: VideoAPResult | None
    classes: Mapping[int, str]
    predictions: int
    videos: int
    frames: int
    settings: Mapping[str, Any]
    fps: float | None = None
    layers_run: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """As in summary.json: scores in percent, None where there is nothing to find."""
        scores = {} if self.scores is None else _without_nan(self.scores.to_dict())
        return {
            **scores,
            "classes": {row[0]: row[1] for row in self.class_rows()},
            "videos": self.videos,
            "frames": self.frames,
            "tracks": None if self.scores is None else self.scores.tracks,
            "predictions": self.predictions,
            "FPS": self.fps,
            "layers_run": self.layers_run,
            "settings": dict(self.settings),
        }

    def class_rows(self) -> list[tuple[str, float, float, int]]:
        """Name, AP and AR10 in percent, and tracks, of every class that has tracks."""
        if self.scores is None:
            return []
        return [
            (
                self.classes[score.category_id],
                100 * score.ap,
                100 * score.recall["all", 10],
                score.tracks,
            )
            for score in self.scores.categories
            if score.tracks
        ]


def evaluate_predictions(
    annotations: str | Path,
    predictions: str | Path,
    *,
    videos: Sequence[str] | None = None,
    out: str | Path | None = None,
) -> InstanceEvaluation:
    """Score a results file.

    annotations: with ground truth. videos: only these, by name or id. out: folder for summary.json
    and classes.csv; None writes nothing.

    Raises InputError for files that do not fit, see `read_predictions`, and without annotations.
    """
    dataset = YouTubeVIS(annotations)
    _check_annotated(dataset)
    chosen = choose_videos(dataset, videos)
    found = read_predictions(predictions, dataset)
    metric = VideoAP(dataset.categories)
    for video in chosen:
        metric.update(true_tracks(dataset, video), found.get(video.id, []))
    summary = InstanceEvaluation(
        scores=metric.compute(),
        classes=dataset.categories,
        predictions=sum(len(found.get(video.id, [])) for video in chosen),
        videos=len(chosen),
        frames=sum(len(video) for video in chosen),
        settings={"model": None, "predictions": Path(predictions).name, **_data(dataset)},
    )
    if out is not None:
        write_evaluation(make_folder(out), summary)
    return summary


def evaluate_instances(
    model: InstanceModel,
    annotations: str | Path,
    images: str | Path | None = None,
    *,
    videos: Sequence[str] | None = None,
    out: str | Path | None = None,
    limit: int = PREDICTIONS_PER_VIDEO,
    progress: Progress | None = None,
) -> InstanceEvaluation:
    """Run a model on every video, score it if there are annotations, and write the results.

    images: as of `YouTubeVIS`. videos: only these, by name or id. limit: predictions a video.
    out: folder for results.json (as the servers take it), summary.json and classes.csv; None writes
    nothing.

    Raises InputError if the model does not know a class of the data (give `load_instances` the
    names it should use), and for missing or damaged images.
    """
    dataset = YouTubeVIS(annotations, images)
    if not dataset.annotated and out is None:
        raise InputError(
            f"{dataset.path} has no annotations to score against; name an output folder for the"
            " results"
        )
    chosen = choose_videos(dataset, videos)
    run = InstanceRun(model, dataset, limit, progress)
    folder = None if out is None else make_folder(out)
    if folder is None:
        for video in chosen:
            run.track(video)
    else:
        rows = (row for video in chosen for row in rows_of(run.track(video), video))
        write_predictions(folder / RESULTS, rows)
    summary = InstanceEvaluation(
        scores=run.metric.compute() if dataset.annotated else None,
        classes=dataset.categories,
        predictions=run.predictions,
        videos=len(chosen),
        frames=run.frames,
        settings={**_model(model), "limit": limit, **_data(dataset)},
        fps=run.frames / run.seconds if run.seconds else None,
        layers_run=run.layers / run.frames if run.frames else None,
    )
    if folder is not None:
        write_evaluation(folder, summary)
    return summary


class InstanceRun:
    """Tracks videos one after the other, and adds each to the metric, if there are annotations.

    limit: predictions a video. observe: sees every frame with its result.
    seconds, frames, layers, predictions: sums over the videos so far.

    Raises InputError as `evaluate_instances`.
    """

    def __init__(
        self,
        model: InstanceModel,
        dataset: YouTubeVIS,
        limit: int = PREDICTIONS_PER_VIDEO,
        progress: Progress | None = None,
        observe: Observer | None = None,
    ) -> None:
        if limit < 1:
            raise InputError(f"limit must be 1 or more predictions a video, got {limit}")
        self.model, self.dataset, self.limit = model, dataset, limit
        self.progress, self.observe = progress, observe
        self.category_ids = categories_of(model.classes, dataset)
        self.metric = VideoAP(dataset.categories)
        self.seconds, self.frames, self.layers, self.predictions = 0.0, 0, 0, 0

    def track(self, video: VideoEntry) -> list[PredictedTrack]:
        """The best pairs of track and class of a video."""
        # Every track, also those that look like nothing: the protocol ranks, it does not cut off.
        session = self.model.session(min_score=0.0, max_overlap=1.0)
        masks: dict[int, list[RLE | None]] = {}
        for index, frame in enumerate(self.dataset.frames(video)):
            started = time.perf_counter()
            result = session.step(frame)
            self.seconds += time.perf_counter() - started
            self.layers += int(result.layers.sum())
            _keep_masks(masks, result, len(video))
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


def _keep_masks(masks: dict[int, list[RLE | None]], result: InstanceResult, length: int) -> None:
    """Note the masks of a frame, by track, as run lengths: a video's masks would not fit."""
    for track_id, mask in zip(result.track_ids.tolist(), result.masks, strict=True):
        tube = masks.setdefault(track_id, [None] * length)
        if mask.any():
            tube[result.index] = encode_rle(mask)


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

    Raises InputError if the data has a class that the model does not know.
    """
    places = {_plain(name): label for label, name in enumerate(classes)}
    unknown = [name for name in dataset.classes if _plain(name) not in places]
    if unknown:
        shown = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        raise InputError(
            f"{dataset.path} has {len(unknown)} classes that the model does not know ({shown}); it"
            f" knows {', '.join(classes[:5])}{', ...' if len(classes) > 5 else ''}: take a model"
            " for this data, or rename its classes with a classes file"
        )
    return {places[_plain(name)]: category for category, name in dataset.categories.items()}


def choose_videos(dataset: YouTubeVIS, wanted: Sequence[str] | None) -> list[VideoEntry]:
    """The videos of these names or ids, all for None; InputError for one that is not there."""
    if wanted is None:
        return dataset.videos
    by_name = {key: video for video in dataset.videos for key in (str(video.id), video.name)}
    for name in wanted:
        if name not in by_name:
            known = ", ".join(video.name for video in dataset.videos[:5])
            raise InputError(f"no video {name!r} in {dataset.path}; there are {known} ...")
    chosen = {by_name[name].id for name in wanted}
    return [video for video in dataset.videos if video.id in chosen]


def write_evaluation(folder: Path, summary: InstanceEvaluation) -> None:
    """Write summary.json, and classes.csv where there are scores."""
    write_json(folder / "summary.json", summary.to_dict(), default=str)
    if summary.scores is None:
        return
    path = folder / "classes.csv"
    with write_errors(path), replacing(path) as part, part.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["class", "AP", "AR10", "tracks"])
        for name, ap, ar10, tracks in summary.class_rows():
            writer.writerow([name, f"{ap:.3f}", f"{ar10:.3f}", tracks])


def _check_annotated(dataset: YouTubeVIS) -> None:
    if not dataset.annotated:
        raise InputError(
            f"{dataset.path} has no annotations to score against; benchmarks keep them on their"
            " servers, hand the results in there"
        )


def _plain(name: str) -> str:
    return name.casefold().replace("_", " ").strip()


def _without_nan(scores: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if np.isnan(value) else value for name, value in scores.items()}


def _data(dataset: YouTubeVIS) -> dict[str, Any]:
    return {"dataset": dataset.path.name}


def _model(model: InstanceModel) -> dict[str, Any]:
    return {
        "model": model.name,
        "router": None if model.router is None else type(model.router).__name__,
        "short_side": model.config.short_side,
        **computation(model.device, model.dtype),
    }
