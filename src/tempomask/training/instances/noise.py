"""DVIS++'s training noise: tracks begin as weighted averages of two queries (mode "wa")."""

from __future__ import annotations

import torch
from torch import Tensor


class WeightedAverageNoise:
    """With probability `ratio`, every track of a video starts from a mixture instead of its match.

    A track's order names the query that weighs more in it.
    """

    def __init__(self, ratio: float) -> None:
        self.ratio = ratio

    def __call__(self, queries: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
        """queries (B, Q, D) as the segmenter gave them, order (B, Q) as they were matched."""
        noisy = [
            mixture(q) if torch.rand(()) < self.ratio else (q[o], o)
            for q, o in zip(queries, order, strict=True)
        ]
        tracks, orders = zip(*noisy, strict=True)
        return torch.stack(tracks), torch.stack(orders)


def mixture(queries: Tensor) -> tuple[Tensor, Tensor]:
    """Each query (Q, D) averaged with another by a random weight, and which of them prevails."""
    number = len(queries)
    other = torch.randperm(number, device=queries.device)
    own_share = torch.rand(number, 1, device=queries.device)
    mixed = queries * own_share + queries[other] * (1 - own_share)
    own = torch.arange(number, device=queries.device)
    return mixed, torch.where(own_share[:, 0] < 0.5, other, own)
