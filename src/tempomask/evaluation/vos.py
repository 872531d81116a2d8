"""Semi-supervised video object segmentation: objects are given by their first masks and followed.

`data/` has the readers; whatever is a set of `ObjectSequence`s can be evaluated. A video is tracked
to its end, its masks are written, and only then is its truth read and compared with them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from tempomask.data.sequences import ObjectSequence, SequenceSet
from tempomask.errors import Flaws, InputError
from tempomask.evaluation.mask_folders import (
    absent,
    check_masks,
    masks_root,
    score_masks,
    scored_frames,
    unpack_masks,
    write_submission,
)
from tempomask.evaluation.prompts import PromptKind, check_kind
from tempomask.evaluation.protocols import DAVIS, ObjectFrames, Protocol
from tempomask.evaluation.settings import Progress, kept_record, model_settings, run_settings
from tempomask.evaluation.submission import SubmissionFile
from tempomask.evaluation.vos_tracking import Tracked, track_sequence
from tempomask.files import make_folder, replacing_folder, write_csv, write_json
from tempomask.matching.model import Matcher
from tempomask.matching.options import MatchingOptions
from tempomask.model import Model
from tempomask.propagation.model import Propagator
from tempomask.propagation.options import PropagationOptions
from tempomask.routed_model import RoutingChoice
from tempomask.tracking.options import TrackingOptions


@dataclass(frozen=True)
class Shard:
    """Part `index` of `count`, from 1: every so many sequences, for one of several processes."""

    index: int
    count: int

    @classmethod
    def of(cls, text: str) -> Shard:
        """From "2/8"; InputError for anything else."""
        found = re.fullmatch("([0-9]{1,9})/([0-9]{1,9})", text)
        index, count = map(int, found.groups()) if found else (0, 0)
        if not 1 <= index <= count:
            raise InputError(f"--shard {text!r} is not a share; write 2/8 for the second of eight")
        return cls(index, count)


@dataclass(frozen=True)
class EvaluationSummary:
    """Scores over the objects of all sequences.

    Attributes:
        scores: Percent, by the names of the protocol; none where no truth is public.
        per_sequence: The protocol's headline in percent by sequence.
        frames: In all sequences, also those that are not scored.
        objects: That were scored.
        fps: Frames over seconds of tracking; None when masks on disk were scored.
        blocks_run: Mean share of encoder blocks that ran after the first frames.
        settings: Of model, run and data.
        flaws: Why a sequence is not among them, by name.
        notes: What a reader of the scores should know.
        protocol: What the scores are called, with its variant.
        headline: The name of the score that stands for all.
        rows: Scores in percent of each object, by sequence and id.
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
    protocol: str = DAVIS.name
    headline: str = DAVIS.headline
    rows: dict[tuple[str, int], dict[str, float]] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        """The headline in percent, J&F in most protocols; NaN without scores."""
        return self.scores.get(self.headline, float("nan"))

    def to_dict(self) -> dict[str, Any]:
        """As in summary.json."""
        return {
            **{name: None if np.isnan(value) else value for name, value in self.scores.items()},
            "FPS": self.fps,
            "frames": self.frames,
            "objects": self.objects,
            "model": self.settings.get("model"),
            "blocks_run": self.blocks_run,
            "protocol": self.protocol,
            "sequences": self.per_sequence,
            "settings": self.settings,
            "flaws": self.flaws,
            "notes": list(self.notes),
        }


