"""Decoder layers that ran on a frame, against how far the frame differs from the one before it.

TAR's Figure 5 sets the squared RGB difference of two frames against the layers that ran on the
second. Videos can also be walked in longer steps, which makes the same scenes change more.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from studies.bootstrap import interval
from tempomask.data.youtube_vis import VideoEntry, YouTubeVIS
from tempomask.errors import InputError
from tempomask.instances.model import InstanceModel

ROUNDS = 2000


@dataclass(frozen=True)
class FrameChange:
    """One frame that has one before it.

    step: frames between the two in the file. change: mean squared difference of their RGB values,
    in [0, 255^2]. layers: decoder layers that ran on it.
    """

    video: str
    frame: int
    step: int
    change: float
    layers: int


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's, with its 95% interval over resampled videos; NaN where layers never differ."""

    value: float
    low: float
    high: float
    frames: int


def frame_change(frame: NDArray[np.uint8], previous: NDArray[np.uint8]) -> float:
    """Mean squared difference of two frames (H, W, 3), uint8, in [0, 255^2]."""
    difference = frame.astype(np.float32) - previous.astype(np.float32)
    return float(np.square(difference).mean())


def layer_changes(
    model: InstanceModel,
    dataset: YouTubeVIS,
    steps: Sequence[int] = (1,),
    progress: Callable[[VideoEntry], None] | None = None,
) -> list[FrameChange]:
    """Run the model over all videos, once for each step, and note every frame but the first.

    steps: 1 takes every frame, 2 every other one, and so on; InputError below 1.
    """
    if any(step < 1 for step in steps):
        raise InputError(f"steps must be 1 or more, got {min(steps)}")
    records = []
    for video in dataset.videos:
        frames = list(dataset.frames(video))
        for step in steps:
            session = model.session()
            session.step(frames[0])
            for index in range(step, len(frames), step):
                layers = int(session.step(frames[index]).layers.sum())
                change = frame_change(frames[index], frames[index - step])
                records.append(FrameChange(video.name, index, step, change, layers))
        if progress is not None:
            progress(video)
    return records


def rank_correlation(
    records: Sequence[FrameChange], seed: int = 0, rounds: int = ROUNDS
) -> RankCorrelation:
    """Spearman's correlation of change and layers; InputError without frames."""
    if not records:
        raise InputError("there are no frames to correlate; videos need two frames or more")
    by_video: dict[str, list[FrameChange]] = defaultdict(list)
    for record in records:
        by_video[record.video].append(record)
    pairs = [np.array([(r.change, r.layers) for r in members]) for members in by_video.values()]
    rng = np.random.default_rng(seed)
    resampled = [
        _spearman(np.concatenate([pairs[i] for i in rng.integers(len(pairs), size=len(pairs))]))
        for _ in range(rounds)
    ]
    known = np.array([value for value in resampled if not np.isnan(value)])
    return RankCorrelation(_spearman(np.concatenate(pairs)), *interval(known), len(records))


def _spearman(pairs: ArrayLike) -> float:
    """Pearson's correlation of the ranks of pairs (N, 2)."""
    from scipy.stats import rankdata

    ranks = rankdata(np.asarray(pairs), axis=0)
    deviations = ranks - ranks.mean(axis=0)
    spread = np.sqrt(np.square(deviations).sum(axis=0).prod())
    return float(deviations.prod(axis=1).sum() / spread) if spread else float("nan")
