"""What a comparison shows: a table, differences with their noise, and what RDS claims of itself.

Differences are of J&F per sequence, averaged over seeds, paired, with a bootstrap over sequences.
"At the same FLOPs" means that the other method's scores are interpolated, sequence by sequence,
between its two points around the cost of RDS.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from studies.bootstrap import Estimate, bootstrap_difference, bootstrap_mean
from studies.rds.comparison import REFERENCES, PointResult

if TYPE_CHECKING:
    from tempomask.evaluation.frame_times import PairedTimes

# The paper's main setting, and what it says there: Tables 1 and 9 and section 4.
CLAIMED_BUDGET = 0.6
CLAIMED_LOSS, CLAIMED_OVER_PBD, CLAIMED_OVER_SLIM = 0.4, 4.0, 1.8
CLAIMED_SHARE = 0.06
# Of the full encoder's multiply-adds, what the paper's RDS at 0.6 takes (500 of 819 GFLOPs).
CLAIMED_COST = 0.61
# Costs that differ by less than this share are the same: routers themselves cost about as much.
SAME_COST = 0.01
# Where speeds come from.
TIMED = "Speed-up and FPS were measured in turns with the full model, on the same frames"
UNTIMED = "FPS was measured after each training, on whatever else the machine did; see --time"
PARTLY = f"{TIMED}; rows without a speed-up were not: their {UNTIMED}"


@dataclass(frozen=True)
class Row:
    """One method at one budget, averaged over its seeds.

    scores: J&F by sequence. seeds: J&F of each seed. estimate: of the mean, over sequences. macs,
    published: means. trained_share: of the network's parameters. fps: of whole frames, measured in
    turns with the full model where there are `ratios`, else the mean of what was measured after
    each training. ratios: how many times as fast as the full model, of every seed and round.
    """

    method: str
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
    """Points of the same method and budget as one row; methods as they come, budgets down.

    times: of points by name, as `times.kept_times` has them.
    """
    times = times or {}
    # One full model for all: what its frames took in all turns.
    full = float(np.median([time.full for time in times.values()])) if times else 0.0
    groups: dict[tuple[str, float], list[PointResult]] = defaultdict(list)
    for result in results:
        groups[result.point.method, result.point.budget].append(result)
    rows = []
    for (method, budget), members in groups.items():
        names = members[0].per_sequence
        scores = {n: float(np.mean([m.per_sequence[n] for m in members])) for n in names}
        shares = [m.blocks_run for m in members if m.blocks_run is not None]
        timed = [times[m.point.name] for m in members if m.point.name in times]
        ratios = tuple(ratio for time in timed for ratio in time.ratios)
        fps = float(np.median(ratios)) / full if ratios else np.mean([m.fps for m in members])
        rows.append(
            Row(
                method,
                budget,
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
    return sorted(rows, key=lambda row: (order[row.method], -row.budget))


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
    """RDS minus every other method, at the same budget and at the same cost of the encoder."""
    by_method: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_method[row.method].append(row)
    found = []
    for own in by_method.get(reference, []):
        for method, others in by_method.items():
            if method == reference:
                continue
            same = next((row for row in others if row.budget == own.budget), None)
            if method in REFERENCES:  # of one point, at no budget
                same = others[0]
            interpolated = scores_at_cost(others, own.macs)
            found.append(
                {
                    "budget": own.budget,
                    "against": method,
                    "at_same_budget": _difference(own.scores, same and same.scores),
                    "at_same_cost": _difference(own.scores, interpolated),
                }
            )
    return found


def _difference(
    own: Mapping[str, float], other: Mapping[str, float] | None
) -> dict[str, Any] | None:
    return None if other is None else bootstrap_difference(own, other).to_dict()


def claims(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """What the paper claims for RDS at 0.6, what is measured here, and whether it is seen."""
    own = next((r for r in rows if r.method == "rds" and r.budget == CLAIMED_BUDGET), None)
    if own is None:
        return []
    found = differences(rows)

    def against(method: str, kind: str) -> dict[str, Any] | None:
        match = (d for d in found if d["against"] == method and d["budget"] == CLAIMED_BUDGET)
        return next((d[kind] for d in match), None)

    full = next((r for r in rows if r.method == "full"), None)
    routed = [r for r in rows if r.method == "rds"]
    cheaper = full and scores_at_cost(routed, CLAIMED_COST * full.macs)
    measured: list[tuple[str, dict[str, Any] | None, Callable[[float], bool]]] = [
        (
            f"loses at most {CLAIMED_LOSS} J&F against the full model trained as long",
            against("full", "at_same_budget"),
            lambda mean: mean >= -CLAIMED_LOSS,
        ),
        (
            f"loses at most {CLAIMED_LOSS} J&F at {CLAIMED_COST:.0%} of its multiply-adds",
            cheaper and full and _difference(cheaper, full.scores),
            lambda mean: mean >= -CLAIMED_LOSS,
        ),
        (
            f"beats PBD by {CLAIMED_OVER_PBD} J&F at the same FLOPs",
            against("pbd", "at_same_cost"),
            lambda mean: mean >= CLAIMED_OVER_PBD,
        ),
        (
            f"beats SlimSAM by {CLAIMED_OVER_SLIM} J&F at the same FLOPs",
            against("slim", "at_same_cost"),
            lambda mean: mean >= CLAIMED_OVER_SLIM,
        ),
    ]
    listed: list[dict[str, Any]] = [
        {"claim": text, "measured": value, "seen": value and holds(value["mean"])}
        for text, value, holds in measured
    ]
    listed.append(
        {
            "claim": f"trains at most {CLAIMED_SHARE:.0%} of the parameters",
            "measured": {"mean": round(own.trained_share, 5)},
            "seen": own.trained_share <= CLAIMED_SHARE,
        }
    )
    return listed


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
        "| method | ratio | J&F | 95% over sequences | encoder GMACs | FPS | speed-up | trained |",
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