def evaluate(
    model: Model | Propagator | Matcher,
    dataset: SequenceSet[Any],
    *,
    protocol: Protocol = DAVIS,
    out: str | Path | None = None,
    prompt: PromptKind = "mask",
    options: TrackingOptions | PropagationOptions | MatchingOptions | None = None,
    routing: RoutingChoice = None,
    resume: bool = False,
    shard: Shard | None = None,
    submission: SubmissionFile | None = None,
    progress: Progress | None = None,
) -> EvaluationSummary:
    """Track every sequence, each object from its first mask, and score it.

    FPS counts the time of `Session.step` and of the masks at the video's size; decoding, corrective
    clicks, scoring and writing are left out.

    Args:
        model: That tracks, or a propagator, which takes masks only.
        dataset: Of `ObjectSequence`s, for instance `Davis(root)`.
        protocol: How it is scored.
        out: Folder for masks/SEQ/NNNNN.png (label maps, where objects overlap the highest logit
            wins; or a folder for each object), tracked/SEQ.json, results.csv (up to date after each
            sequence) and summary.json; None keeps nothing.
        prompt: How an object is given where it first appears: "mask", "box", "click" (the middle of
            the object), "3clicks" or "5clicks" (the others in the middle of the largest error so
            far).
        options: Same as in `Model.session`.
        routing: Same as in `Model.session`.
        resume: Sequences that a run with the same settings has finished in `out` are only scored.
        shard: Only this part of the sequences; its tables are called so.
        submission: Also write the zip for a server.
        progress: Told about every frame.

    Raises:
        InputError: The prompt or an option is unknown, the folder cannot be written or holds
            another run, or no sequence can be tracked; those that cannot are listed in the summary.
    """
    check_kind(prompt)
    sequences, flaws = _usable(dataset, shard, submission)
    settings = {
        **model_settings(model),
        "prompt": prompt,
        **dataset.settings(),
        **run_settings(options, routing),
    }
    folder = None if out is None else make_folder(out, "masks", "tracked")
    scored = _Scored(protocol, dataset, flaws, folder, shard)
    with ExitStack() as stack:
        base = scored.folder or Path(stack.enter_context(TemporaryDirectory()))
        for sequence in sequences:
            with flaws.of(sequence.name):
                target, record = base / "masks" / sequence.name, base / "tracked"
                record = record / f"{sequence.name}.json"
                tracked = _finished(target, record, settings) if resume else None
                if tracked is None:
                    record.unlink(missing_ok=True)
                    with replacing_folder(target) as part:
                        tracked = track_sequence(
                            model, sequence, part, prompt, options, routing, progress
                        )
                    make_folder(record.parent)
                    write_json(record, {**asdict(tracked), "settings": settings}, default=str)
                scored.add(sequence, target, tracked)
        summary = scored.summary(settings)
        if submission is not None:
            submission.check(flaws)
            write_submission(submission, base / "masks", sequences)
    return summary


def evaluate_masks(
    dataset: SequenceSet[Any],
    masks: str | Path,
    *,
    protocol: Protocol = DAVIS,
    out: str | Path | None = None,
    submission: SubmissionFile | None = None,
    top: str = "",
    progress: Progress | None = None,
) -> EvaluationSummary:
    """Score a folder of masks that someone else made: SEQ/NNNNN.png, or SEQ/OBJECT/NNNNN.png.

    Frames that are not scored need no prediction. Predicted ids that no object has are ignored,
    with a note in the summary.

    Args:
        dataset: Same as in `evaluate`.
        masks: The folder, or the `out` of `evaluate`, or a zip made for a server.
        protocol: Same as in `evaluate`.
        out: Folder for results.csv and summary.json.
        submission: Also write the zip for a server, which needs all frames that it asks for.
        top: The one folder at the root of such a zip; "" for none.
        progress: Told about every sequence.

    Raises:
        InputError: A sequence or a frame is missing, the zip has another root, or no sequence can
            be scored.
    """
    sequences, flaws = _usable(dataset, None, submission)
    given = Path(masks)
    with ExitStack() as stack:
        if given.suffix == ".zip":
            base = Path(stack.enter_context(TemporaryDirectory()))
            folder = unpack_masks(given, base, sequences, top)
        else:
            folder = masks_root(given, sequences)
        check_masks(folder, sequences, protocol, every=submission is not None)
        scored = _Scored(protocol, dataset, flaws, None if out is None else make_folder(out))
        for sequence in sequences:
            with flaws.of(sequence.name):
                scored.add(sequence, folder / sequence.name)
                if progress is not None:
                    frames = max(len(scored_frames(sequence)), 1)
                    progress(sequence.name, frames, frames)
        if submission is not None:
            submission.check(flaws)
            write_submission(submission, folder, sequences)
    return scored.summary({"model": None, "masks": given.name, **dataset.settings()})


