"""TAR: temporal-aware query routing of decoder layers (paper sections 3.2, equations 2 to 10).

B images, Q queries, C hidden_dim, M decoder layers, of which the first W are the warm-up.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tempomask.errors import InputError, check_choice
from tempomask.models.instances.attention import MultiheadAttention
from tempomask.models.instances.minvis import in_order, match_queries
from tempomask.schema import parse_json

Synchroniser = Literal["attention", "bipartite", "none"]
Layer = Callable[[Tensor], Tensor]
SKIP, RUN = 0, 1


@dataclass(frozen=True)
class QueryRouterConfig:
    """TAR's choices; the defaults are the paper's, where it states one.

    warmup_layers: layers that always run, before the synchroniser (M^s). hidden_dim: of the
    routers' perceptrons, num_heads: of the synchroniser; the paper states neither.
    synchroniser: "attention" (Eq. 2 and 3), "bipartite" matching, or "none" (Table 3).
    routers: False is the synchroniser alone, with every layer (Table 3).
    """

    dim: int = 256
    layers: int = 9
    warmup_layers: int = 1
    hidden_dim: int = 256
    num_heads: int = 8
    synchroniser: Synchroniser = "attention"
    routers: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.warmup_layers < self.layers:
            raise InputError(
                f"warmup_layers must be from 0 to {self.layers - 1} for a decoder of"
                f" {self.layers} layers, got {self.warmup_layers}"
            )
        check_choice("synchroniser", self.synchroniser, Synchroniser)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> QueryRouterConfig:
        """InputError if the text is none of ours."""
        try:
            return cls(**parse_json(text, "it", {}))
        except (ValueError, TypeError) as error:
            raise InputError(f"the router's configuration cannot be read ({error})") from None


class AttentionSynchroniser(nn.Module):
    """Eq. 2 and 3: the previous frame's queries gather from those of this frame, then a norm."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.attention = MultiheadAttention(dim, num_heads)
        self.norm = nn.LayerNorm(dim)

    def forward(self, queries: Tensor, previous: Tensor) -> Tensor:
        """queries, previous (B, Q, C): this frame's queries in the place of the previous ones."""
        return self.norm(self.attention(previous, queries, queries) + previous)


class BipartiteSynchroniser(nn.Module):
    """The variant of Table 3: each previous query is continued by the query it is matched with."""

    def forward(self, queries: Tensor, previous: Tensor) -> Tensor:
        return in_order(queries, match_queries(previous, queries))


class NoSynchroniser(nn.Module):
    """Table 3 without a synchroniser: the router alone, on queries as they are."""

    def forward(self, queries: Tensor, previous: Tensor) -> Tensor:
        return queries


class LayerRouter(nn.Module):
    """Eq. 4 and 5: a score for skipping and one for running, from the queries of both frames."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.expand = nn.Linear(3 * dim, hidden)
        self.score = nn.Linear(hidden, 2)
        # Undecided at first: the sum over all queries must not saturate the softmax of Eq. 8.
        nn.init.normal_(self.score.weight, std=1e-3)
        nn.init.zeros_(self.score.bias)

    def forward(self, queries: Tensor, previous: Tensor) -> Tensor:
        """queries, previous (B, Q, C) to (B, 2) routing scores."""
        fused = torch.cat([queries, previous, queries - previous], -1)
        return self.score(F.relu(self.expand(fused))).sum(1)


class TemporalQueryRouter(nn.Module):
    """TAR. Implements `models.instances.query_decoder.QueryRouter`; keeps nothing of a video."""

    def __init__(self, config: QueryRouterConfig) -> None:
        super().__init__()
        self.config = config
        if config.synchroniser == "attention":
            self.synchroniser = AttentionSynchroniser(config.dim, config.num_heads)
        elif config.synchroniser == "bipartite":
            self.synchroniser = BipartiteSynchroniser()
        else:
            self.synchroniser = NoSynchroniser()
        self.routers = nn.ModuleList(
            LayerRouter(config.dim, config.hidden_dim)
            for _ in range(config.routers * (config.layers - config.warmup_layers))
        )

    def route(
        self, index: int, queries: Tensor, previous: Tensor | None, layer: Layer
    ) -> tuple[Tensor, Tensor]:
        """Same as in `QueryRouter`. The first frame of a video runs every layer.

        In training every layer is computed and Eq. 10 mixes it with its input; else a layer runs
        only if an image of the batch needs it.
        """
        warmup = self.config.warmup_layers
        if previous is None or index < warmup:
            return layer(queries), queries.new_ones(len(queries))
        if index == warmup:
            queries = self.synchroniser(queries, previous)
        if not self.config.routers:
            return layer(queries), queries.new_ones(len(queries))
        scores = self.routers[index - warmup](queries, previous)
        if self.training:
            return mix(queries, layer(queries), straight_through(scores))
        runs = scores.argmax(-1) == RUN
        if runs.any():
            queries = torch.where(runs[:, None, None], layer(queries), queries)
        return queries, runs.to(queries.dtype)


def straight_through(scores: Tensor) -> Tensor:
    """Eq. 8 and 9: scores (B, 2) to one-hot choices (B, 2) with the gradient of their softmax."""
    soft = scores.softmax(-1)
    hard = F.one_hot(soft.argmax(-1), 2).to(soft.dtype)
    return hard + soft - soft.detach()


def mix(queries: Tensor, processed: Tensor, choice: Tensor) -> tuple[Tensor, Tensor]:
    """Eq. 10: queries before and after a layer (B, Q, C) by the choice (B, 2), and its share."""
    skip, run = choice[:, SKIP, None, None], choice[:, RUN, None, None]
    return queries * skip + processed * run, choice[:, RUN]


class FixedLayers:
    """Runs the first `count` decoder layers of every frame (paper Table 5)."""

    def __init__(self, count: int, layers: int) -> None:
        """InputError unless 1 <= count <= layers."""
        if not 1 <= count <= layers:
            raise InputError(f"the decoder has {layers} layers; {count} of them cannot run")
        self.count = count

    def route(
        self, index: int, queries: Tensor, previous: Tensor | None, layer: Layer
    ) -> tuple[Tensor, Tensor]:
        """Same as in `QueryRouter`."""
        if index < self.count:
            return layer(queries), queries.new_ones(len(queries))
        return queries, queries.new_zeros(len(queries))
