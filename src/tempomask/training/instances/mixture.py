"""Clips from several data sets, by shares: for DVIS++, videos and COCO pseudo-videos."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch.utils.data import Dataset

from tempomask.data.instance_clip import InstanceClip
from tempomask.errors import InputError


class ClipMixture(Dataset[InstanceClip]):
    """Clip i comes from one of the sources, chosen by the shares; it depends on seed and i alone.

    sources: data sets whose clip i depends on i alone, for any i >= 0. InputError unless there is
    one positive share for each.
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
