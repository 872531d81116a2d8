"""Rounds of clicks on the worst frames of one object's video (SAM 2, appendix).

Offline, a video is tracked again after each prompted frame, from all prompts so far, and the worst
frame is prompted next. Online, it is passed once; where a mask is bad it is prompted, and tracking
goes on from there. Each object is followed by itself, from its first frame on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from tempomask.data.sequences import ObjectSequence, VideoObject
from tempomask.errors import InputError, check_choice, check_least
from tempomask.evaluation.prompts import error_click
from tempomask.metrics.region_boundary import region_and_boundary
from tempomask.model import Model
from tempomask.prompts import Prompt
from tempomask.routed_model import RoutingChoice
from tempomask.tracking.options import TrackingOptions

Mask = NDArray[np.bool_]
Mode = Literal["offline", "online", "davis"]


@dataclass(frozen=True)
class ClickPlan:
    """How a video is clicked on.

    Attributes:
        mode: "offline" and "online" as above; "davis" as in `davis_interactive`.
        clicks: On each prompted frame and object, the later ones in the error that is left.
        rounds: Prompted frames at most.
        pause: Online, a frame whose IoU is below this is prompted.
        max_time: "davis": seconds for a video, times the number of its objects; None for no limit.
    """

    mode: Mode = "offline"
    clicks: int = 3
    rounds: int = 8
    pause: float = 0.75
    max_time: float | None = None

    def __post_init__(self) -> None:
        check_choice("mode", self.mode, Mode)
        check_least(self, clicks=1, rounds=1)
        if self.max_time is not None and not (self.mode == "davis" and self.max_time > 0):
            raise InputError("max_time must be more than 0 seconds, and goes with mode davis")


class ClickTracker(Protocol):
    """What the protocol asks of a tracker of one object."""

    def track(self, index: int) -> Mask:
        """Go to a frame and say where the object is: (H, W)."""
        ...

    def prompt(self, index: int, point: tuple[int, int], label: int) -> Mask:
        """Add a click (x, y), 1 on the object and 0 off it, on a frame; its mask (H, W)."""
        ...


@dataclass(frozen=True)
class Round:
    """The scores after so many prompted frames, from 0 to 1, and what that pass cost.

    Attributes:
        J: Mean over scored frames.
        F: Likewise.
        seconds: Of the pass and its clicks.
        frames: Indices of the frames prompted up to now.
    """

    J: float
    F: float
    seconds: float
    frames: tuple[int, ...]

    @property
    def mean(self) -> float:
        """J&F."""
        return (self.J + self.F) / 2


class SessionTracker:
    """A session that follows one object of a sequence."""

    def __init__(
        self,
        model: Model,
        sequence: ObjectSequence,
        item: VideoObject,
        options: TrackingOptions,
        routing: RoutingChoice,
    ) -> None:
        self.sequence, self.object_id = sequence, item.object_id
        self.session = model.session(
            num_frames=len(sequence) - item.first,
            start=item.first,
            size=sequence.size,
            options=options,
            routing=routing,
        )

    def track(self, index: int) -> Mask:
        """See `ClickTracker`."""
        mask = self.session.step(self.sequence.frame(index), index).masks[0]
        self.session.release_frames()
        return mask

    def prompt(self, index: int, point: tuple[int, int], label: int) -> Mask:
        """See `ClickTracker`."""
        given = Prompt(index, self.object_id, points=[point], labels=[label])
        return self.session.condition(self.sequence.frame(index), [given]).masks[0]


class _Oracle:
    """The truth of one object: it scores masks and clicks on their errors.

    Masks can be asked for on the frame of the first mask and on the scored ones.
    """

    def __init__(self, sequence: ObjectSequence, item: VideoObject, clicks: int) -> None:
        self.sequence, self.item, self.clicks = sequence, item, clicks
        self.frames = frozenset((item.first, *item.scored))
        self.prompted: list[int] = []
        # J, F and the mask, packed, of the last pass by frame.
        self._found: dict[int, tuple[float, float, NDArray[np.uint8]]] = {}

    def see(self, index: int, mask: Mask) -> float:
        """Note a frame's mask; its IoU."""
        region, boundary = region_and_boundary(mask[None], self._truth(index)[None])
        self._found[index] = float(region[0]), float(boundary[0]), np.packbits(mask)
        return self._found[index][0]

    def worst(self) -> int:
        """The first of the frames with the lowest IoU."""
        return min(sorted(self._found), key=lambda index: self._found[index][0])

    def click(self, tracker: ClickTracker, index: int) -> Mask | None:
        """Click on the errors of a frame's mask; its new mask, None if nothing was wrong."""
        truth, found, changed = self._truth(index), self._found.get(index), None
        mask = np.zeros_like(truth)
        if found is not None:
            mask = np.unpackbits(found[2], count=mask.size).reshape(mask.shape).astype(bool)
        for _ in range(self.clicks):
            click = error_click(truth, mask)
            if click is None:
                break
            mask = changed = tracker.prompt(index, *click)
        if changed is not None:
            self.prompted.append(index)
        return changed

    def round(self, seconds: float) -> Round:
        """The scores of the last pass."""
        scored = [self._found[index] for index in self.item.scored if index in self._found]
        region, boundary = fmean(row[0] for row in scored), fmean(row[1] for row in scored)
        return Round(region, boundary, seconds, tuple(self.prompted))

    def _truth(self, index: int) -> Mask:
        return self.sequence.masks(index, [self.item.object_id])[0]


