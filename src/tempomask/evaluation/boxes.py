"""Box tracking evaluation: a box on the first frame, boxes of the masks scored on all frames."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tempomask.data.box_tracking import BoxSequence, BoxTrackingData, Layout, read_boxes
from tempomask.errors import InputError
from tempomask.evaluation.settings import model_settings, run_settings
from tempomask.files import make_folder, replacing, write_errors, write_json
from tempomask.io.exports import box_line
from tempomask.metrics.boxes import PROTOCOLS, BoxMetric, BoxResult
from tempomask.model import Model, RoutingChoice
from tempomask.prompts import Prompt
from tempomask.tracking.options import TrackingOptions

# Called with the sequence, the number of its frames that are done, and the number of all of them.
Progress = Callable[[str, int, int], None]
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
    """Scores in [0, 1] over all sequences and by sequence. fps: None for boxes from disk."""

    scores: BoxResult
    per_sequence: dict[str, BoxResult]
    frames: int
    fps: float | None
    settings: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """As in summary.json: percent, with the names that papers use."""
        return {
            **percent(self.scores),
            "FPS": self.fps,
            "frames": self.frames,
            "sequences": {name: percent(score) for name, score in self.per_sequence.items()},
            "settings": self.settings,
        }


def percent(result: BoxResult) -> dict[str, float]:
    """The numbers of a result in percent, by the names that papers use."""
    return {_NAMES[name]: 100 * value for name, value in asdict(result).items()}


def evaluate_boxes(
    model: Model,
    root: str | Path,
    layout: Layout,
    *,
    split: str | None = None,
    sequences: Sequence[str] | None = None,
    out: str | Path | None = None,
    options: TrackingOptions | None = None,
    routing: RoutingChoice = None,
    progress: Progress | None = None,
) -> BoxSummary:
    """Track every sequence from its first box and score the boxes of the masks.

    layout, split, sequences: as of `BoxTrackingData`. out: folder for boxes/SEQ.txt (one x,y,w,h
    a line, zeros where the object is lost), results.csv and summary.json.
    options, routing: same as in `Model.session`.

    FPS leaves decoding and writing out. Raises InputError for data that `BoxTrackingData` refuses,
    unknown options, a first box outside the image, and a folder that cannot be written.
    """
    data = BoxTrackingData(root, layout, split, sequences)
    prompts = [Prompt(box=sequence.first_box) for sequence in data]
    folder = None if out is None else make_folder(out)
    board, seconds = _Board(layout), 0.0
    for sequence, prompt in zip(data, prompts, strict=True):
        session = model.session(
            num_frames=len(sequence), size=sequence.size, options=options, routing=routing
        )
        session.add(prompt)
        boxes = np.zeros((len(sequence), 4))
        for index, frame in enumerate(sequence.frames()):
            started = time.perf_counter()
            x0, y0, x1, y1 = session.step(frame).boxes[0].tolist()
            seconds += time.perf_counter() - started
            boxes[index] = x0, y0, x1 - x0, y1 - y0
            if progress is not None:
                progress(sequence.name, index + 1, len(sequence))
        board.add(sequence, boxes)
        if folder is not None:
            _write_boxes(make_folder(folder / "boxes") / f"{sequence.name}.txt", boxes)
            board.write_results(folder)
    settings = {
        **model_settings(model),
        **_data_settings(data),
        **run_settings(options, routing),
    }
    return board.finish(folder, settings, seconds)


def evaluate_box_files(
    root: str | Path,
    layout: Layout,
    boxes: str | Path,
    *,
    split: str | None = None,
    sequences: Sequence[str] | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> BoxSummary:
    """Score boxes on disk: SEQ.txt, or SEQ/SEQ_001.txt, with one x,y,w,h a line.

    boxes: their folder, or the `out` of `evaluate_boxes`. Raises InputError for missing files, and
    for files with another number of lines than the sequence has frames.
    """
    data = BoxTrackingData(root, layout, split, sequences)
    paths = [_box_file(Path(boxes), sequence.name) for sequence in data]
    folder = None if out is None else make_folder(out)
    board = _Board(layout)
    for sequence, path in zip(data, paths, strict=True):
        predicted = read_boxes(path)
        if len(predicted) != len(sequence):
            raise InputError(
                f"{path} has {len(predicted)} boxes, the sequence has {len(sequence)} frames; one"
                " line for each frame is needed"
            )
        board.add(sequence, predicted)
        if progress is not None:
            progress(sequence.name, len(sequence), len(sequence))
    if folder is not None:
        board.write_results(folder)
    settings = {"model": None, "boxes": Path(boxes).name, **_data_settings(data)}
    return board.finish(folder, settings, 0.0)


class _Board:
    """The scores so far."""

    def __init__(self, layout: Layout) -> None:
        self.metric = BoxMetric(PROTOCOLS[layout])
        self.results: dict[str, BoxResult] = {}
        self.frames = 0

    def add(self, sequence: BoxSequence, boxes: NDArray[np.float64]) -> None:
        score = self.metric.update(boxes, sequence.boxes, sequence.visible, sequence.size)
        self.frames += len(sequence)
        if len(score):
            self.results[sequence.name] = BoxResult.of(score)

    def write_results(self, folder: Path) -> None:
        """results.csv: a row for each sequence, in percent."""
        path = folder / "results.csv"
        with write_errors(path), replacing(path) as part, part.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["sequence", *_NAMES.values()])
            for name, result in self.results.items():
                writer.writerow([name, *(f"{value:.3f}" for value in percent(result).values())])

    def finish(self, folder: Path | None, settings: dict[str, Any], seconds: float) -> BoxSummary:
        fps = self.frames / seconds if seconds else None
        summary = BoxSummary(self.metric.compute(), self.results, self.frames, fps, settings)
        if folder is not None:
            write_json(folder / "summary.json", summary.to_dict(), default=str)
        return summary


def _write_boxes(path: Path, boxes: NDArray[np.float64]) -> None:
    with write_errors(path), replacing(path) as part:
        part.write_text("".join(box_line(box) for box in boxes.tolist()), encoding="utf-8")


def _box_file(folder: Path, name: str) -> Path:
    if not folder.is_dir():
        raise InputError(f"no such folder of boxes: {folder}; it needs a file for each sequence")
    places = [
        folder / f"{name}.txt",
        folder / "boxes" / f"{name}.txt",
        folder / name / f"{name}_001.txt",
    ]
    for path in places:
        if path.is_file():
            return path
    raise InputError(f"no boxes of sequence {name}: there is no {places[0]}")


def _data_settings(data: BoxTrackingData) -> dict[str, Any]:
    return {"dataset": data.root.resolve().name, "layout": data.layout}
