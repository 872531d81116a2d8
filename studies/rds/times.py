"""Frame times of a comparison's points, each in turns with the full model on the same frames.

The full model is the network that all points start from; see `frame_times` for why it takes part.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from studies.rds.comparison import Comparison, Progress
from studies.rds.meter import first_object, timed_frames
from tempomask.errors import InputError
from tempomask.evaluation.frame_times import ROUNDS, PairedTimes, median_seconds, paired_times
from tempomask.files import write_json
from tempomask.model import Model

FILE = "times.json"


def measure_times(
    comparison: Comparison, rounds: int = ROUNDS, say: Progress | None = None
) -> dict[str, PairedTimes]:
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
    prompt = first_object(sequence)

    def turn(model: Model) -> float:
        return median_seconds(model, prompt, frames, len(sequence))

    for number, point in enumerate(points, start=1):
        if point.name in times:
            continue
        if say is not None:
            say(point, number, len(points), "timing")
        times[point.name] = paired_times(comparison.load(point), full, turn, rounds)
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


def kept_times(out: Path, settings: dict[str, Any] | None = None) -> dict[str, PairedTimes]:
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
            name: PairedTimes(tuple(time["own"]), tuple(time["beside"]))
            for name, time in saved["seconds"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{path} cannot be read; delete it and measure again") from None
