"""Figure of a comparison: J&F against the encoder's multiply-adds, and against frames a second."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tempomask.errors import InputError
from tempomask.evaluation.pareto_summary import Row
from tempomask.reports.canvas import INK, figure_of, save, style

COLORS = {
    "rds": "#c8352b",
    "pbd": "#2f6fb2",
    "slim": "#3d8f4e",
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
    "pbd": "PBD",
    "slim": "SlimSAM",
    "adavit": "AdaViT",
    "dyt": "DyT",
    "static-a": "static plan A",
    "static-b": "static plan B",
    "full": "all blocks, trained as long",
    "base": "all blocks, untrained",
}


def save_pareto_chart(path: str | Path, rows: Sequence[Row]) -> None:
    """Two charts side by side; bars are 95% intervals over sequences.

    Raises InputError without rows, or if the file cannot be written.
    """
    if not rows:
        raise InputError("there is nothing to draw; train at least one method")
    figure = figure_of(4.4)
    left, right = figure.subplots(1, 2, sharey=True)
    by_method: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_method[row.method].append(row)
    for method, members in by_method.items():
        members.sort(key=lambda row: row.macs)
        means = np.array([np.mean(row.seeds) for row in members])
        middle = np.array([row.estimate.mean for row in members])
        bars = [
            np.array([row.estimate.mean - row.estimate.low for row in members]),
            np.array([row.estimate.high - row.estimate.mean for row in members]),
        ]
        for axes, x in (
            (left, [row.macs / 1e9 for row in members]),
            (right, [row.fps for row in members]),
        ):
            color = COLORS.get(method, INK)
            axes.plot(
                x,
                means,
                color=color,
                marker=MARKERS.get(method, "o"),
                markersize=9 if method == "full" else 5,
                linewidth=1.6,
                label=LABELS.get(method, method),
                zorder=3,
            )
            axes.errorbar(x, middle, yerr=bars, fmt="none", ecolor=color, alpha=0.25)
    left.set_xlabel("encoder, multiply-adds a frame (G)")
    right.set_xlabel("frames a second")
    left.set_ylabel("J&F")
    style(left, "Quality against cost", whole_numbers=False)
    style(right, "Quality against speed", whole_numbers=False)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=8)
    save(figure, path)
