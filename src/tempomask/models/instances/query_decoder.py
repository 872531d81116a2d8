"""Mask2Former's decoder, layer by layer, so that a router can leave layers out (TAR Fig. 3).

B images, Q queries, C hidden_dim, M decoder layers, N cells of a level, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tempomask.models.instances.attention import FeedForward, MultiheadAttention, SelfAttention
from tempomask.models.instances.config import QueryDecoderConfig
from tempomask.models.instances.deformable_attention import LEVELS
from tempomask.models.instances.pixel_decoder import PixelFeatures
from tempomask.ops.layers import MLP
from tempomask.ops.position import grid_sine


class QueryRouter(Protocol):
    """Decides, before each decoder layer, whether it runs."""

    def route(
        self,
        index: int,
        queries: Tensor,
        previous: Tensor | None,
        layer: Callable[[Tensor], Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Run layer `index` (from 0) on the queries (B, Q, C), or pass them on.

        previous: the final queries (B, Q, C) of the previous frame, None on a video's first frame.
        Returns the queries after the layer, and (B,): 1 where the layer ran, 0 where it did not,
        carrying a gradient in training.
        """
        ...


class Predictions(NamedTuple):
    """class_logits (B, Q, K + 1), no-object last; mask_logits (B, Q, H/4, W/4), threshold 0."""

    class_logits: Tensor
    mask_logits: Tensor


class Decoded(NamedTuple):
    """What the decoder makes of an image.

    queries: (B, Q, C), as the last layer left them. embeddings: the same after the decoder's norm.
    predictions: from the embeddings. intermediate: the queries before the first layer and after
    each layer, M + 1 in all. ran: (B, M), 1 where a layer ran.
    """

    queries: Tensor
    embeddings: Tensor
    predictions: Predictions
    intermediate: list[Tensor]
    ran: Tensor


def dot_maps(embeddings: Tensor, features: Tensor) -> Tensor:
    """Embeddings (B, Q, C) times features (B, C, h, w): (B, Q, h, w)."""
    # As linear layers, one by one: a product in a batch copies features that lie channels last.
    rows = features.permute(0, 2, 3, 1).flatten(1, 2)
    maps = [F.linear(x, row) for x, row in zip(embeddings, rows, strict=True)]
    return torch.stack(maps).unflatten(2, features.shape[-2:])


class Level(NamedTuple):
    """One level as the layers see it: key and value (B, N, C), mask_features (B, C, h, w)."""

    key: Tensor
    value: Tensor
    mask_features: Tensor


class QueryDecoderLayer(nn.Module):
    """Masked cross-attention, self-attention, feed-forward network."""

    def __init__(self, dim: int, config: QueryDecoderConfig) -> None:
        super().__init__()
        self.cross_attention = MultiheadAttention(dim, config.num_heads)
        self.cross_norm = nn.LayerNorm(dim)
        self.self_attention = SelfAttention(dim, config.num_heads)
        self.feed_forward = FeedForward(dim, config.feedforward_dim)

    def forward(self, x: Tensor, position: Tensor, level: Level, mask: Tensor) -> Tensor:
        attended = self.cross_attention(x + position, level.key, level.value, mask)
        x = self.cross_norm(x + attended)
        return self.feed_forward(self.self_attention(x, position))


class QueryDecoder(nn.Module):
    """`PixelFeatures` to `Decoded`."""

    def __init__(self, dim: int, num_classes: int, config: QueryDecoderConfig) -> None:
        super().__init__()
        self.query_features = nn.Parameter(torch.randn(config.num_queries, dim))
        self.query_positions = nn.Parameter(torch.randn(config.num_queries, dim))
        self.level_embedding = nn.Parameter(torch.randn(LEVELS, dim))
        self.layers = nn.ModuleList(QueryDecoderLayer(dim, config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(dim)
        self.class_head = nn.Linear(dim, num_classes + 1)
        self.mask_head = MLP(dim, dim, dim, layers=3)

    def forward(
        self,
        features: PixelFeatures,
        router: QueryRouter | None = None,
        previous: Tensor | None = None,
    ) -> Decoded:
        """router: None runs every layer. previous: as in `QueryRouter.route`."""
        batch = len(features.mask_features)
        levels = self._levels(features)
        queries = self.query_features.expand(batch, -1, -1)
        intermediate, ran = [queries], []
        for index in range(len(self.layers)):
            run = partial(self._run_layer, index, levels)
            if router is None:
                queries, run_share = run(queries), queries.new_ones(batch)
            else:
                queries, run_share = router.route(index, queries, previous, run)
            intermediate.append(queries)
            ran.append(run_share)
        embeddings = self.norm(queries)
        predictions = self._heads(embeddings, features.mask_features)
        return Decoded(queries, embeddings, predictions, intermediate, torch.stack(ran, 1))

    def predict(self, queries: Tensor, mask_features: Tensor) -> Predictions:
        """What queries (B, Q, C) of any layer stand for; mask_features (B, C, h, w)."""
        return self._heads(self.norm(queries), mask_features)

    def _heads(self, embeddings: Tensor, mask_features: Tensor) -> Predictions:
        masks = dot_maps(self.mask_head(embeddings), mask_features)
        return Predictions(self.class_head(embeddings), masks)

    def _levels(self, features: PixelFeatures) -> list[Level]:
        """Each level's keys and values, and the mask features at its size.

        Mask2Former resizes the masks of every layer; resizing is linear, so that resizing the
        features once a frame gives the same masks, without ever making them at full size.
        """
        levels = []
        for x, embedding in zip(features.levels, self.level_embedding, strict=True):
            height, width = x.shape[-2:]
            value = x.flatten(2).transpose(1, 2) + embedding
            position = grid_sine(height, width, x.shape[1], x.device).flatten(1).T
            resized = F.interpolate(features.mask_features, (height, width), mode="bilinear")
            # Autocast resizes in float32: cast once here, instead of in each layer.
            resized = resized.detach().to(features.mask_features.dtype)
            levels.append(Level(value + position, value, resized))
        return levels

    def _run_layer(self, index: int, levels: list[Level], queries: Tensor) -> Tensor:
        level = levels[index % LEVELS]
        with torch.no_grad():
            mask = self._attention_mask(queries, level.mask_features)
        return self.layers[index](queries, self.query_positions, level, mask)

    def _attention_mask(self, queries: Tensor, mask_features: Tensor) -> Tensor:
        """(B, 1, Q, N), additive: a query attends where its mask is; everywhere if it has none."""
        logits = dot_maps(self.mask_head(self.norm(queries)), mask_features).flatten(2)
        blocked = logits < 0
        blocked &= ~blocked.all(-1, keepdim=True)
        return torch.zeros_like(logits).masked_fill_(blocked, float("-inf"))[:, None]
