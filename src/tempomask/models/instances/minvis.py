"""MinVIS (arXiv 2208.02245, section 3.3): instances are followed by matching queries, no more.

B videos side by side, Q queries, C hidden_dim, K classes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from tempomask.models.instances.pixel_decoder import PixelFeatures
from tempomask.models.instances.query_decoder import Decoded, Predictions


class MatchedState(NamedTuple):
    """embeddings (B, Q, C): of the previous frame, in the order of the tracks."""

    embeddings: Tensor


def match_queries(previous: Tensor, current: Tensor) -> Tensor:
    """For each previous embedding (B, Q, C) the current one that continues it: (B, Q) indices.

    The assignment that minimises the sum of 1 - cosine, over all queries, no-object ones included.
    """
    from scipy.optimize import linear_sum_assignment

    similarity = F.normalize(previous, dim=-1) @ F.normalize(current, dim=-1).transpose(1, 2)
    cost = torch.nan_to_num(1 - similarity.detach().float()).cpu().numpy()
    order = [torch.from_numpy(linear_sum_assignment(matrix)[1]) for matrix in cost]
    return torch.stack(order).to(current.device)


def in_order(x: Tensor, order: Tensor) -> Tensor:
    """Put the queries of x (B, Q, ...) in the order (B, Q)."""
    return torch.stack([sample[index] for sample, index in zip(x, order, strict=True)])


class MinVISTracker:
    """Brings the queries of a frame into the order of the tracks. It has no weights, no state."""

    def presence(self, state: MatchedState) -> None:
        """Every track is on every frame."""

    def step(
        self, decoded: Decoded, features: PixelFeatures, state: MatchedState | None
    ) -> tuple[Predictions, MatchedState]:
        """Predictions by track, and what the next frame is matched with. None: a new video."""
        classes, masks = decoded.predictions
        if state is None:
            return decoded.predictions, MatchedState(decoded.embeddings)
        order = match_queries(state.embeddings, decoded.embeddings)
        predictions = Predictions(in_order(classes, order), in_order(masks, order))
        return predictions, MatchedState(in_order(decoded.embeddings, order))
