"""Box tracking evaluation: a box on the first frame, boxes of the masks scored on all frames."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tempomask.data.box_tracking import BoxSequence, BoxTrackingData, read_boxes
from tempomask.errors import Flaws, InputError
from tempomask.evaluation.box_submission import TrackedBoxes, check_set, write_box_submission
from tempomask.evaluation.settings import Progress, model_settings, run_settings
from tempomask.evaluation.submission import SubmissionFile
from tempomask.files import (
    make_folder,
    read_text,
    replacing,
    write_csv,
    write_errors,
    write_json,
)
from tempomask.io.exports import box_line
from tempomask.metrics.boxes import PROTOCOLS, BoxMetric, BoxResult
from tempomask.model import Model
from tempomask.prompts import Prompt
from tempomask.routed_model import RoutingChoice
from tempomask.tracking.options import TrackingOptions

_NAMES = {
    "success": "AUC",
    "precision": "P",
    "normalised_precision": "P_norm",
    "average_overlap": "AO",
    "success_rate_50": "SR_0.5",
    "success_rate_75": "SR_0.75",
}


@dataclass(frozen=True)
class BoxSummary:
    """Scores in [0, 1], over all sequences and by sequence.

    scores: None where the true boxes are a server's. fps: None for boxes from disk. flaws: why a
    sequence is not among them, by name.
    """

    scores: BoxResult | None
    per_sequence: dict[str, BoxResult]
    frames: int
    fps: float | None
    settings: dict[str, Any]
    flaws: Flaws

    def to_dict(self) -> dict[str, Any]:
        """As in summary.json: percent, with the names that papers use."""
        return {
            **({} if self.scores is None else percent(self.scores)),
            "FPS": self.fps,
            "frames": self.frames,
            "sequences": {name: percent(score) for name, score in self.per_sequence.items()},
            "settings": self.settings,
            "flaws": self.flaws,
        }


def percent(result: BoxResult) -> dict[str, float]:
    """The numbers of a result in percent, by the names that papers use."""
    return {_NAMES[name]: 100 * value for name, value in asdict(result).items()}


def evaluate_boxes(
    model: Model,
    data: BoxTrackingData,
    *,
    out: str | Path | None = None,
    submission: SubmissionFile | None = None,
    options: TrackingOptions | None = None,
    routing: RoutingChoice = None,
    progress: Progress | None = None,
) -> BoxSummary:
    """Track every sequence from its first box and score the boxes of the masks.

    FPS leaves decoding and writing out.

    Args:
        model: That tracks.
        data: The sequences.
        out: Folder for boxes/SEQ.txt (one x,y,w,h a line, zeros where the object is lost),
            results.csv and summary.json; None writes nothing.
        submission: Also write the zip for a server, which needs all sequences.
        options: Same as in `Model.session`.
        routing: Same as in `Model.session`.
        progress: Told about every frame.

    Raises:
        InputError: An option is unknown, no sequence can be tracked, or the folder cannot be
            written.
    """
    scores = _Scores(data, out, submission)
    prompts: dict[str, Prompt] = {}
    for sequence in data:
        with scores.flaws.of(sequence.name):
            prompts[sequence.name] = Prompt(box=sequence.first_box)
    scores.flaws.check(prompts)
    if submission is not None:
        submission.check(scores.flaws)
    seconds = 0.0
    for sequence in data:
        if sequence.name not in prompts:
            continue
        session = model.session(
            num_frames=len(sequence), size=sequence.size, options=options, routing=routing
        )
        boxes, times = np.zeros((len(sequence), 4)), np.zeros(len(sequence))
        with scores.flaws.of(sequence.name):
            session.add(prompts[sequence.name])
            for index, frame in enumerate(sequence.frames()):
                started = time.perf_counter()
                x0, y0, x1, y1 = session.step(frame).boxes[0].tolist()
                times[index] = time.perf_counter() - started
                boxes[index] = x0, y0, x1 - x0, y1 - y0
                if progress is not None:
                    progress(sequence.name, index + 1, len(sequence))
            scores.add(sequence, boxes, times)
            seconds += float(times.sum())
        if scores.folder is not None and sequence.name not in scores.flaws:
            path = make_folder(scores.folder / "boxes") / f"{sequence.name}.txt"
            with write_errors(path), replacing(path) as part:
                part.write_text("".join(box_line(box) for box in boxes.tolist()), encoding="utf-8")
    return scores.summary({**model_settings(model), **run_settings(options, routing)}, seconds)


def evaluate_box_files(
    data: BoxTrackingData,
    boxes: str | Path,
    *,
    out: str | Path | None = None,
    submission: SubmissionFile | None = None,
    progress: Progress | None = None,
) -> BoxSummary:
    """Score boxes on disk: SEQ.txt, or SEQ/SEQ_001.txt, with one x,y,w,h a line.

    Args:
        data: The sequences.
        boxes: Folder of the files, or the `out` of `evaluate_boxes`.
        out: Folder for results.csv and summary.json; None writes nothing.
        submission: Also check them and write the zip for a server; of GOT-10k with SEQ_time.txt,
            the seconds of each frame, beside the boxes.
        progress: Told about every sequence.

    Raises:
        InputError: A file is missing, or has another number of lines than the sequence has frames.
    """
    paths = [_box_file(Path(boxes), sequence.name) for sequence in data]
    scores = _Scores(data, out, submission)
    for sequence, path in zip(data, paths, strict=True):
        with scores.flaws.of(sequence.name):
            predicted = read_boxes(path)
            if len(predicted) != len(sequence):
                raise InputError(
                    f"{path} has {len(predicted)} boxes, the sequence has {len(sequence)} frames;"
                    " one line for each frame is needed"
                )
            scores.add(sequence, predicted, _times(path))
        if progress is not None:
            progress(sequence.name, len(sequence), len(sequence))
    return scores.summary({"model": None, "boxes": Path(boxes).name}, 0.0)


class _Scores:
    """The scores so far, also in results.csv: a row for each sequence, in percent."""

    def __init__(
        self,
        data: BoxTrackingData,
        out: str | Path | None,
        submission: SubmissionFile | None,
    ) -> None:
        if submission is not None:
            check_set(data)
            submission.check(data.flaws)
        self.data, self.submission = data, submission
        self.tracked: dict[str, TrackedBoxes] = {}
        self.folder = None if out is None else make_folder(out, "boxes")
        self.metric = BoxMetric(PROTOCOLS[data.layout])
        self.results: dict[str, BoxResult] = {}
        self.frames = 0
        self.flaws = Flaws(data.flaws)

    def add(
        self,
        sequence: BoxSequence,
        boxes: NDArray[np.float64],
        seconds: NDArray[np.float64] | None,
    ) -> None:
        self.frames += len(sequence)
        self.tracked[sequence.name] = TrackedBoxes(boxes, seconds)
        if not sequence.scored:
            return
        score = self.metric.update(boxes, sequence.boxes, sequence.visible, sequence.size)
        if len(score):
            self.results[sequence.name] = score.result
        if self.folder is not None:
            rows = (
                [name, *(f"{value:.3f}" for value in percent(result).values())]
                for name, result in self.results.items()
            )
            write_csv(self.folder / "results.csv", ["sequence", *_NAMES.values()], rows)

    def summary(self, settings: dict[str, Any], seconds: float) -> BoxSummary:
        fps = self.frames / seconds if seconds else None
        settings = {**settings, **self.data.settings()}
        self.flaws.check(self.tracked)
        if self.submission is not None:
            self.submission.check(self.flaws)
            write_box_submission(self.submission, self.data, self.tracked)
        # Of frames that do not count the metric complains, of boxes that a server keeps nobody.
        known = any(sequence.scored for sequence in self.data)
        scores = self.metric.compute() if known else None
        summary = BoxSummary(scores, self.results, self.frames, fps, settings, self.flaws)
        if self.folder is not None:
            write_json(self.folder / "summary.json", summary.to_dict(), default=str)
        return summary


def _times(path: Path) -> NDArray[np.float64] | None:
    """Seconds of each frame, from the file that lies beside boxes in GOT-10k's results."""
    times = path.with_name(f"{path.stem.removesuffix('_001')}_time.txt")
    if not times.is_file():
        return None
    try:
        return np.array(read_text(times, "times").split(), dtype=np.float64)
    except ValueError:
        raise InputError(f"{times} must hold the seconds of each frame") from None


def _box_file(folder: Path, name: str) -> Path:
    if not folder.is_dir():
        raise InputError(f"no such folder of boxes: {folder}; it needs a file for each sequence")
    places = [folder / p for p in (f"{name}.txt", f"boxes/{name}.txt", f"{name}/{name}_001.txt")]
    found = next((path for path in places if path.is_file()), None)
    if found is None:
        raise InputError(f"no boxes of sequence {name}: there is no {places[0]}")
    return found
