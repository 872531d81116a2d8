"""What all charts share: a figure of its own, plain axes, and files that appear whole."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tempomask.media.atomic import replacing, write_errors

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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
    if whole_numbers:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def save(figure: Figure, path: str | Path) -> None:
    """Write a PNG; InputError if it cannot be written."""
    with write_errors(path), replacing(path) as part:
        figure.savefig(part, format="png", facecolor="white")
