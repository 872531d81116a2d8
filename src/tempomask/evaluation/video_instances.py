"""Video instance segmentation on data in YouTube-VIS format: a model or a results file, scored.

Average precision and recall are those of the YouTube-VIS protocol (`metrics.video_ap`). Files
without annotations, as in the benchmarks' validation sets, give a results file to hand in.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tempomask.data.youtube_vis import VideoEntry, YouTubeVIS
from tempomask.errors import Flaws, InputError
from tempomask.evaluation.instance_results import (
    read_predictions,
    write_predictions,
    write_submission,
)
from tempomask.evaluation.instance_scoring import AP_ALONE, Scorer, Scoring
from tempomask.evaluation.settings import Progress, computation
from tempomask.evaluation.submission import SubmissionFile
from tempomask.files import make_folder, write_csv, write_json
from tempomask.instances.model import InstanceModel
from tempomask.instances.offline import OfflineSession
from tempomask.instances.options import PROTOCOL
from tempomask.instances.session import InstanceSession
from tempomask.metrics.video_ap import PredictedTrack, VideoAPResult
from tempomask.results import InstanceResult
from tempomask.rle import RLE, encode_rle

# Called with the video, the frame as it was read, and what was found on it.
Observer = Callable[[VideoEntry, NDArray[np.uint8], InstanceResult], None]
# The papers hand in so many pairs of track and class for each video.
PREDICTIONS_PER_VIDEO = 10


@dataclass(frozen=True)
class InstanceEvaluation:
    """What an evaluation found.

    Attributes:
        scores: Over all videos; None where the file has no annotations.
        classes: Names by category id.
        predictions: Rows in the results.
        videos: Run or scored.
        frames: Of these videos.
        settings: Of the run.
        fps: Frames over seconds of the session's steps, None for a results file.
        layers_run: Decoder layers a frame, None for a results file.
        flaws: Why a video is not among them, by name.
        more: What else was scored, by name: "boundary", and parts of the data by the names of
            their files.
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
    more: Mapping[str, VideoAPResult] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As in summary.json: scores in percent, None where there is nothing to find."""
        return {
            **_percent(self.scores),
            "more": {name: _percent(result) for name, result in self.more.items()},
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


def _percent(scores: VideoAPResult | None) -> dict[str, float | None]:
    named = {} if scores is None else scores.to_dict()
    return {name: None if np.isnan(value) else value for name, value in named.items()}


def evaluate_predictions(
    dataset: YouTubeVIS,
    predictions: str | Path,
    *,
    out: str | Path | None = None,
    scoring: Scoring = AP_ALONE,
    submission: SubmissionFile | None = None,
) -> InstanceEvaluation:
    """Score a results file.

    Args:
        dataset: With annotations, unless its parts have them or the file is only handed in.
        predictions: The file, see `read_predictions`.
        out: Folder for summary.json and classes.csv; None writes nothing.
        scoring: What else is scored.
        submission: Also check the file and write the zip for a server.

    Raises:
        InputError: The file does not fit, or there are no annotations.
    """
    scorer, flaws = Scorer(dataset, scoring), Flaws()
    if not scorer.metrics and submission is None:
        raise InputError(
            f"{dataset.path} has no annotations to score against; benchmarks keep them on their"
            " servers: --submission checks the results and writes the zip to hand in"
        )
    if submission is None:
        found = read_predictions(predictions, dataset)
    else:
        found = write_submission(submission, Path(predictions), dataset)
    for video in dataset.videos:
        with flaws.of(video.name):
            scorer.add(video, found.get(video.id, []))
    flaws.check(range(len(dataset) - len(flaws)))
    name = {"predictions": Path(predictions).name}
    scores = scorer.scores()
    summary = InstanceEvaluation(
        scores.pop("", None),
        dataset.categories,
        predictions=sum(len(found.get(video.id, [])) for video in dataset.videos),
        videos=len(dataset),
        frames=sum(len(video) for video in dataset.videos),
        settings={"model": None, **name, "dataset": dataset.path.name},
        flaws=flaws,
        more=scores,
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
    scoring: Scoring = AP_ALONE,
    submission: SubmissionFile | None = None,
    progress: Progress | None = None,
) -> InstanceEvaluation:
    """Run a model on every video, score it if there are annotations, and write the results.

    Args:
        model: That knows all classes of the data; `load_instances` takes other names for its own.
        dataset: Without annotations, results are only written.
        out: Folder for results.json (as the servers take it), summary.json and classes.csv; None
            writes nothing.
        limit: Predictions a video.
        scoring: What else is scored.
        submission: Also write the zip for a server, which needs all videos.
        progress: Told about every frame.

    Raises:
        InputError: The model does not know a class of the data, or images are missing or damaged.
    """
    run = InstanceRun(model, dataset, limit, progress, scoring=scoring)
    if not run.scorer.metrics and out is None and submission is None:
        raise InputError(
            f"{dataset.path} has no annotations to score against; name an output folder for the"
            " results"
        )
    folder = None if out is None else make_folder(out)
    with ExitStack() as stack:
        base = folder
        if base is None and submission is not None:
            base = Path(stack.enter_context(TemporaryDirectory()))
        if base is None:
            deque(run.tracks(), maxlen=0)
        else:
            write_predictions(base / "results.json", run.tracks())
        summary = run.summary()
        if folder is not None:
            summary.write(folder)
        if base is not None and submission is not None:
            submission.check(run.flaws)
            write_submission(submission, base / "results.json", dataset)
    return summary


class InstanceRun:
    """Tracks videos one after the other, and adds each to the metrics, if there are annotations.

    Of the videos so far: seconds of the session's steps, frames, decoder layers, and predictions.
    """

    def __init__(
        self,
        model: InstanceModel,
        dataset: YouTubeVIS,
        limit: int = PREDICTIONS_PER_VIDEO,
        progress: Progress | None = None,
        observe: Observer | None = None,
        scoring: Scoring = AP_ALONE,
    ) -> None:
        """See `evaluate_instances`; observe sees every frame with its result."""
        if limit < 1:
            raise InputError(f"limit must be 1 or more predictions a video, got {limit}")
        self.model, self.dataset, self.limit = model, dataset, limit
        self.progress, self.observe = progress, observe
        self.category_ids = categories_of(model.classes, dataset)
        self.scorer = Scorer(dataset, scoring)
        self.seconds, self.frames, self.layers, self.predictions = 0.0, 0, 0, 0
        self.flaws = Flaws()

    def tracks(self) -> Iterator[tuple[VideoEntry, PredictedTrack]]:
        """Results of all videos but those with a flaw, which are noted, unless all have one."""
        for video in self.dataset.videos:
            with self.flaws.of(video.name):
                for track in self.track(video):
                    yield video, track
        self.flaws.check(range(len(self.dataset) - len(self.flaws)))

    def summary(self) -> InstanceEvaluation:
        """Of the videos so far."""
        model, scores = self.model, self.scorer.scores()
        return InstanceEvaluation(
            scores.pop("", None),
            self.dataset.categories,
            predictions=self.predictions,
            videos=len(self.dataset) - len(self.flaws),
            frames=self.frames,
            settings={
                "model": model.name,
                "router": None if model.router is None else type(model.router).__name__,
                "short_side": model.config.short_side,
                **computation(model.device, model.dtype),
                "limit": self.limit,
                "dataset": self.dataset.path.name,
            },
            fps=self.frames / self.seconds if self.seconds else None,
            layers_run=self.layers / self.frames if self.frames else None,
            flaws=self.flaws,
            more=scores,
        )

    def track(self, video: VideoEntry) -> list[PredictedTrack]:
        """The best pairs of track and class of a video."""
        # Every track, also those that look like nothing: the protocol ranks, it does not cut off.
        offline = self.model.config.refiner is not None
        begin = self.model.offline_session if offline else self.model.session
        session, masks = begin(options=PROTOCOL), dict[int, list[RLE | None]]()
        for index, (frame, result) in enumerate(self._answers(session, video)):
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
        self.scorer.add(video, tracks)
        return tracks

    def _answers(
        self, session: InstanceSession, video: VideoEntry
    ) -> Iterator[tuple[NDArray[np.uint8], InstanceResult]]:
        """Each frame with its result; an offline session has seen all of them before."""
        step, frames = session.step, self.dataset.frames(video)
        if isinstance(session, OfflineSession):
            for frame in frames:
                self._timed(session.take, frame)
            results, frames = session.results(), self.dataset.frames(video)
            for frame in frames:
                yield frame, self._timed(next, results)
            return
        for frame in frames:
            yield frame, self._timed(step, frame)

    def _timed(self, call: Callable[..., Any], argument: Any) -> Any:
        started = time.perf_counter()
        try:
            return call(argument)
        finally:
            self.seconds += time.perf_counter() - started


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
