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
from tempomask.files import replacing, write_errors
from tempomask.io.overlay import object_color
from tempomask.io.records import FrameRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, RAN, SKIPPED = "#30343b", "#2f6fb2", "#e3e8ee"
WIDTH = 10.0
# More lines than this are a tangle; the rest is left out of the legend.
_LEGEND = 10
# Title, unit and upper end of the charts of objects; None for what there is.
_PANELS = (
    ("Object is present", "probability", 1.04),
    ("Predicted IoU of the mask", "IoU", 1.04),
    ("Area of the mask", "% of image", None),
)


def figure_of(height: float, width: float = WIDTH) -> Figure:
    """A figure, sizes in inches, that can be drawn in any thread and leaves no state behind."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=120, layout="constrained")


def style(axes: Axes, title: str, whole_numbers: bool = True) -> None:
    """A title on the left, no frame, and whole numbers along x where they count something."""
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title, loc="left", fontsize=10, color=INK)
    axes.tick_params(labelsize=8, colors=INK)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(fontsize=9, color=INK)
    if whole_numbers:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)


def block_ticks(count: int) -> range:
    """Which of so many encoder blocks are numbered along an axis."""
    return range(0, count, 1 if count <= 24 else 4)


def save(figure: Figure, path: str | Path) -> None:
    """Write a PNG; InputError if it cannot be written."""
    with write_errors(path), replacing(path) as part:
        figure.savefig(part, format="png", facecolor="white")


def save_block_chart(path: str | Path, indices: Sequence[int], blocks: ArrayLike) -> None:
    """A PNG of which encoder blocks ran: frames from left to right, the first block at the bottom.

    Args:
        path: Of the file.
        indices: (T,) of the frames.
        blocks: bool (T, L).

    Raises:
        InputError: If they do not fit together, or if the file cannot be written.
    """
    ran = _checked(indices, blocks)
    figure = figure_of(1.2 + 0.12 * ran.shape[1])
    axes = figure.subplots()
    _draw_blocks(axes, np.asarray(indices), ran)
    axes.set_xlabel("frame")
    save(figure, path)


def save_round_chart(path: str | Path, curves: Mapping[str, Sequence[float]]) -> None:
    """Chart of J&F in percent over prompted frames, a line for each data set.

    As Figure 4 of the SAM 2 paper, there for interactive offline and online segmentation.
    """
    figure = figure_of(4.0, 6.0)
    axes = figure.subplots()
    for number, (name, curve) in enumerate(curves.items()):
        colour = INK if name == "mean" else tuple(c / 255 for c in object_color(number + 1))
        axes.plot(range(1, len(curve) + 1), curve, marker="o", label=name, color=colour)
    axes.set(xlabel="prompted frames", ylabel="J&F (%)")
    axes.legend(fontsize=8, frameon=False)
    style(axes, "J&F after each prompted frame")
    save(figure, path)


def save_run_chart(
    path: str | Path,
    records: Iterable[FrameRecord],
    colors: Mapping[int, tuple[int, int, int]] | None = None,
) -> None:
    """A PNG over the frames: presence, predicted IoU and area of objects, and blocks that ran.

    Blocks are left out where all of them ran. Lines get thinner with the number of the object, so
    that those in one place are all seen.

    Args:
        path: Of the file.
        records: As from `io.journal.Journal.records`.
        colors: Of objects by id, as in their overlay; default `object_color`.

    Raises:
        InputError: Without frames, or if the file cannot be written.
    """
    listed = list(records)
    indices = np.array([record.index for record in listed], dtype=np.int64)
    ran = _checked(indices, [record.blocks for record in listed])
    routed = not ran.all()
    figure = figure_of(5.4 + routed * (0.6 + 0.12 * ran.shape[1]))
    heights = [1.7] * len(_PANELS) + [0.6 + 0.12 * ran.shape[1]] * routed
    panels = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    if routed:
        _draw_blocks(panels[-1], indices, ran)
    ids = sorted({i for record in listed for i in record.ids})
    for place, object_id in enumerate(ids):
        lines = _lines_of(object_id, listed, int(indices.max()))
        color = (colors or {}).get(object_id, object_color(object_id))
        marker = "o" if np.isfinite(lines[0]).sum() == 1 else None
        count = min(len(ids), _LEGEND)
        width = 1.4 + 6 / count * (count - 1 - min(place, count - 1))
        for axes, line in zip(panels, lines, strict=False):
            axes.plot(
                line,
                color=[channel / 255 for channel in color],
                label=str(object_id),
                linewidth=width,
                marker=marker,
            )
    _finish_lines(panels)
    save(figure, path)


def _lines_of(object_id: int, records: Sequence[FrameRecord], last: int) -> NDArray[np.float64]:
    """Probability, predicted IoU and percent of the image (3, T) of an object.

    NaN, which breaks the line, where it is not tracked; no IoU where nothing is seen.
    """
    lines = np.full((3, last + 1), np.nan)
    for record in records:
        if object_id in record.ids:
            i, pixels = record.ids.index(object_id), record.size[0] * record.size[1]
            # tanh form of the logistic function: no overflow for large logits
            probability = 0.5 * (1 + np.tanh(float(record.scores[i]) / 2))
            iou = record.predicted_iou[i] if record.areas[i] else np.nan
            lines[:, record.index] = probability, iou, 100 * record.areas[i] / pixels
    return lines


def _checked(indices: Sequence[int] | NDArray[np.int64], blocks: ArrayLike) -> NDArray[np.bool_]:
    """Blocks as bool (T, L)."""
    try:
        ran = np.asarray(blocks, dtype=bool)
    except ValueError:  # frames with different numbers of blocks
        raise InputError("a chart needs the same number of blocks on every frame") from None
    if not len(indices) or ran.ndim != 2 or len(ran) != len(indices):
        wanted = f"{ran.shape} for {len(indices)} frames"
        raise InputError(f"a chart needs blocks of shape (frames, blocks), got {wanted}")
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


def _finish_lines(panels: Sequence[Axes]) -> None:
    for axes, (title, label, top) in zip(panels, _PANELS, strict=False):
        axes.set_ylim(-0.04 if top else 0, top)
        axes.set_ylabel(label)
        style(axes, title)
    panels[0].axhline(0.5, color=INK, linewidth=0.8, linestyle=":")
    panels[-1].set_xlabel("frame")
    handles, labels = panels[0].get_legend_handles_labels()
    if handles:
        title = (
            "object" if len(handles) <= _LEGEND else f"first {_LEGEND} of {len(handles)} objects"
        )
        corner = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0), "frameon": False}
        sizes = {"fontsize": 8, "title_fontsize": 8}
        legend = panels[0].legend(
            handles[:_LEGEND], labels[:_LEGEND], title=title, **corner, **sizes
        )
        for handle in legend.get_lines():
            handle.set_linewidth(2)
