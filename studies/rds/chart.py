"""Figure of a comparison: J&F against the encoder's multiply-adds, and against speed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from studies.bootstrap import bootstrap_difference
from studies.rds.summary import Row, by_method
from tempomask.errors import InputError
from tempomask.reports.figures import INK, figure_of, save, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = {
    "rds": "#c8352b",
    "rds-worth": "#e2857d",
    "rds-paper": "#7a1f19",
    "pbd": "#2f6fb2",
    "pbd-last": "#7fb0de",
    "slim": "#3d8f4e",
    "slim-paper": "#93c79e",
    "adavit": "#8a5bb5",
    "dyt": "#d98a1f",
    "static-a": "#8b929c",
    "static-b": "#b9bec6",
    "full": "#30343b",
    "base": "#30343b",
}
MARKERS = {"full": "*", "base": "D"}
LABELS = {
    "rds": "RDS",
    "rds-worth": "RDS, worth learnt",
    "rds-paper": "RDS, as in the paper",
    "pbd": "PBD by measured harm",
    "pbd-last": "PBD, last blocks",
    "slim": "SlimSAM",
    "slim-paper": "SlimSAM in the paper's stages",
    "adavit": "AdaViT",
    "dyt": "DyT",
    "static-a": "static plan A",
    "static-b": "static plan B",
    "full": "all blocks, trained as long",
    "base": "all blocks, untrained",
}


def save_pareto_chart(path: str | Path, rows: Sequence[Row]) -> None:
    """Two charts side by side, with 95% intervals over sequences.

    Where there is the full model trained as long, intervals are of the difference to it, paired by
    sequence: those of a score alone tell how videos differ, and would hide how methods do.
    Where some rows were timed beside the full model, the right chart shows their speed-up and
    leaves the others out; where none was, frames a second as measured after each training.

    Raises InputError without rows, or if the file cannot be written.
    """
    if not rows:
        raise InputError("there is nothing to draw; train at least one method")
    timed = any(row.ratios for row in rows)
    figure = figure_of(4.4)
    left, right = figure.subplots(1, 2, sharey=True)
    full = next((row for row in rows if row.method == "full"), None)
    for members in by_method(rows).values():
        members.sort(key=lambda row: row.macs)
        _draw(left, members, [row.macs / 1e9 for row in members], full)
        if timed:
            members = [row for row in members if row.ratios]
        speeds = [(row.speedup or 0.0) if timed else row.fps for row in members]
        _draw(right, members, speeds, full)
    left.set_xlabel("encoder, multiply-adds a frame (G)")
    right.set_xlabel("times as fast as the full model" if timed else "frames a second")
    left.set_ylabel("J&F")
    style(left, "Quality against cost", whole_numbers=False)
    style(right, "Quality against speed of whole frames", whole_numbers=False)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=8)
    save(figure, path)


def interval_beside(row: Row, full: Row | None) -> tuple[float, float]:
    """How far the interval of a row reaches below its J&F and above."""
    estimate = row.estimate if full is None else bootstrap_difference(row.scores, full.scores)
    return estimate.mean - estimate.low, estimate.high - estimate.mean


def _draw(axes: Axes, rows: Sequence[Row], x: Sequence[float], full: Row | None) -> None:
    """The points of one method, with their intervals."""
    if not rows:
        return
    method = rows[0].method
    color = COLORS.get(method, INK)
    axes.plot(
        x,
        [float(np.mean(row.seeds)) for row in rows],
        color=color,
        marker=MARKERS.get(method, "o"),
        markersize=9 if method == "full" else 5,
        linewidth=1.6,
        label=LABELS.get(method, method),
        zorder=3,
    )
    middle = [row.estimate.mean for row in rows]
    bars = np.array([interval_beside(row, full) for row in rows]).T
    axes.errorbar(x, middle, yerr=bars, fmt="none", ecolor=color, alpha=0.35)
