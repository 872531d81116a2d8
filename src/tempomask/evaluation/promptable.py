"""Promptable video segmentation: clicks where the masks are worst, scored after each round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tempomask.data.sequences import ObjectSequence, SequenceSet, VideoObject
from tempomask.errors import Flaws, InputError
from tempomask.evaluation.click_rounds import (
    ClickPlan,
    Round,
    SessionTracker,
    offline_rounds,
    online_rounds,
)
from tempomask.evaluation.davis_interactive import curve, interactions
from tempomask.evaluation.settings import Progress, kept_record, model_settings, run_settings
from tempomask.files import make_folder, write_csv, write_json
from tempomask.model import Model
from tempomask.routed_model import RoutingChoice
from tempomask.tracking.options import TrackingOptions

_ROUND = {"J": float, "F": float, "seconds": float, "frames": [int]}
Rounds = dict[int, list[Round]]


@dataclass(frozen=True)
class PromptableSummary:
    """Scores after each round, over all objects of all videos.

    Attributes:
        rounds: J&F in percent after 1, 2 ... prompted frames.
        seconds: Mean of a pass over one object's video, by round.
        rows: J&F in percent by round, of each object, by sequence and id.
        settings: Of model, run and data.
        flaws: Why a sequence is not among them, by name.
        notes: What a reader of the scores should know.
        curve: DAVIS interactive's, see `davis_interactive.curve`; empty in other modes.
    """

    rounds: tuple[float, ...]
    seconds: tuple[float, ...]
    rows: dict[tuple[str, int], tuple[float, ...]]
    settings: dict[str, Any]
    flaws: Flaws
    notes: tuple[str, ...] = ()
    curve: Mapping[str, Any] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        """J&F in percent, averaged over the numbers of prompted frames."""
        return float(np.mean(self.rounds))

    def to_dict(self) -> dict[str, Any]:
        """As in summary.json."""
        protocol = (
            "promptable segmentation: J&F over objects, on frames scored by the data set's tool,"
            " averaged over the numbers of prompted frames"
        )
        if self.curve:
            protocol = "DAVIS interactive, with clicks for scribbles: J&F of all frames over time"
        return {
            "J&F": self.mean,
            "rounds": list(self.rounds),
            "seconds_a_round": list(self.seconds),
            "objects": len(self.rows),
            "protocol": protocol,
            **({"curve": dict(self.curve)} if self.curve else {}),
            "settings": self.settings,
            "flaws": self.flaws,
            "notes": list(self.notes),
        }


def evaluate_promptable(
    model: Model,
    dataset: SequenceSet[Any],
    plan: ClickPlan | None = None,
    *,
    out: str | Path | None = None,
    options: TrackingOptions | None = None,
    routing: RoutingChoice = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> PromptableSummary:
    """Click on every object of a data set with dense truth, and score it after each round.

    Args:
        model: That tracks.
        dataset: Of `ObjectSequence`s.
        plan: How videos are clicked on.
        out: Folder for rounds.csv (a line for each object, up to date after each video),
            rounds/SEQ.json and summary.json; None writes nothing.
        options: Same as in `Model.session`; but online, all results are kept.
        routing: Same as in `Model.session`.
        resume: Sequences that a run with the same settings has finished in `out` are not tracked.
        progress: Told about every object, in mode "davis" about every frame of all rounds.

    Raises:
        InputError: There is no video with truth on more than first masks, an option is unknown, or
            `out` holds another run.
    """
    plan = plan or ClickPlan()
    options = replace(options or TrackingOptions(), warn_of_clicks=False)
    if plan.mode != "online":
        options = replace(options, keep="all")
    folder = None if out is None else make_folder(out, "rounds")
    settings = {**model_settings(model), **asdict(plan), **dataset.settings()}
    settings |= run_settings(options, routing)
    flaws, sequences = Flaws(dataset.flaws), []
    for sequence in dataset:
        with flaws.of(sequence.name):
            if not any(item.scored for item in sequence.objects):
                raise InputError(f"sequence {sequence.name} has no truth beyond the first masks")
            sequence.check_sizes()
            sequence.check_prompts()
            sequences.append(sequence)
    flaws.check(sequences)
    flaws.tell()
    found: dict[tuple[str, int], list[Round]] = {}
    for sequence in sequences:
        with flaws.of(sequence.name):
            record = None if folder is None else folder / "rounds" / f"{sequence.name}.json"
            rounds = _kept(record, settings) if resume and record is not None else None
            if rounds is None:
                rounds = _rounds(model, sequence, plan, options, routing, progress)
                if record is not None:
                    _keep(record, rounds, settings)
            found |= {(sequence.name, key): value for key, value in rounds.items()}
        if folder is not None:
            _write_rounds(folder / "rounds.csv", found, plan.rounds)
    flaws.check(found)
    summary = _summary(found, plan, settings, flaws, dataset.notes)
    if folder is not None:
        write_json(folder / "summary.json", summary.to_dict(), default=str)
    return summary


def _summary(
    found: dict[tuple[str, int], list[Round]],
    plan: ClickPlan,
    settings: dict[str, Any],
    flaws: Flaws,
    notes: tuple[str, ...],
) -> PromptableSummary:
    scores = np.array([[r.mean for r in rounds] for rounds in found.values()])
    seconds = np.array([[r.seconds for r in rounds] for rounds in found.values()])
    return PromptableSummary(
        tuple((100 * scores.mean(axis=0)).tolist()),
        tuple(seconds.mean(axis=0).tolist()),
        {key: tuple(100 * r.mean for r in rounds) for key, rounds in found.items()},
        settings,
        flaws,
        notes,
        curve(found, plan) if plan.mode == "davis" else {},
    )


def _rounds(
    model: Model,
    sequence: ObjectSequence,
    plan: ClickPlan,
    options: TrackingOptions,
    routing: RoutingChoice,
    progress: Progress | None,
) -> Rounds:
    """The rounds of each object that is scored."""
    if plan.mode == "davis":
        shape: dict[str, Any] = {"num_frames": len(sequence), "size": sequence.size}
        session = model.session(**shape, options=options, routing=routing)
        return interactions(session, sequence, plan, progress)
    found: Rounds = {}
    for number, item in enumerate(sequence.objects, 1):

        def tracker(item: VideoObject = item) -> SessionTracker:
            return SessionTracker(model, sequence, item, options, routing)

        if item.scored and plan.mode == "online":
            found[item.object_id] = online_rounds(tracker, sequence, item, plan)
        elif item.scored:
            found[item.object_id] = offline_rounds(tracker(), sequence, item, plan)
        if progress is not None:
            progress(sequence.name, number, len(sequence.objects))
    return found


def _keep(record: Path, rounds: Rounds, settings: dict[str, Any]) -> None:
    make_folder(record.parent)
    objects = {str(key): [asdict(r) for r in value] for key, value in rounds.items()}
    write_json(record, {"objects": objects, "settings": settings}, default=str)


def _kept(record: Path, settings: dict[str, Any]) -> Rounds | None:
    """What an earlier run found on a sequence; None if it did not finish it."""
    kept = kept_record(record, settings, {"objects": {str: [_ROUND]}})
    if kept is None:
        return None
    return {
        int(key): [Round(r["J"], r["F"], r["seconds"], tuple(r["frames"])) for r in rounds]
        for key, rounds in kept["objects"].items()
    }


def _write_rounds(path: Path, found: dict[tuple[str, int], list[Round]], count: int) -> None:
    """J&F in percent after each round, and which frames were prompted."""
    rows = (
        [
            *key,
            *(f"{100 * r.mean:.3f}" for r in rounds),
            " ".join(map(str, rounds[-1].frames)),
        ]
        for key, rounds in found.items()
    )
    header = ["sequence", "object", *(f"J&F_{k}" for k in range(1, count + 1)), "prompted"]
    write_csv(path, header, rows)
