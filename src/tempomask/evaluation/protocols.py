"""The protocols of semi-supervised segmentation: what is measured on a frame, and how it averages.

Every protocol sees the scores of one object on its scored frames (`ObjectFrames`), T of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tempomask.metrics.region_boundary import (
    SCORES,
    ObjectScore,
    adaptive_scores,
    region_and_boundary,
    statistics,
)

Mask = NDArray[np.bool_]
Scores = NDArray[np.float64]


@dataclass(frozen=True)
class ObjectFrames:
    """What was measured of an object on its scored frames.

    Attributes:
        sequence: Name of its video.
        object_id: Its id.
        group: "seen" or "unseen" in training, or "".
        values: float64 (T,) by name of the measure; T is 1 or more.
    """

    sequence: str
    object_id: int
    group: str
    values: dict[str, Scores]


@dataclass(frozen=True)
class Protocol:
    """How a data set is scored; all scores from 0 to 1.

    Attributes:
        name: What a number is called, with its variant.
        headline: The score that stands for all.
        measure: From predicted and true masks bool (N, H, W) to values (N,) by name.
        of_object: Scores of one object.
        total: Scores over all objects.
        absent_is_zero: A video without any predicted mask scores 0, instead of being refused.
    """

    name: str
    headline: str
    measure: Callable[[Mask, Mask], dict[str, Scores]]
    of_object: Callable[[ObjectFrames], dict[str, float]]
    total: Callable[[Sequence[ObjectFrames]], dict[str, float]]
    absent_is_zero: bool = False


def _classic(prediction: Mask, truth: Mask) -> dict[str, Scores]:
    region, boundary = region_and_boundary(prediction, truth)
    return {"J": region, "F": boundary}


def _davis_object(frames: ObjectFrames) -> dict[str, float]:
    region, boundary = frames.values["J"], frames.values["F"]
    score = ObjectScore(
        frames.object_id, statistics(region.tolist()), statistics(boundary.tolist()), len(region)
    )
    return {name: value(score) for name, value in SCORES.items()}


def _with_presence(prediction: Mask, truth: Mask) -> dict[str, Scores]:
    seen = np.asarray((prediction | truth).any(axis=(1, 2)), dtype=np.float64)
    return {**_classic(prediction, truth), "seen": seen}


def _sav_object(frames: ObjectFrames) -> dict[str, float]:
    """Frames before the object is first true or predicted do not count, as in SA-V's tool."""
    start = int(frames.values["seen"].argmax())
    values = {name: scores[start:] for name, scores in frames.values.items()}
    return _davis_object(replace(frames, values=values))


def _over_objects(
    of_object: Callable[[ObjectFrames], dict[str, float]],
) -> Callable[[Sequence[ObjectFrames]], dict[str, float]]:
    """Means over all objects of all videos."""

    def total(objects: Sequence[ObjectFrames]) -> dict[str, float]:
        rows = [of_object(frames) for frames in objects]
        return {name: _mean([row[name] for row in rows]) for name in rows[0]}

    return total


def _mean(values: Sequence[float]) -> float:
    """The mean of the values that are numbers; NaN without any."""
    numbers = [value for value in values if not math.isnan(value)]
    return float(np.mean(numbers)) if numbers else math.nan


def _by_group(objects: Sequence[ObjectFrames], name: str, value: Callable[..., float]) -> dict:
    """The mean of a value over seen and over unseen objects."""
    return {
        f"{name}_{group}": _mean([value(frames) for frames in objects if frames.group == group])
        for group in ("seen", "unseen")
    }


def _value(name: str) -> Callable[[ObjectFrames], float]:
    return lambda frames: float(frames.values[name].mean())


def _youtube_total(objects: Sequence[ObjectFrames]) -> dict[str, float]:
    """G is the mean of J and F over seen and over unseen classes, where both are told apart."""
    parts = _by_group(objects, "J", _value("J")) | _by_group(objects, "F", _value("F"))
    found = _over_objects(_davis_object)(objects)
    if any(math.isnan(part) for part in parts.values()):
        return found
    return {"G": float(np.mean(list(parts.values()))), **parts, **found}


