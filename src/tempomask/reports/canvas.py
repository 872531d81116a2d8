"""What all charts share: a figure of its own, plain axes, and files that appear whole."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tempomask.files import replacing, write_errors

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

INK, RAN, SKIPPED = "#30343b", "#2f6fb2", "#e3e8ee"
WIDTH = 10.0


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
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def scale(figure: Figure, image: AxesImage, axes: Axes, label: str) -> None:
    """What the colours of an image mean, beside its axes."""
    bar = figure.colorbar(image, ax=axes, pad=0.01)
    bar.set_label(label, fontsize=9, color=INK)
    bar.ax.tick_params(labelsize=8, colors=INK)


def block_ticks(count: int) -> range:
    """Which of so many encoder blocks are numbered along an axis."""
    return range(0, count, 1 if count <= 24 else 4)


def save(figure: Figure, path: str | Path) -> None:
    """Write a PNG; InputError if it cannot be written."""
    with write_errors(path), replacing(path) as part:
        figure.savefig(part, format="png", facecolor="white")
