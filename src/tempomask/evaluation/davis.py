"""Semi-supervised evaluation on DAVIS: objects given on the first frame, J&F over the others."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tempomask.api import Model
from tempomask.data.davis import Davis, DavisSequence
from tempomask.errors import InputError
from tempomask.evaluation.prompts import (
    CLICKS,
    PromptKind,
    add_error_clicks,
    check_kind,
    first_frame_prompts,
)
from tempomask.media.atomic import make_folder, replacing, write_errors
from tempomask.media.masks import read_mask, write_label_png
from tempomask.metrics.region_boundary import ObjectScore, RegionBoundary, RegionBoundaryResult
from tempomask.models.encoder import Policy

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class SequenceScore:
    """Scores of one sequence; seconds spent stepping its frames, decoding and writing left out."""

    name: str
    scores: RegionBoundaryResult
    frames: int
    seconds: float


@dataclass(frozen=True)
class EvaluationSummary:
    """Scores in percent, averaged over objects as the DAVIS toolkit does.

    mean: J&F. per_sequence: J&F by sequence. fps: frames over seconds of stepping; None when masks
    on disk were scored. blocks_run: mean share of encoder blocks that ran after the first frame.
    """

    mean: float
    region: float
    boundary: float
    region_recall: float
    boundary_recall: float
    region_decay: float
    boundary_decay: float
    fps: float | None
    frames: int
    objects: int
    blocks_run: float | None
    per_sequence: dict[str, float]
    settings: dict[str, Any]


def evaluate(
    model: Model,
    root: str | Path,
    *,
    split: str | None = None,
    sequences: Sequence[str] | None = None,
    out: str | Path | None = None,
    prompt: PromptKind = "mask",
    single_object: bool = False,
    policy: Policy | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> EvaluationSummary:
    """Track every sequence of a DAVIS root and score it.

    split, sequences, single_object: as of `Davis`. out: a folder for masks/, results.csv and
    summary.json; None writes nothing. prompt: how objects are given on the first frame. policy:
    which encoder blocks run. progress: called with sequence, frame and number of frames.
    options: of `Model.session`.
    """
    check_kind(prompt)
    dataset = Davis(root, split, sequences, single_object)
    folder = None if out is None else make_folder(out)
    scored, shares = [], []
    for sequence in dataset:
        runner = _SequenceRun(model, sequence, prompt, policy, options, folder)
        scored.append(runner.run(progress))
        shares += runner.shares
    settings = {
        "model": model.name,
        "image_size": model.config.image_size,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
        "prompt": prompt,
        "dataset": Path(root).name,
        "split": split,
        "single_object": single_object,
        **options,
    }
    summary = summarise(scored, settings, float(np.mean(shares)) if shares else None)
    if folder is not None:
        write_tables(folder, scored, summary)
    return summary


def evaluate_masks(
    root: str | Path,
    masks: str | Path,
    *,
    split: str | None = None,
    sequences: Sequence[str] | None = None,
    single_object: bool = False,
    out: str | Path | None = None,
) -> EvaluationSummary:
    """Score a folder of palette PNGs, SEQ/NNNNN.png, against a DAVIS root.

    Every sequence and every scored frame must be there: InputError names the first that is not.
    """
    folder = Path(masks)
    scored = []
    for sequence in Davis(root, split, sequences, single_object):
        metric = _metric(sequence)
        for index in range(1, len(sequence) - 1):
            path = folder / sequence.name / f"{sequence.pictures[index].stem}.png"
            if not path.is_file():
                raise InputError(f"no predicted mask {path}; every scored frame needs one")
            truth = sequence.label_map(index)
            prediction = read_mask(path)
            if prediction.shape != truth.shape:
                raise InputError(
                    f"{path} is {prediction.shape[1]}x{prediction.shape[0]}, the ground truth"
                    f" {truth.shape[1]}x{truth.shape[0]}; masks must have the video's size"
                )
            metric.update(prediction, truth)
        scored.append(SequenceScore(sequence.name, metric.compute(), len(sequence), 0.0))
    summary = summarise(scored, {"dataset": Path(root).name, "masks": folder.name}, None)
    if out is not None:
        write_tables(make_folder(out), scored, summary)
    return summary


class _SequenceRun:
    """Tracks and scores one sequence."""

    def __init__(
        self,
        model: Model,
        sequence: DavisSequence,
        prompt: PromptKind,
        policy: Policy | None,
        options: dict[str, Any],
        folder: Path | None,
    ) -> None:
        self.sequence = sequence
        self.masks = None if folder is None else make_folder(folder / "masks" / sequence.name)
        self.prompt: PromptKind = prompt
        self.first = sequence.label_map(0)
        self.object_ids = _object_ids(sequence)
        self.session = model.session(
            num_frames=len(sequence), size=self.first.shape, policy=policy, **options
        )
        self.seconds = 0.0
        self.shares: list[float] = []

    def run(self, progress: Progress | None) -> SequenceScore:
        metric = _metric(self.sequence)
        for prompt in first_frame_prompts(self.first, self.object_ids, self.prompt, 0):
            self.session.add(prompt)
        for index, frame in enumerate(self.sequence.frames()):
            labels = self._step(index, frame)
            if 0 < index < len(self.sequence) - 1:
                metric.update(labels, self.sequence.label_map(index))
            if self.masks is not None:
                path = self.masks / f"{self.sequence.pictures[index].stem}.png"
                with write_errors(path):
                    write_label_png(path, labels)
            if progress is not None:
                progress(self.sequence.name, index + 1, len(self.sequence))
        return SequenceScore(self.sequence.name, metric.compute(), len(self.sequence), self.seconds)

    def _step(self, index: int, frame: NDArray[np.uint8]) -> NDArray[np.int32]:
        started = time.perf_counter()
        result = self.session.step(frame)
        if index == 0:
            extra = CLICKS.get(self.prompt, 1) - 1
            if extra:
                result = add_error_clicks(self.session, result, self.first, extra)
        else:
            self.shares.append(float(result.blocks.mean()))
        labels = result.label_map()
        self.seconds += time.perf_counter() - started
        return labels


def _object_ids(sequence: DavisSequence) -> tuple[int, ...]:
    ids = tuple(int(i) for i in np.unique(sequence.label_map(0)) if i)
    if not ids:
        raise InputError(f"sequence {sequence.name} has no object in its first annotation")
    return ids


def _metric(sequence: DavisSequence) -> RegionBoundary:
    return RegionBoundary(_object_ids(sequence))


def summarise(
    scored: Sequence[SequenceScore], settings: dict[str, Any], blocks_run: float | None
) -> EvaluationSummary:
    """Average over all objects of all sequences; scores in percent."""
    objects = [score for sequence in scored for score in sequence.scores.objects]
    if not objects:
        raise InputError("no object was scored; sequences need at least three frames")
    seconds = sum(sequence.seconds for sequence in scored)
    frames = sum(sequence.frames for sequence in scored)

    def percent(value: Callable[[ObjectScore], float]) -> float:
        return 100 * float(np.mean([value(score) for score in objects]))

    return EvaluationSummary(
        mean=percent(lambda s: s.mean),
        region=percent(lambda s: s.region.mean),
        boundary=percent(lambda s: s.boundary.mean),
        region_recall=percent(lambda s: s.region.recall),
        boundary_recall=percent(lambda s: s.boundary.recall),
        region_decay=percent(lambda s: s.region.decay),
        boundary_decay=percent(lambda s: s.boundary.decay),
        fps=frames / seconds if seconds else None,
        frames=frames,
        objects=len(objects),
        blocks_run=blocks_run,
        per_sequence={s.name: 100 * s.scores.mean for s in scored},
        settings=settings,
    )


def write_tables(folder: Path, scored: Sequence[SequenceScore], summary: EvaluationSummary) -> None:
    """results.csv, a row per sequence and object, and summary.json."""
    with replacing(folder / "results.csv") as path, path.open("w", newline="") as file:
        writer = csv.writer(file)
        parts = [f"{m}_{s}" for m in ("J", "F") for s in ("mean", "recall", "decay")]
        writer.writerow(["sequence", "object", "J&F", *parts, "frames"])
        for sequence in scored:
            for score in sequence.scores.objects:
                values = (score.mean, *asdict(score.region).values())
                values += tuple(asdict(score.boundary).values())
                cells = [f"{100 * value:.3f}" for value in values]
                writer.writerow([sequence.name, score.object_id, *cells, score.frames])
    with replacing(folder / "summary.json") as path:
        path.write_text(json.dumps(asdict(summary), indent=2) + "\n")