def _lvos_object(frames: ObjectFrames) -> dict[str, float]:
    """V: how much J&F sways over time, rounded before the root as LVOS's tool does."""
    both = (frames.values["J"] + frames.values["F"]) / 2
    sway = math.sqrt(round(float(((both.mean() - both) ** 2).mean()), 4))
    return {**_davis_object(frames), "V": sway}


def _lvos_total(objects: Sequence[ObjectFrames]) -> dict[str, float]:
    """J&F_groups: mean over seen and unseen videos, LVOS's own; J&F: over objects, as SAM 2's."""
    found = _over_objects(_lvos_object)(objects)
    parts: dict[str, float] = {}
    for name in ("J", "F", "V"):
        pair = _by_group(objects, name, lambda frames, name=name: _lvos_object(frames)[name])
        if any(math.isnan(value) for value in pair.values()):
            return found
        parts |= {f"{name}_groups": float(np.mean(list(pair.values()))), **pair}
    return {**found, "J&F_groups": (parts["J_groups"] + parts["F_groups"]) / 2, **parts}


def _vost_object(frames: ObjectFrames) -> dict[str, float]:
    region = frames.values["J"]
    late = region[math.floor(0.75 * len(region)) :]
    whole, last = statistics(region.tolist()), statistics(late.tolist())
    return {
        "J": whole.mean,
        "J_last": last.mean,
        "J_recall": whole.recall,
        "J_decay": whole.decay,
    }


def _region_only(prediction: Mask, truth: Mask) -> dict[str, Scores]:
    return {"J": region_and_boundary(prediction, truth)[0]}


def _adaptive(prediction: Mask, truth: Mask) -> dict[str, Scores]:
    empty = np.asarray(~truth.any(axis=(1, 2)), dtype=np.float64)
    return {**adaptive_scores(prediction, truth), "empty": empty}


def segments(empty: NDArray[np.bool_]) -> tuple[list[slice], list[slice]]:
    """Where an object is gone after it was there, and where it is back after it was gone.

    empty: (T,), no pixel of it is true. An absence from the first scored frame on is none.
    """
    edges = [0, *(np.flatnonzero(empty[1:] != empty[:-1]) + 1).tolist(), len(empty)]
    parts = [slice(a, b) for a, b in zip(edges[:-1], edges[1:], strict=True)]
    gone = [part for part in parts[1:] if empty[part.start]]
    back = [part for part in parts[1:] if not empty[part.start]]
    return gone, back


def _mose2_object(frames: ObjectFrames) -> dict[str, float]:
    values = frames.values
    region, adaptive, classic = (float(values[n].mean()) for n in ("J", "F_new", "F"))
    both = (values["J"] + values["F_new"]) / 2
    gone, back = segments(values["empty"] > 0)
    return {
        "J&F_new": (region + adaptive) / 2,
        "J": region,
        "F_new": adaptive,
        "J&F_new_disappear": _mean([float(both[part].mean()) for part in gone]),
        "J&F_new_reappear": _mean([float(both[part].mean()) for part in back]),
        "F": classic,
        "J&F": (region + classic) / 2,
    }


DAVIS = Protocol(
    "DAVIS: J&F over objects, first and last frame not scored",
    "J&F",
    _classic,
    _davis_object,
    _over_objects(_davis_object),
)
SAV = Protocol(
    "SA-V: J&F over pairs of video and object, first and last annotated frame not scored",
    "J&F",
    _with_presence,
    _sav_object,
    _over_objects(_sav_object),
)
YOUTUBE_VOS = Protocol(
    "YouTube-VOS: listed frames after the first mask, local truth (the server's is not public)",
    "J&F",
    _classic,
    _davis_object,
    _youtube_total,
)
LVOS = Protocol(
    "LVOS: J&F is over objects (as SAM 2 reports it), J&F_groups over seen and unseen videos",
    "J&F",
    _classic,
    _lvos_object,
    _lvos_total,
)
VOST = Protocol(
    "VOST: J over objects on annotated frames, J_last on the last quarter",
    "J",
    _region_only,
    _vost_object,
    _over_objects(_vost_object),
)
MOSE2 = Protocol(
    "MOSEv2: J with one pixel added, adaptive F, disappearance and reappearance",
    "J&F_new",
    _adaptive,
    _mose2_object,
    _over_objects(_mose2_object),
    absent_is_zero=True,
)