def offline_rounds(
    tracker: ClickTracker, sequence: ObjectSequence, item: VideoObject, plan: ClickPlan
) -> list[Round]:
    """Prompt the first frame, then in each round the worst one; track all again after each.

    Where every mask is right there is nothing to click: the last round stands for the others.
    """
    oracle, index = _Oracle(sequence, item, plan.clicks), item.first
    rounds: list[Round] = []
    while len(rounds) < plan.rounds:
        started = time.perf_counter()
        if oracle.click(tracker, index) is None:
            break
        for frame in range(item.first, len(sequence)):
            mask = tracker.track(frame)
            if frame in oracle.frames:
                oracle.see(frame, mask)
        rounds.append(oracle.round(time.perf_counter() - started))
        index = oracle.worst()
    return filled(rounds, plan.rounds)


def filled(rounds: Sequence[Round], count: int) -> list[Round]:
    """So many rounds: the last one stands for those that were not needed, and cost nothing."""
    return [*rounds, *[replace(rounds[-1], seconds=0.0)] * (count - len(rounds))]


def online_pass(
    tracker: ClickTracker, sequence: ObjectSequence, item: VideoObject, plan: ClickPlan, limit: int
) -> Round:
    """Pass the video once and prompt at most `limit` frames: the first, and those below pause."""
    oracle, started = _Oracle(sequence, item, plan.clicks), time.perf_counter()
    oracle.click(tracker, item.first)
    for index in range(item.first, len(sequence)):
        mask = tracker.track(index)
        if index not in oracle.frames:
            continue
        overlap = oracle.see(index, mask)
        if index > item.first and overlap < plan.pause and len(oracle.prompted) < limit:
            better = oracle.click(tracker, index)
            if better is not None:
                oracle.see(index, better)
    return oracle.round(time.perf_counter() - started)


def online_rounds(
    trackers: Callable[[], ClickTracker],
    sequence: ObjectSequence,
    item: VideoObject,
    plan: ClickPlan,
) -> list[Round]:
    """A pass for each number of prompted frames; one that asks for no more stands for the rest."""
    rounds: list[Round] = []
    for limit in range(1, plan.rounds + 1):
        if rounds and len(rounds[-1].frames) < limit - 1:
            rounds.append(replace(rounds[-1], seconds=0.0))
        else:
            rounds.append(online_pass(trackers(), sequence, item, plan, limit))
    return rounds
