"""Frame times of a model, by itself or in turns with another on the same frames.

What else a machine does changes by the minute, so frames a second of two runs say little. Two
models that take turns of about a second within one run share it, and what is kept is how many times
as fast the one was in each pair of turns.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tempomask.model import Model
from tempomask.prompts import Prompt
from tempomask.routing.options import Routing

# Frames that warm up, until the memories are full.
WARM_UP = 9
ROUNDS = 5


@dataclass(frozen=True)
class PairedTimes:
    """Median seconds a frame of each round, of a model and of the full model beside it."""

    own: tuple[float, ...]
    beside: tuple[float, ...]

    @property
    def ratios(self) -> tuple[float, ...]:
        """How many times as fast as the full model, by round."""
        return tuple(b / o for o, b in zip(self.own, self.beside, strict=True))

    @property
    def speedup(self) -> float:
        """The median of the ratios."""
        return float(np.median(self.ratios))

    @property
    def full(self) -> float:
        """Seconds a frame that the full model took in these turns."""
        return float(np.median(self.beside))


def paired_times(
    model: Model, full: Model, seconds: Callable[[Model], float], rounds: int = ROUNDS
) -> PairedTimes:
    """Time a model in turns with the full one; seconds takes a turn and gives its time a frame."""
    seconds(model)  # the first pass finds memory and kernels
    pairs = []
    for turn in range(rounds):
        # The order changes from round to round, so that neither always comes second.
        order = (model, full) if turn % 2 else (full, model)
        found = {id(m): seconds(m) for m in order}
        pairs.append((found[id(model)], found[id(full)]))
    own, beside = zip(*pairs, strict=True)
    return PairedTimes(own, beside)


def median_seconds(
    model: Model,
    prompt: Prompt,
    frames: Sequence[NDArray[np.uint8]],
    num_frames: int | None = None,
    routing: Routing | None = None,
) -> float:
    """Median seconds a frame of `frame_seconds`, after those that warm up."""
    times = list(frame_seconds(model, prompt, frames, num_frames, routing))
    return float(np.median(times[min(WARM_UP, len(times) - 1) :]))


def frame_seconds(
    model: Model,
    prompt: Prompt,
    frames: Sequence[NDArray[np.uint8]],
    num_frames: int | None = None,
    routing: Routing | None = None,
) -> Iterator[float]:
    """Seconds of each frame of tracking one object; decoding is left out.

    Args:
        model: That tracks.
        prompt: On the first frame.
        frames: (H, W, 3) each.
        num_frames: Of the video that they begin, None if they are all.
        routing: Same as in `Model.session`.
    """
    height, width = frames[0].shape[:2]
    session = model.session(
        num_frames=num_frames or len(frames), size=(height, width), routing=routing
    )
    session.add(prompt)
    for frame in frames:
        started = time.perf_counter()
        session.step(frame).masks  # noqa: B018  (computed when asked for)
        yield time.perf_counter() - started
