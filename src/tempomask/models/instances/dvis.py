"""The online trackers of DVIS (arXiv 2306.03413) and DVIS++ (arXiv 2312.13305, section 3.2).

DVIS++ adds a re-identification head to what tracks are known by, and a projection of what they ask
with, which its classes see too.

B videos side by side, Q queries, C hidden_dim, D tracker width (2 C, DVIS C), K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tempomask.models.instances.attention import FeedForward, MultiheadAttention, SelfAttention
from tempomask.models.instances.config import InstanceConfig, ReferringTrackerConfig
from tempomask.models.instances.minvis import in_order, match_queries
from tempomask.models.instances.pixel_decoder import PixelFeatures
from tempomask.models.instances.query_decoder import Decoded, Predictions, dot_maps
from tempomask.ops.layers import MLP

# Makes a frame's matched queries (B, Q, D) noisy in training; gets the unmatched ones and the order
# (B, Q), returns noisy queries and the order that they stand for.
Noise = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class ReferringState(NamedTuple):
    """Of the previous frame, by track: embeddings (B, Q, D) to match, outputs (B, Q, D)."""

    embeddings: Tensor
    outputs: Tensor


class Referred(NamedTuple):
    """What the tracker makes of a frame, by track.

    outputs: (B, Q, D) of each layer. reference: (B, Q, D), what the tracks looked like before.
    order: (B, Q), the segmenter's query at the start of each track.
    """

    outputs: list[Tensor]
    reference: Tensor
    order: Tensor


class ReferringLayer(nn.Module):
    """Cross-attention whose residual is the identity of the tracks, self-attention, FFN."""

    def __init__(self, dim: int, config: ReferringTrackerConfig) -> None:
        super().__init__()
        self.cross_attention = MultiheadAttention(dim, config.num_heads)
        self.cross_norm = nn.LayerNorm(dim)
        self.self_attention = SelfAttention(dim, config.num_heads)
        self.feed_forward = FeedForward(dim, config.feedforward_dim)

    def forward(self, identity: Tensor, reference: Tensor, queries: Tensor) -> Tensor:
        """identity: the tracks so far; reference: asks; queries: of the frame, all (B, Q, D)."""
        x = self.cross_norm(identity + self.cross_attention(reference, queries, queries))
        return self.feed_forward(self.self_attention(x))


class ReferringTracker(nn.Module):
    """Finds the tracks of the previous frame in the queries of this one, layer by layer."""

    def __init__(self, config: InstanceConfig, tracker: ReferringTrackerConfig) -> None:
        super().__init__()
        hidden, dim = config.hidden_dim, tracker.width(config.hidden_dim)
        self.reid_head: MLP | None = None
        self.reference_head: nn.Module = nn.Identity()
        self.mask_projection: nn.Module = nn.Identity()
        seen = dim
        if tracker.reid_dim is not None:
            self.reid_head = MLP(hidden, tracker.reid_dim, hidden, layers=3)
            self.reference_head = MLP(dim, dim, dim, layers=3)
            self.mask_projection = nn.Conv2d(hidden, hidden, 1)
            seen = 2 * dim
        self.layers = nn.ModuleList(ReferringLayer(dim, tracker) for _ in range(tracker.layers))
        self.norm = nn.LayerNorm(dim)
        self.class_head = nn.Linear(seen, config.num_classes + 1)
        self.mask_head = MLP(dim, dim, hidden, layers=3)

    def step(
        self, decoded: Decoded, features: PixelFeatures, state: ReferringState | None
    ) -> tuple[Predictions, ReferringState]:
        """Predictions by track, and what the next frame refers to. None begins a new video."""
        referred, state = self.refer(decoded, state)
        masks = self.mask_projection(features.mask_features)
        return self.predict(referred.outputs[-1], referred.reference, masks), state

    def presence(self, state: ReferringState) -> None:
        """Every track is on every frame."""

    def refer(
        self, decoded: Decoded, state: ReferringState | None, noise: Noise | None = None
    ) -> tuple[Referred, ReferringState]:
        """The tracks on this frame. noise: in training, None else."""
        normed = queries = decoded.embeddings
        if self.reid_head is not None:
            reid = self.reid_head(decoded.embeddings)
            # Matching sees the queries after the decoder's norm, attention sees them before it.
            normed = torch.cat([decoded.embeddings, reid], -1)
            queries = torch.cat([decoded.queries, reid], -1)
        if state is None:
            order = torch.arange(queries.shape[1], device=queries.device)
            order = order.expand(len(queries), -1)
            tracks, reference = queries, self.reference_head(queries)
        else:
            order = match_queries(state.embeddings, normed)
            tracks, reference = in_order(queries, order), self.reference_head(state.outputs)
            if noise is not None:
                tracks, order = noise(queries, order)
        outputs: list[Tensor] = []
        for layer in self.layers:
            asking = reference
            if state is None and outputs:
                asking = self.reference_head(tracks)
            tracks = layer(tracks, asking, queries)
            outputs.append(tracks)
        state = ReferringState(in_order(normed, order), tracks)
        return Referred(outputs, reference, order), state

    def for_refiner(self, decoded: Decoded, referred: Referred) -> tuple[Tensor, Tensor]:
        """What a refiner reads of a frame: tracks and queries, (B, Q, D) each.

        DVIS's are normed, its queries as they are when they refer to themselves.
        """
        if self.reid_head is not None:
            queries = torch.cat([decoded.queries, self.reid_head(decoded.embeddings)], -1)
            return referred.outputs[-1], queries
        alone, _ = self.refer(decoded, None)
        return self.norm(referred.outputs[-1]), self.norm(alone.outputs[-1])

    def predict(self, outputs: Tensor, reference: Tensor, mask_features: Tensor) -> Predictions:
        """Predict from outputs, reference (B, Q, D) and projected mask features (B, C, h, w)."""
        embeddings = self.norm(outputs)
        seen = embeddings
        if self.reid_head is not None:
            seen = torch.cat([reference, embeddings], -1)
        classes = self.class_head(seen)
        masks = dot_maps(self.mask_head(embeddings), mask_features)
        return Predictions(classes, masks)
