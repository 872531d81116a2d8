"""What a comparison shows: a table, differences with their noise, and what RDS claims of itself.

Differences are of J&F per sequence, averaged over seeds, paired, with a bootstrap over sequences.
Methods are compared at the same measured multiply-adds of the encoder: scores are interpolated,
sequence by sequence, between the two points of a method around that cost.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from studies.bootstrap import Estimate, bootstrap_difference, bootstrap_mean
from studies.rds.comparison import REFERENCES, PointResult

if TYPE_CHECKING:
    from tempomask.evaluation.frame_times import PairedTimes

# What the paper says of its main setting: Tables 1 and 9 and section 4.
CLAIMED_LOSS, CLAIMED_OVER_PBD, CLAIMED_OVER_SLIM = 0.4, 4.0, 1.8
CLAIMED_SHARE = 0.06
# Its share of the full encoder's multiply-adds there (500 of 819 GFLOPs).
CLAIMED_COST = 0.61
# Costs that differ by less than this share are the same: routers themselves cost about as much.
SAME_COST = 0.01
# Where speeds come from.
TIMED = "Speed-up and FPS were measured in turns with the full model, on the same frames"
UNTIMED = "FPS was measured after each training, on whatever else the machine did; see --time"
PARTLY = f"{TIMED}; rows without a speed-up were not: their {UNTIMED}"


@dataclass(frozen=True)
class Row:
    """One method at one cost that was aimed at, averaged over its seeds.

    budget: of the method's own. scores: J&F by sequence. seeds: J&F of each seed. estimate: of the
    mean, over sequences. macs, published: means, as measured. trained_share: of the network's
    parameters. fps: of whole frames, measured in turns with the full model where there are
    `ratios`, else the mean of what was measured after each training. ratios: how many times as
    fast as the full model, of every seed and round.
    """

    method: str
    cost: float
    budget: float
    scores: dict[str, float]
    seeds: tuple[float, ...]
    estimate: Estimate
    macs: float
    published: float
    fps: float
    trained_share: float
    blocks_run: float | None
    ratios: tuple[float, ...] = ()

    @property
    def speedup(self) -> float | None:
        """How many times as fast as the full model whole frames are; None if not timed so."""
        return float(np.median(self.ratios)) if self.ratios else None

    def to_dict(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "cost": self.cost,
            "budget": self.budget,
            "J&F": round(float(np.mean(self.seeds)), 3),
            "J&F_seeds": [round(x, 3) for x in self.seeds],
            "J&F_over_sequences": self.estimate.to_dict(),
            "encoder_GMACs": round(self.macs / 1e9, 4),
            "encoder_GMACs_as_published": round(self.published / 1e9, 4),
            "FPS": round(self.fps, 3),
            "speedup": self.speedup and round(self.speedup, 4),
            "speedup_of_rounds": [round(ratio, 4) for ratio in self.ratios],
            "trained_share": round(self.trained_share, 5),
            "blocks_run": self.blocks_run,
            "sequences": {name: round(x, 3) for name, x in self.scores.items()},
        }


def rows_of(
    results: Sequence[PointResult], times: Mapping[str, PairedTimes] | None = None
) -> list[Row]:
    """Points of the same method and cost as one row; methods as they come, costs down.

    times: of points by name, as `times.kept_times` has them.
    """
    times = times or {}
    # One full model for all: what its frames took in all turns.
    full = float(np.median([time.full for time in times.values()])) if times else 0.0
    groups: dict[tuple[str, float], list[PointResult]] = defaultdict(list)
    for result in results:
        groups[result.point.method, result.point.cost].append(result)
    rows = []
    for (method, cost), members in groups.items():
        names = members[0].per_sequence
        scores = {n: float(np.mean([m.per_sequence[n] for m in members])) for n in names}
        shares = [m.blocks_run for m in members if m.blocks_run is not None]
        timed = [times[m.point.name] for m in members if m.point.name in times]
        ratios = tuple(ratio for time in timed for ratio in time.ratios)
        fps = float(np.median(ratios)) / full if ratios else np.mean([m.fps for m in members])
        rows.append(
            Row(
                method,
                cost,
                members[0].budget,
                scores,
                tuple(m.mean for m in sorted(members, key=lambda m: m.point.seed)),
                bootstrap_mean(list(scores.values())),
                macs=float(np.mean([m.macs for m in members])),
                published=float(np.mean([m.published for m in members])),
                fps=float(fps),
                trained_share=float(np.mean([m.trained / m.parameters for m in members])),
                blocks_run=round(float(np.mean(shares)), 4) if shares else None,
                ratios=ratios,
            )
        )
    order = {method: place for place, method in enumerate(dict.fromkeys(r.method for r in rows))}
    return sorted(rows, key=lambda row: (order[row.method], -row.cost))


def scores_at_cost(rows: Sequence[Row], macs: float) -> dict[str, float] | None:
    """Scores of one method at a cost; None beyond its points.

    A point of the same cost, to 1%, stands for itself; between points they are interpolated.
    """
    nearest = min(rows, key=lambda row: abs(row.macs - macs))
    if abs(nearest.macs - macs) <= SAME_COST * macs:
        return nearest.scores
    ordered = sorted(rows, key=lambda row: row.macs)
    for below, above in zip(ordered, ordered[1:], strict=False):
        if below.macs <= macs <= above.macs:
            share = (macs - below.macs) / max(above.macs - below.macs, 1e-9)
            return {
                name: (1 - share) * below.scores[name] + share * above.scores[name]
                for name in below.scores
            }
    return None


def differences(rows: Sequence[Row], reference: str = "rds") -> list[dict[str, Any]]:
    """RDS at its measured cost minus every other method at the same, or minus all blocks."""
    found = []
    for own in (row for row in rows if row.method == reference):
        for method, others in by_method(rows).items():
            if method == reference:
                continue
            other = others[0].scores if method in REFERENCES else scores_at_cost(others, own.macs)
            found.append(
                {
                    "cost": own.cost,
                    "encoder_GMACs": round(own.macs / 1e9, 4),
                    "against": method,
                    "difference": _difference(own.scores, other),
                }
            )
    return found


def by_method(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each method."""
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        found[row.method].append(row)
    return found