class _Scored:
    """The scores so far, also in results.csv: a row for each sequence and object, in percent."""

    def __init__(
        self,
        protocol: Protocol,
        dataset: SequenceSet[Any],
        flaws: Flaws,
        folder: Path | None,
        shard: Shard | None = None,
    ) -> None:
        self.protocol, self.dataset, self.flaws, self.folder = protocol, dataset, flaws, folder
        self.shard = shard
        self.suffix = "" if shard is None else f"-{shard.index}-of-{shard.count}"
        self.objects: dict[str, list[ObjectFrames]] = {}
        self.tracked: list[Tracked] = []
        self.notes: list[str] = []
        self.frames = 0

    def add(self, sequence: ObjectSequence, masks: Path, tracked: Tracked | None = None) -> None:
        """Score the masks in a sequence's folder."""
        if masks.is_dir():
            objects, strange = score_masks(masks, sequence, self.protocol)
        else:
            objects, strange = absent(sequence, self.protocol), set()
            self.notes.append(f"{sequence.name}: nothing was predicted, which scores 0")
        self.objects[sequence.name] = objects
        self.frames += len(sequence)
        if tracked is not None:
            self.tracked.append(tracked)
        if strange:
            names = ", ".join(map(str, sorted(strange)))
            self.notes.append(f"{sequence.name}: predicted ids of no object are ignored: {names}")
        if self.folder is not None:
            _write_results(self.folder / f"results{self.suffix}.csv", self._of_objects())

    def summary(self, settings: dict[str, Any]) -> EvaluationSummary:
        """Average, and write summary.json; the first flaw if there is no sequence."""
        self.flaws.check(self.objects)
        rows = {(f.sequence, f.object_id): scores for f, scores in self._of_objects()}
        together = [frames for objects in self.objects.values() for frames in objects]
        if not together:
            self.notes.append("no scores: the data set has no truth beyond the first masks")
        head, total = self.protocol.headline, self.protocol.total
        seconds = sum(part.seconds for part in self.tracked)
        counted = [part for part in self.tracked if part.blocks_frames]
        weights = [part.blocks_frames for part in counted]
        if self.shard is not None:
            settings = {**settings, "shard": f"{self.shard.index}/{self.shard.count}"}
        summary = EvaluationSummary(
            scores=_percent(total(together)) if together else {},
            per_sequence={n: 100 * total(o)[head] for n, o in self.objects.items() if o},
            frames=self.frames,
            objects=len(together),
            fps=sum(part.frames for part in self.tracked) / seconds if seconds else None,
            blocks_run=float(np.average([p.blocks_run for p in counted], weights=weights))
            if counted
            else None,
            settings=settings,
            flaws=self.flaws,
            notes=(*self.notes, *self.dataset.notes),
            protocol=self.protocol.name,
            headline=head,
            rows=rows,
        )
        if self.folder is not None:
            path = self.folder / f"summary{self.suffix}.json"
            write_json(path, summary.to_dict(), default=str)
        return summary

    def _of_objects(self) -> list[tuple[ObjectFrames, dict[str, float]]]:
        together = [frames for objects in self.objects.values() for frames in objects]
        return [(frames, _percent(self.protocol.of_object(frames))) for frames in together]


def _percent(scores: dict[str, float]) -> dict[str, float]:
    return {name: 100 * value for name, value in scores.items()}


def _usable(
    dataset: SequenceSet[Any], shard: Shard | None, submission: SubmissionFile | None
) -> tuple[list[ObjectSequence], Flaws]:
    """The sequences that can be evaluated, before anything is tracked, and what others lack.

    Reads the first masks, and the headers of all files. InputError, the first flaw, if there are
    none, or if all are to be submitted.
    """
    found, flaws = [], Flaws(dataset.flaws)
    wanted = list(dataset)
    if shard is not None:
        wanted = wanted[shard.index - 1 :: shard.count]
    for sequence in wanted:
        with flaws.of(sequence.name):
            if len(sequence) < 3:
                raise InputError(
                    f"sequence {sequence.name} has {len(sequence)} frames to read; the first and"
                    " the last are not scored, so that it needs 3 or more"
                )
            sequence.check_sizes()
            sequence.check_prompts()
            found.append(sequence)
    flaws.check(found)
    if submission is not None:
        submission.check(flaws)
    flaws.tell()
    return found, flaws


def _finished(masks: Path, record: Path, settings: dict[str, Any]) -> Tracked | None:
    """What an earlier run noted of a sequence; None if it did not finish it.

    InputError if that run had other settings.
    """
    numbers = {"frames": int, "seconds": float, "blocks_run": float, "blocks_frames": int}
    kept = kept_record(record, settings, numbers) if masks.is_dir() else None
    return None if kept is None else Tracked(**kept)


def _write_results(path: Path, scored: Sequence[tuple[ObjectFrames, dict[str, float]]]) -> None:
    """A row for each sequence and object, scores in percent."""
    names = list(scored[0][1]) if scored else []
    rows = (
        [
            frames.sequence,
            frames.object_id,
            *("" if np.isnan(value) else f"{value:.3f}" for value in scores.values()),
            len(next(iter(frames.values.values()))),
        ]
        for frames, scores in scored
    )
    write_csv(path, ["sequence", "object", *names, "frames"], rows)
