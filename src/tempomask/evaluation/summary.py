"""Scores of an evaluation: by object, averaged, and as results.csv and summary.json."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tempomask.errors import InputError
from tempomask.files import replacing, write_errors, write_json
from tempomask.metrics.region_boundary import ObjectScore, RegionBoundaryResult


@dataclass(frozen=True)
class SequenceScore:
    """Scores of one sequence; seconds of tracking, 0 for masks from disk."""

    name: str
    scores: RegionBoundaryResult
    frames: int
    seconds: float = 0.0


@dataclass(frozen=True)
class EvaluationSummary:
    """Scores in percent, averaged over the objects of all sequences as the DAVIS toolkit does.

    mean: J&F; region: J; boundary: F. per_sequence: J&F by sequence. frames: in all sequences, also
    the first and last ones, which are not scored. fps: frames over seconds of tracking; None when
    masks on disk were scored. blocks_run: mean share of encoder blocks that ran after the first
    frames. notes: what a reader of the scores should know.
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
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As in summary.json, with the names that papers use."""
        return {
            "J&F": self.mean,
            "J": self.region,
            "F": self.boundary,
            "J_recall": self.region_recall,
            "F_recall": self.boundary_recall,
            "J_decay": self.region_decay,
            "F_decay": self.boundary_decay,
            "FPS": self.fps,
            "frames": self.frames,
            "objects": self.objects,
            "model": self.settings.get("model"),
            "blocks_run": self.blocks_run,
            "sequences": self.per_sequence,
            "settings": self.settings,
            "notes": list(self.notes),
        }


def summarise(
    scored: Sequence[SequenceScore], settings: dict[str, Any], blocks_run: float | None = None
) -> EvaluationSummary:
    """Average over all objects of all sequences. Raises InputError if no object was scored."""
    together = RegionBoundaryResult(tuple(o for s in scored for o in s.scores.objects))
    if not together.objects:
        raise InputError("no object was scored; sequences need at least three frames")
    seconds = sum(sequence.seconds for sequence in scored)
    frames = sum(sequence.frames for sequence in scored)
    return EvaluationSummary(
        mean=100 * together.mean,
        region=100 * together.region,
        boundary=100 * together.boundary,
        region_recall=100 * together.region_recall,
        boundary_recall=100 * together.boundary_recall,
        region_decay=100 * together.region_decay,
        boundary_decay=100 * together.boundary_decay,
        fps=frames / seconds if seconds else None,
        frames=frames,
        objects=len(together.objects),
        blocks_run=blocks_run,
        per_sequence={sequence.name: 100 * sequence.scores.mean for sequence in scored},
        settings=settings,
        notes=tuple(_note(sequence) for sequence in scored if sequence.scores.ignored_ids),
    )


def _note(sequence: SequenceScore) -> str:
    ids = ", ".join(str(object_id) for object_id in sequence.scores.ignored_ids)
    return (
        f"{sequence.name}: predicted ids that the first annotation does not have are ignored: {ids}"
    )


_COLUMNS = {
    "J&F": lambda score: score.mean,
    "J": lambda score: score.region.mean,
    "F": lambda score: score.boundary.mean,
    "J_recall": lambda score: score.region.recall,
    "F_recall": lambda score: score.boundary.recall,
    "J_decay": lambda score: score.region.decay,
    "F_decay": lambda score: score.boundary.decay,
}


def write_results(folder: Path, scored: Sequence[SequenceScore]) -> None:
    """Write results.csv: a row for each sequence and object, scores in percent."""
    path = folder / "results.csv"
    with write_errors(path), replacing(path) as part, part.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["sequence", "object", *_COLUMNS, "frames"])
        for sequence in scored:
            for score in sequence.scores.objects:
                writer.writerow([sequence.name, score.object_id, *_cells(score), score.frames])


def _cells(score: ObjectScore) -> list[str]:
    return [f"{100 * value(score):.3f}" for value in _COLUMNS.values()]


def write_summary(folder: Path, summary: EvaluationSummary) -> None:
    """Write summary.json, see `EvaluationSummary.to_dict`."""
    write_json(folder / "summary.json", summary.to_dict(), default=str)
