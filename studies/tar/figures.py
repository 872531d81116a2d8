"""Figures of query routing: layers run against change, and quality against decoder time (TAR)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from tempomask.errors import InputError
from tempomask.reports.figures import INK, RAN, SKIPPED, figure_of, save, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Frames are averaged in so many groups of equal size, by their change.
GROUPS = 8
# Dots of frames with as many layers are spread by so much, up and down.
SPREAD = 0.28
# Where a label may stand beside its point, in points; the first that is free.
PLACES = [(x, y) for y in (4, -10, 14, -20, 24, -30, 34, -40) for x in (5, -5)]


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
    labels: list[tuple[TradeOff, str]] = []
    kinds = list(dict.fromkeys(point.kind for point in points))
    colors = [INK, RAN, "#c8352b", "#3d8f4e", "#8a5bb5", "#d98a1f"]
    for number, kind in enumerate(kinds):
        members = sorted((p for p in points if p.kind == kind), key=lambda p: p.milliseconds)
        x, y = [p.milliseconds for p in members], [p.score for p in members]
        bars = [[p.score - p.low for p in members], [p.high - p.score for p in members]]
        color = colors[number % len(colors)]
        axes.errorbar(x, y, yerr=bars, fmt="none", ecolor=SKIPPED, zorder=1)
        look: dict[str, Any] = {"color": color, "marker": "o", "markersize": 5, "zorder": 3}
        line = "-" if kind == joined else "none"
        axes.plot(x, y, linestyle=line, linewidth=1.3, label=kind, **look)
        labels += [(point, color) for point in members]
    axes.set_xlabel("decoder, milliseconds a frame")
    axes.set_ylabel(score)
    style(axes, f"{score} against decoder time", whole_numbers=False)
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    _write_apart(axes, labels)
    save(figure, path)


def _write_apart(axes: Axes, labels: Sequence[tuple[TradeOff, str]]) -> None:
    """Write each label beside its point, where it covers neither another nor a point."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.transforms import Bbox

    canvas = FigureCanvasAgg(axes.figure)  # type: ignore[arg-type]
    canvas.draw()  # the layout moves the axes
    renderer = canvas.get_renderer()
    dots = axes.transData.transform([(p.milliseconds, p.score) for p, _ in labels])
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in dots]
    for point, color in labels:
        place = (point.milliseconds, point.score)
        text = axes.annotate(
            point.label, place, PLACES[0], textcoords="offset points", fontsize=7, color=color
        )
        for offset in PLACES:
            text.set_position(offset)
            text.set_horizontalalignment("left" if offset[0] >= 0 else "right")
            box = text.get_window_extent(renderer)
            if not any(box.overlaps(other) for other in taken):
                break
        taken.append(text.get_window_extent(renderer))
