"""What the training of instance segmentation expects of a clip.

Shape legend: T frames in temporal order, N instances, S image side (a multiple of 32), C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from tempomask.errors import InputError

# Tries to make a clip that shows an instance.
ATTEMPTS = 10


@dataclass(frozen=True, eq=False)
class InstanceClip:
    """A few frames of a video with its instances; a data set's item, a function of its index alone.

    Attributes:
        frames: uint8 (T, S, S, 3) RGB.
        masks: bool (T, N, S, S), may overlap; N may be 0.
        labels: int64 (N,) from 0 to C - 1.
        present: bool (T, N), the instance is to be found on the frame; False where it is absent or
            was not annotated, and its mask is then empty.

    Raises:
        InputError: The parts do not fit together.
    """

    frames: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    labels: NDArray[np.int64]
    present: NDArray[np.bool_]

    def __post_init__(self) -> None:
        times, height, width, *_ = self.frames.shape
        number = len(self.labels)
        for name, array, shape in (
            ("frames", self.frames, (times, height, width, 3)),
            ("masks", self.masks, (times, number, height, width)),
            ("labels", self.labels, (number,)),
            ("present", self.present, (times, number)),
        ):
            if array.shape != shape:
                raise InputError(f"a clip's {name} have shape {array.shape}, not {shape}")
        if number and self.labels.min() < 0:
            raise InputError(f"a clip has the label {self.labels.min()}; labels start from 0")
        if (self.masks.any(axis=(2, 3)) & ~self.present).any():
            raise InputError("a clip has a mask of an instance that is not present")


def instances_in_view(
    frames: NDArray[np.uint8], masks: NDArray[np.bool_], labels: Sequence[int]
) -> InstanceClip:
    """A clip of those instances that some frame shows; masks (T, N, S, S)."""
    present = np.asarray(masks.any(axis=(2, 3)))
    kept = present.any(axis=0)
    numbers = np.array(labels, dtype=np.int64)
    return InstanceClip(frames, masks[:, kept], numbers[kept], present[:, kept])


def clip_with_an_instance(make: Callable[[], InstanceClip]) -> InstanceClip:
    """The first clip that shows an instance, the last one made if none of `ATTEMPTS` does."""
    clip = make()
    for _ in range(ATTEMPTS - 1):
        if clip.present.any():
            break
        clip = make()
    return clip


class MixedClips(Dataset[InstanceClip]):
    """Clips from several data sets; clip i depends on seed and i alone.

    Args:
        sources: Their clip i depends on i alone, for any i >= 0.
        shares: How often a clip comes from each; positive.
        seed: Of the choice.
    """

    def __init__(
        self, sources: Sequence[Dataset[InstanceClip]], shares: Sequence[float], seed: int = 1
    ) -> None:
        if not sources or len(sources) != len(shares) or min(shares) <= 0:
            raise InputError(f"{len(sources)} sources need as many positive shares, got {shares}")
        self.sources, self.seed = list(sources), seed
        self.shares = np.asarray(shares, dtype=float) / sum(shares)

    def __getitem__(self, index: int) -> InstanceClip:
        chosen = np.random.default_rng((self.seed, index)).choice(len(self.sources), p=self.shares)
        return self.sources[chosen][index]
