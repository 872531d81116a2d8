"""Figures of query routing: layers run against change, and quality against decoder time (TAR)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from tempomask.errors import InputError
from tempomask.reports.canvas import INK, RAN, SKIPPED, figure_of, save, style

# Frames are averaged in so many groups of equal size, by their change.
GROUPS = 8
# Dots of frames with as many layers are spread by so much, up and down.
SPREAD = 0.28


class TradeOff(NamedTuple):
    """One point: score with its interval, against milliseconds. kind: gives its colour."""

    label: str
    kind: str
    milliseconds: float
    score: float
    low: float
    high: float


def save_layers_against_change(
    path: str | Path, changes: ArrayLike, layers: ArrayLike, most: int, caption: str = ""
) -> None:
    """One dot a frame, and the mean of the layers over frames of like change (paper's Figure 5).

    changes: (N,), squared RGB difference to the frame before. layers: (N,), of `most`, that ran.
    Raises InputError without frames, and if the file cannot be written.
    """
    changes, layers = np.asarray(changes, dtype=float), np.asarray(layers, dtype=float)
    if not len(changes):
        raise InputError("there are no frames to draw")
    figure = figure_of(3.8, width=6.4)
    axes = figure.subplots()
    spread = np.random.default_rng(0).uniform(-SPREAD, SPREAD, len(layers))
    axes.scatter(changes, layers + spread, s=7, color=RAN, alpha=0.3, linewidths=0)
    groups = np.array_split(np.argsort(changes, kind="stable"), min(GROUPS, len(changes)))
    means = [(np.median(changes[group]), layers[group].mean()) for group in groups]
    axes.plot(*zip(*means, strict=True), color=INK, marker="o", markersize=4, label="mean")
    if changes.min() > 0:
        axes.set_xscale("log")
    axes.set_ylim(0, most + 0.6)
    axes.set_yticks(range(most + 1))
    axes.set_xlabel("squared RGB difference to the frame before")
    axes.set_ylabel("decoder layers run")
    style(axes, caption or "Layers run against change", whole_numbers=False)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    save(figure, path)


def save_layer_trade_off(
    path: str | Path, points: Sequence[TradeOff], joined: str = "", score: str = "AP"
) -> None:
    """Score against decoder time, a colour for each kind of point; bars are 95% intervals.

    joined: the kind whose points a line goes through.

    Raises InputError without points, and if the file cannot be written.
    """
    if not points:
        raise InputError("there is nothing to draw")
    figure = figure_of(4.2, width=7.2)
    axes = figure.subplots()
    kinds = list(dict.fromkeys(point.kind for point in points))
    colors = [INK, RAN, "#c8352b", "#3d8f4e", "#8a5bb5", "#d98a1f"]
    for number, kind in enumerate(kinds):
        members = sorted((p for p in points if p.kind == kind), key=lambda p: p.milliseconds)
        x, y = [p.milliseconds for p in members], [p.score for p in members]
        bars = [[p.score - p.low for p in members], [p.high - p.score for p in members]]
        color = colors[number % len(colors)]
        axes.errorbar(x, y, yerr=bars, fmt="none", ecolor=SKIPPED, zorder=1)
        look: dict[str, Any] = {"color": color, "marker": "o", "markersize": 5, "zorder": 3}
        axes.plot(x, y, "-" if kind == joined else "", linewidth=1.3, label=kind, **look)
        for point in members:
            place = (point.milliseconds, point.score)
            axes.annotate(
                point.label, place, (4, 4), textcoords="offset points", fontsize=7, color=color
            )
    axes.set_xlabel("decoder, milliseconds a frame")
    axes.set_ylabel(score)
    style(axes, f"{score} against decoder time", whole_numbers=False)
    axes.legend(frameon=False, fontsize=8)
    save(figure, path)
