"""Semi-supervised video object segmentation: objects given on the first frame, J&F over the others.

`data/` has the readers; whatever is a set of `MaskSequence`s can be evaluated.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from tempomask.data.sequences import MaskSequence, SequenceSet
from tempomask.errors import Flaws, InputError
from tempomask.evaluation.prompts import (
    CLICKS,
    PromptKind,
    add_error_clicks,
    check_kind,
    first_frame_prompts,
)
from tempomask.evaluation.settings import Progress, model_settings, run_settings
from tempomask.files import make_folder, replacing_folder, write_csv, write_errors, write_json
from tempomask.io.images import read_mask, write_label_png
from tempomask.metrics.region_boundary import SCORES, RegionBoundary, RegionBoundaryResult
from tempomask.model import Model
from tempomask.propagation.model import Propagator
from tempomask.propagation.options import PropagationOptions
from tempomask.routed_model import RoutingChoice
from tempomask.tracking.options import TrackingOptions
from tempomask.tracking.session import Session

Sequences = SequenceSet[MaskSequence]


@dataclass(frozen=True)
class SequenceScore:
    """What was found on one sequence.

    Attributes:
        name: Of the sequence.
        scores: Of its objects.
        frames: All of them, also those that are not scored.
        seconds: Of tracking, 0 for masks from disk.
        block_shares: Share of the encoder's blocks that ran on each frame after the first.
    """

    name: str
    scores: RegionBoundaryResult
    frames: int
    seconds: float = 0.0
    block_shares: tuple[float, ...] = ()


@dataclass(frozen=True)
class EvaluationSummary:
    """Scores over the objects of all sequences, averaged as the DAVIS toolkit does.

    Attributes:
        scores: Percent, by the names of `metrics.region_boundary.SCORES`.
        per_sequence: J&F in percent by sequence.
        frames: In all sequences, also the first and last ones, which are not scored.
        objects: That were scored.
        fps: Frames over seconds of tracking; None when masks on disk were scored.
        blocks_run: Mean share of encoder blocks that ran after the first frames.
        settings: Of model, run and data.
        flaws: Why a sequence is not among them, by name.
        notes: What a reader of the scores should know.
    """

    scores: dict[str, float]
    per_sequence: dict[str, float]
    frames: int
    objects: int
    fps: float | None
    blocks_run: float | None
    settings: dict[str, Any]
    flaws: Flaws
    notes: tuple[str, ...] = ()

    @property
    def mean(self) -> float:
        """J&F in percent."""
        return self.scores["J&F"]

    def to_dict(self) -> dict[str, Any]:
        """As in summary.json."""
        return {
            **self.scores,
            "FPS": self.fps,
            "frames": self.frames,
            "objects": self.objects,
            "model": self.settings.get("model"),
            "blocks_run": self.blocks_run,
            "sequences": self.per_sequence,
            "settings": self.settings,
            "flaws": self.flaws,
            "notes": list(self.notes),
        }


def evaluate(
    model: Model | Propagator,
    dataset: Sequences,
    *,
    out: str | Path | None = None,
    prompt: PromptKind = "mask",
    options: TrackingOptions | PropagationOptions | None = None,
    routing: RoutingChoice = None,
    progress: Progress | None = None,
) -> EvaluationSummary:
    """Track every sequence from its first frame and score it.

    The first and the last frame are not scored. FPS counts the time of `Session.step` and of the
    masks at the video's size; decoding, corrective clicks, scoring and writing are left out.

    Args:
        model: That tracks, or a propagator, which takes masks only.
        dataset: The sequences, for instance `Davis(root)`.
        out: Folder for masks/SEQ/NNNNN.png (label maps, where objects overlap the highest logit
            wins), results.csv (up to date after each sequence) and summary.json; None writes
            nothing.
        prompt: How the objects of the first annotation are given: "mask", "box", "click" (the
            middle of the object), "3clicks" or "5clicks" (the others in the middle of the largest
            error so far).
        options: Same as in `Model.session`.
        routing: Same as in `Model.session`.
        progress: Told about every frame.

    Raises:
        InputError: The prompt or an option is unknown, the folder cannot be written, or no sequence
            can be scored; those that cannot are listed in the summary.
    """
    check_kind(prompt)
    sequences, flaws = _scorable(dataset)
    folder = None if out is None else make_folder(out)
    scored: list[SequenceScore] = []
    for sequence in sequences:
        target = None if folder is None else folder / "masks" / sequence.name
        with (
            flaws.of(sequence.name),
            nullcontext() if target is None else replacing_folder(target) as masks,
        ):
            scored.append(_track(model, sequence, prompt, options, routing, masks, progress))
        if folder is not None:
            _write_results(folder, scored)
    settings = {
        **model_settings(model),
        "prompt": prompt,
        **dataset.settings(),
        **run_settings(options, routing),
    }
    return _summarise(dataset, scored, settings, folder, flaws)


def evaluate_masks(
    dataset: Sequences,
    masks: str | Path,
    *,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> EvaluationSummary:
    """Score a folder of label maps, SEQ/NNNNN.png.

    The first and the last frame need no prediction. Predicted ids that are not in the first
    annotation are ignored, with a note in the summary.

    Args:
        dataset: Same as in `evaluate`.
        masks: The folder, or the `out` of `evaluate`.
        out: Folder for results.csv and summary.json.
        progress: Told about every frame.

    Raises:
        InputError: A sequence or a frame is missing, or no sequence can be scored.
    """
    sequences, flaws = _scorable(dataset)
    predicted = _predictions(Path(masks), sequences)
    folder = None if out is None else make_folder(out)
    scored = []
    for sequence, paths in zip(sequences, predicted, strict=True):
        with flaws.of(sequence.name):
            metric = RegionBoundary(sequence.object_ids)
            for index, path in enumerate(paths, 1):
                labels = sequence.checked(read_mask(path), path)
                metric.update(labels, sequence.label_map(index))
                if progress is not None:
                    progress(sequence.name, index, len(paths))
            scored.append(SequenceScore(sequence.name, metric.compute(), len(sequence)))
    if folder is not None:
        _write_results(folder, scored)
    settings = {"model": None, "masks": Path(masks).name, **dataset.settings()}
    return _summarise(dataset, scored, settings, folder, flaws)


def _track(
    model: Model | Propagator,
    sequence: MaskSequence,
    prompt: PromptKind,
    options: Any,
    routing: RoutingChoice,
    masks: Path | None,
    progress: Progress | None,
) -> SequenceScore:
    """Step through all frames of a sequence; masks: folder to write the label maps to."""
    truth, length = sequence.label_map(0), len(sequence)
    session = model.session(num_frames=length, size=sequence.size, options=options, routing=routing)
    for given in first_frame_prompts(truth, sequence.object_ids, prompt, 0):
        session.add(given)
    metric = RegionBoundary(sequence.object_ids)
    seconds, shares = 0.0, []
    for index, frame in enumerate(sequence.frames()):
        started = time.perf_counter()
        result = session.step(frame)
        labels = result.label_map()
        seconds += time.perf_counter() - started
        if index > 0:
            shares.append(float(result.blocks.mean()))
        elif prompt in CLICKS:
            # Propagators take no clicks: they have refused the first one.
            clicks = CLICKS[prompt] - 1
            corrected = add_error_clicks(cast(Session, session), result, truth, clicks)
            labels = corrected.label_map()
        if 0 < index < length - 1:
            metric.update(labels, sequence.label_map(index))
        if masks is not None:
            path = masks / f"{sequence.images[index].stem}.png"
            with write_errors(path):
                write_label_png(path, labels)
        if progress is not None:
            progress(sequence.name, index + 1, length)
    return SequenceScore(sequence.name, metric.compute(), length, seconds, tuple(shares))


def _scorable(dataset: Sequences) -> tuple[list[MaskSequence], Flaws]:
    """The sequences that can be scored, before anything is tracked, and what others lack.

    InputError, the first flaw, if there are none.
    """
    found, flaws = [], Flaws(dataset.flaws)
    for sequence in dataset:
        with flaws.of(sequence.name):
            if len(sequence) < 3:
                raise InputError(
                    f"sequence {sequence.name} has {len(sequence)} frames to read; the first and"
                    " the last are not scored, so that it needs 3 or more"
                )
            _ = sequence.object_ids
            found.append(sequence)
    flaws.check(found)
    return found, flaws


def _predictions(folder: Path, dataset: Sequence[MaskSequence]) -> list[list[Path]]:
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


def _write_results(folder: Path, scored: Sequence[SequenceScore]) -> None:
    """results.csv: a row for each sequence and object, scores in percent."""
    rows = (
        [
            sequence.name,
            score.object_id,
            *(f"{100 * value(score):.3f}" for value in SCORES.values()),
            score.frames,
        ]
        for sequence in scored
        for score in sequence.scores.objects
    )
    write_csv(folder / "results.csv", ["sequence", "object", *SCORES, "frames"], rows)


def _summarise(
    dataset: Sequences,
    scored: Sequence[SequenceScore],
    settings: dict[str, Any],
    folder: Path | None,
    flaws: Flaws,
) -> EvaluationSummary:
    """Average over all objects, and write summary.json; the first flaw if there are none."""
    flaws.check(scored)
    together = RegionBoundaryResult(tuple(o for s in scored for o in s.scores.objects))
    seconds = sum(sequence.seconds for sequence in scored)
    frames = sum(sequence.frames for sequence in scored)
    shares = [share for sequence in scored for share in sequence.block_shares]
    ignored = [
        f"{s.name}: predicted ids that the first annotation does not have are ignored:"
        f" {', '.join(map(str, s.scores.ignored_ids))}"
        for s in scored
        if s.scores.ignored_ids
    ]
    summary = EvaluationSummary(
        scores={name: 100 * value for name, value in together.scores().items()},
        per_sequence={sequence.name: 100 * sequence.scores.mean for sequence in scored},
        frames=frames,
        objects=len(together.objects),
        fps=frames / seconds if seconds else None,
        blocks_run=float(np.mean(shares)) if shares else None,
        settings=settings,
        flaws=flaws,
        notes=(*ignored, *dataset.notes),
    )
    if folder is not None:
        write_json(folder / "summary.json", summary.to_dict(), default=str)
    return summary
