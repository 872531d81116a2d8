"""Bootstrap over sequences: whether a difference between two methods is more than noise.

Sequences, not frames, are what an evaluation samples: frames of one video rise and fall together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tempomask.errors import InputError

ROUNDS = 10_000
# The interval holds this share of the resampled means.
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over sequences with its interval. positive: share of resamples with a mean above 0."""

    mean: float
    low: float
    high: float
    positive: float
    sequences: int

    def to_dict(self) -> dict[str, Any]:
        return {
            name: round(value, 4) if isinstance(value, float) else value
            for name, value in asdict(self).items()
        }


def bootstrap_mean(values: Sequence[float], seed: int = 0, rounds: int = ROUNDS) -> Estimate:
    """Resample values, one a sequence, with replacement. InputError for no values."""
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or not len(sample):
        raise InputError("a bootstrap needs at least one sequence")
    means = _resampled_means(sample, seed, rounds)
    low, high = interval(means)
    return Estimate(float(sample.mean()), low, high, float((means > 0).mean()), len(sample))


def interval(resamples: NDArray[np.float64]) -> tuple[float, float]:
    """The least and the greatest of the middle `CONFIDENCE` of them; NaN of none."""
    if not len(resamples):
        return float("nan"), float("nan")
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(resamples, [tail, 1 - tail])
    return float(low), float(high)


def bootstrap_difference(
    first: Mapping[str, float], second: Mapping[str, float], seed: int = 0, rounds: int = ROUNDS
) -> Estimate:
    """first - second, paired by sequence: both ran on the same ones, InputError otherwise."""
    if first.keys() != second.keys():
        odd = sorted(first.keys() ^ second.keys())
        raise InputError(
            f"only one of the two was scored on {', '.join(odd[:3])}; compare the same sequences"
        )
    return bootstrap_mean([first[name] - second[name] for name in sorted(first)], seed, rounds)


def _resampled_means(sample: NDArray[np.float64], seed: int, rounds: int) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    chosen = rng.integers(len(sample), size=(rounds, len(sample)))
    return sample[chosen].mean(axis=1)
