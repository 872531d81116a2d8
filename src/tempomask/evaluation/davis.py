"""Semi-supervised evaluation on DAVIS: objects given on the first frame, J&F over the others."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from tempomask.data.davis import Davis
from tempomask.data.sequences import MaskSequence
from tempomask.errors import InputError
from tempomask.evaluation.prompts import (
    CLICKS,
    PromptKind,
    add_error_clicks,
    check_kind,
    first_frame_prompts,
)
from tempomask.evaluation.settings import model_settings, run_settings
from tempomask.evaluation.summary import (
    EvaluationSummary,
    SequenceScore,
    summarise,
    write_results,
    write_summary,
)
from tempomask.files import make_folder, write_errors
from tempomask.io.images import read_mask, write_label_png
from tempomask.metrics.region_boundary import RegionBoundary
from tempomask.model import Model, RoutingChoice
from tempomask.propagation.model import Propagator
from tempomask.propagation.options import PropagationOptions
from tempomask.results import FrameResult
from tempomask.tracking.options import TrackingOptions
from tempomask.tracking.session import Session

__all__ = ["EvaluationSummary", "Progress", "SequenceScore", "evaluate", "evaluate_masks"]

# Called with the sequence, the number of its frames that are done, and the number of all of them.
Progress = Callable[[str, int, int], None]


def evaluate(
    model: Model | Propagator,
    root: str | Path,
    *,
    split: str | None = None,
    sequences: Sequence[str] | None = None,
    out: str | Path | None = None,
    prompt: PromptKind = "mask",
    single_object: bool = False,
    resolution: str | None = None,
    max_frames: int | None = None,
    options: TrackingOptions | PropagationOptions | None = None,
    routing: RoutingChoice = None,
    progress: Progress | None = None,
) -> EvaluationSummary:
    """Track every sequence of a DAVIS root from its first frame and score it.

    model: that tracks, or a propagator, which takes masks only.
    split, sequences, single_object, resolution, max_frames: as of `Davis`.
    out: folder for masks/SEQ/NNNNN.png (label maps, where objects overlap the highest logit wins),
        results.csv (up to date after each sequence) and summary.json; None writes nothing.
    prompt: how the objects of the first annotation are given: "mask", "box", "click" (the middle of
        the object), "3clicks" or "5clicks" (the others in the middle of the largest error so far).
    options, routing: same as in `Model.session`. progress: see `Progress`.

    The first and the last frame are not scored. FPS counts the time of `Session.step` and of the
    masks at the video's size; decoding, corrective clicks, scoring and writing are left out.

    Raises InputError for a root that `Davis` refuses, an unknown prompt or option, a sequence
    without objects on its first frame or of less than three frames, and a folder that cannot be
    written.
    """
    check_kind(prompt)
    dataset = _scorable(root, split, sequences, single_object, resolution, max_frames)
    folder = None if out is None else make_folder(out)
    runs = []
    for sequence in dataset:
        run = _SequenceRun(model, sequence, prompt, options, routing)
        with _mask_folder(folder, sequence.name) as masks:
            run.track(masks, progress)
        runs.append(run)
        if folder is not None:
            write_results(folder, [run.score for run in runs])
    shares = [share for run in runs for share in run.block_shares]
    settings = {
        **model_settings(model),
        "prompt": prompt,
        **_dataset_settings(dataset),
        **run_settings(options, routing),
    }
    scored = [run.score for run in runs]
    summary = summarise(scored, settings, float(np.mean(shares)) if shares else None)
    summary = _with_note(summary, max_frames)
    if folder is not None:
        write_summary(folder, summary)
    return summary


def evaluate_masks(
    root: str | Path,
    masks: str | Path,
    *,
    split: str | None = None,
    sequences: Sequence[str] | None = None,
    single_object: bool = False,
    resolution: str | None = None,
    max_frames: int | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> EvaluationSummary:
    """Score a folder of label maps, SEQ/NNNNN.png, against a DAVIS root.

    masks: that folder, or the `out` of `evaluate`. The other arguments are as of `evaluate`; out
    gets results.csv and summary.json. The first and the last frame need no prediction. Predicted
    ids that are not in the first annotation are ignored, with a note in the summary.

    Raises InputError for missing sequences and frames, and for masks of another size.
    """
    dataset = _scorable(root, split, sequences, single_object, resolution, max_frames)
    predicted = _predictions(Path(masks), dataset)
    folder = None if out is None else make_folder(out)
    scored = []
    for sequence, paths in zip(dataset, predicted, strict=True):
        metric = RegionBoundary(sequence.object_ids)
        for index, path in enumerate(paths, 1):
            labels = read_mask(path)
            if labels.shape != sequence.size:
                raise InputError(
                    f"{path} has {labels.shape[1]} x {labels.shape[0]} pixels, the frames of"
                    f" {sequence.name} have {sequence.size[1]} x {sequence.size[0]}; masks must"
                    " have the video's size"
                )
            if sequence.single_object:
                labels = (labels > 0).astype(np.int32)
            metric.update(labels, sequence.label_map(index))
            if progress is not None:
                progress(sequence.name, index, len(paths))
        scored.append(SequenceScore(sequence.name, metric.compute(), len(sequence)))
    settings = {"model": None, "masks": Path(masks).name, **_dataset_settings(dataset)}
    summary = _with_note(summarise(scored, settings), max_frames)
    if folder is not None:
        write_results(folder, scored)
        write_summary(folder, summary)
    return summary


class _SequenceRun:
    """Tracks and scores one sequence. block_shares: of the encoder, for frames after the first."""

    def __init__(
        self,
        model: Model | Propagator,
        sequence: MaskSequence,
        prompt: PromptKind,
        options: Any,
        routing: RoutingChoice,
    ) -> None:
        self.sequence = sequence
        self.first = sequence.label_map(0)
        self.further_clicks = CLICKS.get(prompt, 1) - 1
        self.session = model.session(
            num_frames=len(sequence), size=sequence.size, options=options, routing=routing
        )
        for given in first_frame_prompts(self.first, sequence.object_ids, prompt, 0):
            self.session.add(given)
        self.metric = RegionBoundary(sequence.object_ids)
        self.seconds = 0.0
        self.block_shares: list[float] = []

    @property
    def score(self) -> SequenceScore:
        length = len(self.sequence)
        return SequenceScore(self.sequence.name, self.metric.compute(), length, self.seconds)

    def track(self, masks: Path | None, progress: Progress | None) -> None:
        """Step through all frames; masks: folder to write the label maps to."""
        length = len(self.sequence)
        for index, frame in enumerate(self.sequence.frames()):
            labels = self._step(index, frame)
            if 0 < index < length - 1:
                self.metric.update(labels, self.sequence.label_map(index))
            if masks is not None:
                path = masks / f"{self.sequence.images[index].stem}.png"
                with write_errors(path):
                    write_label_png(path, labels)
            if progress is not None:
                progress(self.sequence.name, index + 1, length)

    def _step(self, index: int, frame: NDArray[np.uint8]) -> NDArray[np.int32]:
        started = time.perf_counter()
        result = self.session.step(frame)
        labels = result.label_map()
        self.seconds += time.perf_counter() - started
        if index > 0:
            self.block_shares.append(float(result.blocks.mean()))
        elif self.further_clicks:
            labels = self._corrected(result).label_map()
        return labels

    def _corrected(self, result: FrameResult) -> FrameResult:
        # Propagators take no clicks: they refuse the first one.
        return add_error_clicks(
            cast(Session, self.session), result, self.first, self.further_clicks
        )


def _scorable(
    root: str | Path,
    split: str | None,
    sequences: Sequence[str] | None,
    single_object: bool,
    resolution: str | None,
    max_frames: int | None,
) -> Davis:
    """The dataset; InputError, before anything is tracked, unless all sequences can be scored."""
    if max_frames is not None and max_frames < 3:
        raise InputError(
            f"max_frames {max_frames}: the first and the last frame are not scored; take 3 or more"
        )
    dataset = Davis(root, split, sequences, single_object, resolution, max_frames)
    for sequence in dataset:
        if len(sequence) < 3:
            raise InputError(
                f"sequence {sequence.name} has {len(sequence)} frames; the first and the last are"
                " not scored, so that it needs 3 or more"
            )
        _ = sequence.object_ids
    return dataset


@contextmanager
def _mask_folder(out: Path | None, name: str) -> Iterator[Path | None]:
    """A new folder for the masks of one sequence, put in place of an older one once it is full."""
    if out is None:
        yield None
        return
    target = out / "masks" / name
    part = target.with_name(f".{name}.part")
    shutil.rmtree(part, ignore_errors=True)
    make_folder(part)
    try:
        yield part
        with write_errors(target):
            if target.exists():
                shutil.rmtree(target)
            part.rename(target)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _predictions(folder: Path, dataset: Davis) -> list[list[Path]]:
    """The predicted mask of every scored frame, by sequence; InputError if any is missing."""
    if not folder.is_dir():
        raise InputError(f"no such folder of masks: {folder}; it needs a folder for each sequence")
    names = [sequence.name for sequence in dataset]
    if not any((folder / name).is_dir() for name in names) and (folder / "masks").is_dir():
        folder = folder / "masks"
    lacking = [name for name in names if not (folder / name).is_dir()]
    if lacking:
        shown = ", ".join(lacking[:5]) + (", ..." if len(lacking) > 5 else "")
        raise InputError(
            f"{folder} has no masks for {len(lacking)} of {len(names)} sequences: {shown}; add"
            " them, or name the sequences to score"
        )
    predicted = []
    for sequence in dataset:
        stems = [path.stem for path in sequence.images[1:-1]]
        paths = [folder / sequence.name / f"{stem}.png" for stem in stems]
        missing = [path for path in paths if not path.is_file()]
        if missing:
            raise InputError(
                f"no predicted mask {missing[0]} ({len(missing)} of {len(paths)} are missing);"
                " every scored frame needs one"
            )
        predicted.append(paths)
    return predicted


def _with_note(summary: EvaluationSummary, max_frames: int | None) -> EvaluationSummary:
    """The summary, with a word on frames left out."""
    if max_frames is None:
        return summary
    note = f"only the first {max_frames} frames of each sequence: no scores to compare with others"
    return replace(summary, notes=(*summary.notes, note))


def _dataset_settings(dataset: Davis) -> dict[str, Any]:
    return {
        "dataset": dataset.root.resolve().name,
        "split": dataset.split,
        "single_object": all(sequence.single_object for sequence in dataset),
        **({} if dataset.max_frames is None else {"max_frames": dataset.max_frames}),
    }
