"""Charts of a run: which encoder blocks ran on which frame, and how sure and large objects were.

T frames, L encoder blocks, N objects.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tempomask.errors import InputError
from tempomask.io.journal import FrameRecord
from tempomask.io.overlay import object_color
from tempomask.reports.canvas import INK, RAN, SKIPPED, block_ticks, figure_of, save, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# More lines than this are a tangle; the rest is left out of the legend.
_LEGEND = 10


def save_block_chart(path: str | Path, indices: Sequence[int], blocks: ArrayLike) -> None:
    """A PNG of which encoder blocks ran: frames from left to right, the first block at the bottom.

    indices: (T,) of the frames. blocks: bool (T, L). Raises InputError if they do not fit together,
    or if the file cannot be written.
    """
    ran = _checked(indices, blocks)
    figure = figure_of(1.2 + 0.12 * ran.shape[1])
    axes = figure.subplots()
    _draw_blocks(axes, np.asarray(indices), ran)
    axes.set_xlabel("frame")
    save(figure, path)


def save_run_chart(
    path: str | Path, records: Iterable[FrameRecord], names: Mapping[int, str] | None = None
) -> None:
    """A PNG with three charts over the frames: blocks that ran, object scores, object areas.

    records: as from `io.journal.Journal.records`. names: of objects by id, for the legend.
    Raises InputError without frames, or if the file cannot be written.
    """
    listed = list(records)
    indices = [record.index for record in listed]
    ran = _checked(indices, [record.blocks for record in listed])
    figure = figure_of(4.6 + 0.12 * ran.shape[1])
    heights = [0.6 + 0.12 * ran.shape[1], 1.7, 1.7]
    blocks, scores, areas = figure.subplots(3, 1, sharex=True, height_ratios=heights)
    _draw_blocks(blocks, np.asarray(indices), ran)
    pixels = listed[0].size[0] * listed[0].size[1]
    for object_id in sorted({i for record in listed for i in record.ids}):
        with_object = [
            (record, record.ids.index(object_id)) for record in listed if object_id in record.ids
        ]
        frames = np.array([record.index for record, _ in with_object])
        logits = np.array([record.scores[i] for record, i in with_object], dtype=np.float64)
        shares = np.array([record.areas[i] for record, i in with_object]) / pixels
        label = (names or {}).get(object_id, str(object_id))
        color = [channel / 255 for channel in object_color(object_id)]
        # tanh form of the logistic function: no overflow for large logits
        _draw_line(scores, frames, 0.5 * (1 + np.tanh(logits / 2)), label, color)
        _draw_line(areas, frames, 100 * shares, label, color)
    _finish_lines(scores, areas)
    save(figure, path)


def _checked(indices: Sequence[int], blocks: ArrayLike) -> NDArray[np.bool_]:
    """blocks as bool (T, L)."""
    try:
        ran = np.asarray(blocks, dtype=bool)
    except ValueError:  # frames with different numbers of blocks
        raise InputError("a chart needs the same number of blocks on every frame") from None
    if not len(indices) or ran.ndim != 2 or len(ran) != len(indices):
        raise InputError(
            f"a chart needs blocks of shape (frames, blocks), got {ran.shape} for {len(indices)}"
            " frames"
        )
    return ran


def _draw_blocks(axes: Axes, indices: NDArray[np.integer[Any]], ran: NDArray[np.bool_]) -> None:
    from matplotlib.colors import ListedColormap

    first, last = int(indices.min()), int(indices.max())
    count = ran.shape[1]
    image = np.full((count, last - first + 1), np.nan)
    image[:, indices - first] = ran.T
    axes.imshow(
        image,
        cmap=ListedColormap([SKIPPED, RAN]),
        vmin=0,
        vmax=1,
        aspect="auto",
        origin="lower",
        interpolation="nearest",
        extent=(first - 0.5, last + 0.5, -0.5, max(count, 1) - 0.5),
    )
    for line in range(1, count):
        axes.axhline(line - 0.5, color="white", linewidth=0.8)
    axes.set_ylabel("encoder block")
    axes.set_yticks(block_ticks(count))
    share = f"{ran.mean():.0%}" if ran.size else "none"
    style(axes, f"Encoder blocks that ran: {share} of {count} blocks over {len(indices)} frames")


def _draw_line(
    axes: Axes,
    frames: NDArray[np.integer[Any]],
    values: NDArray[np.floating[Any]],
    label: str,
    color: Sequence[float],
) -> None:
    """A line that is broken where frames are missing."""
    span = np.arange(frames[0], frames[-1] + 1)
    line = np.full(len(span), np.nan)
    line[frames - frames[0]] = values
    alone = len(frames) == 1
    axes.plot(span, line, color=color, label=label, linewidth=1.6, marker="o" if alone else None)


def _finish_lines(scores: Axes, areas: Axes) -> None:
    scores.set_ylim(-0.04, 1.04)
    scores.axhline(0.5, color=INK, linewidth=0.8, linestyle=":")
    scores.set_ylabel("probability")
    style(scores, "Object is present")
    areas.set_ylim(bottom=0)
    areas.set_ylabel("% of image")
    areas.set_xlabel("frame")
    style(areas, "Area of the mask")
    handles, labels = scores.get_legend_handles_labels()
    if handles:
        more = "" if len(handles) <= _LEGEND else f"object (first {_LEGEND} of {len(handles)})"
        scores.legend(
            handles[:_LEGEND],
            labels[:_LEGEND],
            title=more or "object",
            loc="upper left",
            bbox_to_anchor=(1.0, 1.0),
            frameon=False,
            fontsize=8,
            title_fontsize=8,
        )