def _difference(
    own: Mapping[str, float] | None, other: Mapping[str, float] | None
) -> dict[str, Any] | None:
    return None if own is None or other is None else bootstrap_difference(own, other).to_dict()


def claims(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """What the paper claims for RDS at 61% of the encoder, and what is measured.

    Every method at that very cost, between its points; none without RDS and the full model.
    """
    methods = by_method(rows)
    if not methods["rds"] or not methods["full"]:
        return []
    full = methods["full"][0]
    cost = CLAIMED_COST * full.macs
    at_cost = {name: scores_at_cost(found, cost) for name, found in methods.items() if found}
    own, share = at_cost["rds"], f"{CLAIMED_COST:.0%} of the encoder's multiply-adds"
    measured: list[tuple[str, Mapping[str, float] | None, float]] = [
        (
            f"loses at most {CLAIMED_LOSS} J&F at {share}, against the full model trained as long",
            full.scores,
            -CLAIMED_LOSS,
        ),
        *(
            (f"beats {name} by {gain} J&F there", at_cost.get(method), gain)
            for name, method, gain in (
                ("PBD by measured harm", "pbd", CLAIMED_OVER_PBD),
                ("PBD as in the paper", "pbd-last", CLAIMED_OVER_PBD),
                ("SlimSAM", "slim", CLAIMED_OVER_SLIM),
                ("SlimSAM as in the paper", "slim-paper", CLAIMED_OVER_SLIM),
            )
        ),
    ]
    found: list[dict[str, Any]] = []
    for text, other, least in measured:
        value = _difference(own, other)
        found.append({"claim": text, "measured": value, "seen": value and value["mean"] >= least})
    trained = max(row.trained_share for row in methods["rds"])
    text = f"trains at most {CLAIMED_SHARE:.0%} of the parameters"
    measured_share = {"mean": round(trained, 5)}
    return [
        *found,
        {"claim": text, "measured": measured_share, "seen": trained <= CLAIMED_SHARE},
    ]


def summarise_comparison(
    results: Sequence[PointResult], times: Mapping[str, PairedTimes] | None = None
) -> dict[str, Any]:
    """Everything for pareto.json; times: same as for `rows_of`."""
    rows = rows_of(results, times)
    return {
        "speed": speed_note(rows),
        "rows": [row.to_dict() for row in rows],
        "differences": differences(rows),
        "claims": claims(rows),
    }


def markdown_table(rows: Sequence[Row]) -> str:
    """The paper's Table 9, with costs; in brackets, the share of what the full model takes."""
    lines = [
        "| method | budget | J&F | 95% over sequences | encoder GMACs | FPS | speed-up | trained |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    full = max((row.macs for row in rows if row.method in REFERENCES), default=0.0)
    for row in rows:
        mean = float(np.mean(row.seeds))
        spread = f" ± {np.std(row.seeds, ddof=1):.1f}" if len(row.seeds) > 1 else ""
        lines.append(
            f"| {row.method} | {row.budget:g} | {mean:.1f}{spread} |"
            f" {row.estimate.low:.1f} to {row.estimate.high:.1f} |"
            f" {row.macs / 1e9:.2f}{f' ({row.macs / full:.0%})' if full else ''} |"
            f" {row.fps:.1f} | {speedup_text(row)} | {row.trained_share:.1%} |"
        )
    return "\n".join([*lines, "", f"{speed_note(rows)}."]) + "\n"


def speed_note(rows: Sequence[Row]) -> str:
    """Where the speeds of these rows come from."""
    timed = [bool(row.ratios) for row in rows]
    if all(timed):
        return TIMED
    return PARTLY if any(timed) else UNTIMED


def speedup_text(row: Row) -> str:
    """How many times as fast as the full model, or that it was not timed."""
    return "-" if row.speedup is None else f"{row.speedup:.2f}x"
