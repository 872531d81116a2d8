"""Frame times of a comparison's points, each in turns with the full model on the same frames.

What else a machine does changes by the minute, so frames a second of two runs say little. Here a
point and the full model take turns of about a second within one run, and what is kept is how many
times as fast the point was in each pair of turns.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tempomask.api import Model
from tempomask.errors import InputError
from tempomask.evaluation.pareto import Comparison, Progress, median_seconds, timed_frames
from tempomask.media.atomic import write_json

FILE = "times.json"
ROUNDS = 5


@dataclass(frozen=True)
class PointTime:
    """Median seconds a frame, of each round: of the point, and of the full model beside it."""

    own: tuple[float, ...]
    beside: tuple[float, ...]

    @property
    def ratios(self) -> tuple[float, ...]:
        """How many times as fast as the full model, by round."""
        return tuple(b / o for o, b in zip(self.own, self.beside, strict=True))

    @property
    def full(self) -> float:
        """Seconds a frame that the full model took beside this point."""
        return float(np.median(self.beside))


def measure_times(
    comparison: Comparison, rounds: int = ROUNDS, say: Progress | None = None
) -> dict[str, PointTime]:
    """Time every finished point that is not timed yet; returns what `times.json` then holds.

    Times measured on another device or with other threads are measured again. InputError if no
    point is finished.
    """
    points = [result.point for result in comparison.finished()]
    if not points:
        raise InputError(f"{comparison.out} has no finished point to time")
    full = comparison.load(None)
    settings = settings_of(full, rounds)
    times = kept_times(comparison.out, settings)
    sequence, frames = timed_frames(comparison.evaluation, comparison.sequences)
    for number, point in enumerate(points, start=1):
        if point.name in times:
            continue
        if say is not None:
            say(point, number, len(points), "timing")
        model = comparison.load(point)
        median_seconds(model, sequence, frames)  # the first pass finds memory and kernels
        pairs = []
        for turn in range(rounds):
            # The order changes from round to round, so that neither always comes second.
            order = (model, full) if turn % 2 else (full, model)
            found = {id(m): median_seconds(m, sequence, frames) for m in order}
            pairs.append((found[id(model)], found[id(full)]))
        own, beside = zip(*pairs, strict=True)
        times[point.name] = PointTime(own, beside)
        kept = {name: asdict(time) for name, time in times.items()}
        write_json(comparison.out / FILE, {"settings": settings, "seconds": kept})
    return times


def settings_of(model: Model, rounds: int) -> dict[str, Any]:
    """What frame times depend on besides the points."""
    device = model.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        "device": name,
        "dtype": str(model.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "image_size": model.config.image_size,
        "rounds": rounds,
    }


def kept_times(out: Path, settings: dict[str, Any] | None = None) -> dict[str, PointTime]:
    """Times of the folder of a comparison, by the points' names; those of other settings are not.

    settings: None takes whatever is there. InputError for a file that cannot be read.
    """
    path = out / FILE
    if not path.exists():
        return {}
    try:
        saved = json.loads(path.read_text())
        if settings is not None and saved["settings"] != settings:
            return {}
        return {
            name: PointTime(tuple(time["own"]), tuple(time["beside"]))
            for name, time in saved["seconds"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{path} cannot be read; delete it and measure again") from None
