"""Figures of routing: which blocks run when, how often, on which images, and how sure of it.

As the supplement of RDS shows it: per-budget rates (Figure 10), importances (11), scores of each
video (12), frames with the blocks that ran (13, and 23 to 25), rates over a video (14).

T frames, L encoder blocks.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from studies.rds.chart import COLORS, LABELS
from tempomask.adaptation.importance import Importance
from tempomask.errors import InputError
from tempomask.io.overlay import object_color
from tempomask.reports.figures import INK, RAN, SKIPPED, block_ticks, figure_of, save, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

# Blocks that always run are drawn darker than those that a router chose.
ALWAYS = "#17406d"
# Weight of the mask's colour over the image.
TINT = 0.55
STRIP_WIDTH = 1.6  # inches an image


def save_activation_profiles(
    path: str | Path, videos: Mapping[str, ArrayLike], always_on: Sequence[int] = ()
) -> None:
    """Share of frames on which each block ran, one row of bars for each video.

    videos: name to bool (T, L); always_on: blocks to draw darker. Raises InputError for no videos,
    for videos of different numbers of blocks, and if the file cannot be written.
    """
    rates = {name: _rates(blocks) for name, blocks in videos.items()}
    count = _one_length(rates.values())
    figure = figure_of(0.6 + 1.3 * len(rates))
    rows = figure.subplots(len(rates), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    colors = [ALWAYS if index in always_on else RAN for index in range(count)]
    for axes, (name, rate) in zip(rows, rates.items(), strict=True):
        axes.bar(range(count), np.ones(count), color=SKIPPED, width=0.85)
        axes.bar(range(count), rate, color=colors, width=0.85)
        axes.set_ylim(0, 1)
        axes.set_xlim(-0.6, count - 0.4)
        axes.set_ylabel("rate")
        axes.set_xticks(block_ticks(count))
        style(axes, f"{name}: {rate.mean():.0%} of the blocks ran", whole_numbers=False)
    rows[-1].set_xlabel("encoder block" + (" (dark: always runs)" if len(always_on) else ""))
    save(figure, path)


def save_budget_rates(path: str | Path, budgets: Mapping[float, ArrayLike]) -> None:
    """How often each block runs at each budget: a map, largest budget at the top.

    budgets: beta to bool (T, L). Raises InputError as `save_activation_profiles` does.
    """
    rates = {budget: _rates(budgets[budget]) for budget in sorted(budgets, reverse=True)}
    count = _one_length(rates.values())
    figure = figure_of(1.2 + 0.42 * len(rates))
    axes = figure.subplots()
    image = _heat(axes, np.stack(list(rates.values())))
    axes.set_yticks(range(len(rates)), [f"{b:g} ({r.mean():.2f})" for b, r in rates.items()])
    axes.set_ylabel("budget (used)")
    axes.set_xlabel("encoder block")
    axes.set_xticks(block_ticks(count))
    style(axes, f"How often each of {count} blocks runs", whole_numbers=False)
    scale(figure, image, axes, "rate")
    save(figure, path)


def save_importances(path: str | Path, importance: Importance) -> None:
    """Both views of every block's importance and the sum of their ranks, best highest.

    Raises InputError if the file cannot be written.
    """
    count, scores = len(importance.global_drops), np.zeros(len(importance.global_drops))
    order = importance.ordered()
    scores[order] = np.linspace(1, 1 / len(order), len(order))
    rows = {
        "global: J&F lost without the block": importance.global_drops,
        "local: how far it turns its input, 1 - cosine": importance.local_changes,
        "both: order by the sum of ranks": scores,
    }
    figure = figure_of(4.6)
    colors = [ALWAYS if i in importance.always_on else RAN for i in range(count)]
    grid = figure.subplots(len(rows), 1, sharex=True)
    for axes, (name, values) in zip(grid, rows.items(), strict=True):
        axes.bar(range(count), values, color=colors, width=0.85)
        # Those of K are not measured.
        axes.plot(importance.always_on, [0] * len(importance.always_on), "x", color=ALWAYS)
        axes.set_xticks(block_ticks(count))
        style(axes, name, whole_numbers=False)
    grid[-1].set_xlabel("encoder block (crosses: always runs, not measured)")
    save(figure, path)


def save_video_scores(path: str | Path, methods: Mapping[str, Mapping[str, float]]) -> None:
    """J&F of every video, a bar for each method.

    methods: name to video to J&F. Raises InputError without methods, and if the file cannot be
    written.
    """
    if not methods:
        raise InputError("a chart of scores needs at least one method")
    videos = list(next(iter(methods.values())))
    width = 0.85 / len(methods)
    figure = figure_of(3.2)
    axes = figure.subplots()
    for place, (name, scores) in enumerate(methods.items()):
        x = np.arange(len(videos)) + (place - (len(methods) - 1) / 2) * width
        label = f"{LABELS.get(name, name)}: {np.mean([scores[v] for v in videos]):.1f}"
        axes.bar(x, [scores[v] for v in videos], width, color=COLORS.get(name, INK), label=label)
    axes.set_xticks(range(len(videos)), videos, rotation=30, ha="right")
    axes.set_ylabel("J&F")
    place = {"loc": "lower right", "bbox_to_anchor": (1, 1), "borderaxespad": 0}
    axes.legend(frameon=False, fontsize=8, ncols=len(methods), **place)
    style(axes, "Scores of each video, and their mean", whole_numbers=False)
    save(figure, path)


def save_router_heat(
    path: str | Path,
    indices: Sequence[int],
    weights: ArrayLike,
    blocks: ArrayLike | None = None,
) -> None:
    """The router's activation weights w over a video: frames along x, blocks upwards.

    indices: (T,) of the frames. weights: (T, L) in [0, 1]. blocks: bool (T, L) that ran, marked by
    dots. Raises InputError if they do not fit together, or if the file cannot be written.
    """
    heat = np.asarray(weights, dtype=np.float64)
    if heat.ndim != 2 or not len(heat) or len(heat) != len(indices):
        raise InputError(
            f"router heat needs weights (frames, blocks), got {heat.shape} for {len(indices)}"
            " frames"
        )
    figure = figure_of(1.4 + 0.14 * heat.shape[1])
    axes = figure.subplots()
    image = _heat(axes, heat.T)
    axes.invert_yaxis()
    if blocks is not None:
        ran = np.asarray(blocks, dtype=bool)
        if ran.shape != heat.shape:
            raise InputError(f"blocks {ran.shape} do not fit weights {heat.shape}")
        # Light dots on dark cells, dark ones on light: those that always run may have a small w.
        for color, cells in (("white", ran & (heat > 0.4)), (INK, ran & (heat <= 0.4))):
            frames, rows = np.nonzero(cells)
            axes.plot(frames, rows, ".", color=color, markersize=2.5, linestyle="none")
    axes.set_xticks(*_frame_ticks(indices))
    axes.set_yticks(block_ticks(heat.shape[1]))
    axes.set_xlabel("frame")
    axes.set_ylabel("encoder block")
    style(axes, "Activation weights of the router; dots: blocks that ran", whole_numbers=False)
    scale(figure, image, axes, "w")
    save(figure, path)


def save_frame_strip(
    path: str | Path,
    indices: Sequence[int],
    frames: Sequence[NDArray[np.uint8]],
    masks: Sequence[ArrayLike],
    blocks: ArrayLike,
    methods: Mapping[str, Sequence[ArrayLike]] | None = None,
    name: str = "",
) -> None:
    """Images with their masks, and under each the blocks that ran for it.

    frames: (H, W, 3) uint8 RGB. masks: label maps (H, W), 0 for background. blocks: bool (T, L).
    name: of the method whose masks they are. methods: masks of others on the same frames, drawn as
    further rows under their names.
    Raises InputError if the numbers differ, or if the file cannot be written.
    """
    ran = np.asarray(blocks, dtype=bool)
    rows = {name: masks, **(methods or {})}
    lengths = {len(indices), len(frames), len(ran), *(len(row) for row in rows.values())}
    if len(lengths) != 1 or not len(indices) or ran.ndim != 2:
        raise InputError(f"a strip needs as many frames, masks and blocks, got {sorted(lengths)}")
    aspect = frames[0].shape[0] / frames[0].shape[1]
    figure = figure_of(
        STRIP_WIDTH * aspect * len(rows) + 0.9, width=max(4.0, STRIP_WIDTH * len(indices))
    )
    grid = figure.subplots(
        len(rows) + 1,
        len(indices),
        squeeze=False,
        height_ratios=[STRIP_WIDTH * aspect] * len(rows) + [0.35],
    )
    for line, (method, row) in enumerate(rows.items()):
        for axes, frame, mask in zip(grid[line], frames, row, strict=True):
            axes.imshow(tinted(frame, mask))
            axes.set_axis_off()
        if method:
            grid[line][0].set_title(method, loc="left", fontsize=8, color=INK)
    for axes, index, keep in zip(grid[-1], indices, ran, strict=True):
        _heat(axes, keep[None].astype(float))
        axes.set_yticks([])
        axes.set_xticks([0, len(keep) - 1])
        axes.tick_params(labelsize=7, colors=INK, length=2)
        for line in range(1, len(keep)):
            axes.axvline(line - 0.5, color="white", linewidth=0.6)
        for side in axes.spines.values():
            side.set_visible(False)
        axes.set_title(f"frame {index}: {keep.sum()} of {len(keep)} blocks", fontsize=8, color=INK)
    save(figure, path)


def tinted(frame: NDArray[np.uint8], labels: ArrayLike) -> NDArray[np.uint8]:
    """The image with every object in its colour. InputError for a mask of another size."""
    ids = np.asarray(labels)
    if ids.shape != frame.shape[:2]:
        raise InputError(f"a mask {ids.shape} does not fit an image {frame.shape[:2]}")
    shown = frame.astype(np.float64)
    for object_id in np.unique(ids[ids > 0]):
        inside = ids == object_id
        color = np.array(object_color(int(object_id)), dtype=np.float64)
        shown[inside] = (1 - TINT) * shown[inside] + TINT * color
    return shown.round().astype(np.uint8)


def _frame_ticks(indices: Sequence[int]) -> tuple[list[int], list[str]]:
    """Places and names of frames with round numbers, about ten of them."""
    span = max(indices) - min(indices) + 1
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100, 200, 500, span) if span <= 12 * s)
    places = [place for place, index in enumerate(indices) if index % step == 0]
    return places, [str(indices[place]) for place in places]


def _rates(blocks: ArrayLike) -> NDArray[np.float64]:
    ran = np.asarray(blocks, dtype=bool)
    if ran.ndim != 2 or not len(ran):
        raise InputError(f"a chart needs blocks of shape (frames, blocks), got {ran.shape}")
    return ran.mean(axis=0)


def _one_length(rates: Collection[NDArray[np.float64]]) -> int:
    lengths = {len(rate) for rate in rates}
    if len(lengths) != 1:
        raise InputError("a chart needs at least one video, all with the same number of blocks")
    return lengths.pop()


def _heat(axes: Axes, values: NDArray[np.float64]) -> AxesImage:
    from matplotlib.colors import LinearSegmentedColormap

    colors = LinearSegmentedColormap.from_list("routing", [SKIPPED, RAN, ALWAYS])
    return axes.imshow(values, cmap=colors, vmin=0, vmax=1, aspect="auto", interpolation="nearest")


def scale(figure: Figure, image: AxesImage, axes: Axes, label: str) -> None:
    """What the colours of an image mean, beside its axes."""
    bar = figure.colorbar(image, ax=axes, pad=0.01)
    bar.set_label(label, fontsize=9, color=INK)
    bar.ax.tick_params(labelsize=8, colors=INK)
