"""The temporal refiner of DVIS (arXiv 2306.03413, section 3.3) and DVIS++: tracks of a whole video.

A track attends to itself over all frames, then to its neighbours in time by convolutions; on each
frame the tracks attend to each other, and to the segmenter's queries. Classes are of the video:
frames are averaged by weights that the network gives them.

B videos, T frames, Q tracks and queries, C hidden_dim, D tracker width, K classes.
"""

from __future__ import annotations

from torch import Tensor, nn

from tempomask.models.instances.attention import FeedForward, MultiheadAttention, SelfAttention
from tempomask.models.instances.config import InstanceConfig, RefinerConfig
from tempomask.models.instances.query_decoder import dot_maps
from tempomask.ops.layers import MLP


class RefinerLayer(nn.Module):
    """Long and short range in time, then among the tracks of each frame."""

    def __init__(self, dim: int, config: RefinerConfig) -> None:
        super().__init__()
        self.time_attention = SelfAttention(dim, config.num_heads)
        self.near = nn.Sequential(
            nn.Conv1d(dim, dim, 5, padding="same", padding_mode="replicate"),
            nn.ReLU(),
            nn.Conv1d(dim, dim, 3, padding="same", padding_mode="replicate"),
        )
        self.near_norm = nn.LayerNorm(dim)
        self.track_attention = SelfAttention(dim, config.num_heads)
        self.cross_attention = MultiheadAttention(dim, config.num_heads)
        self.cross_norm = nn.LayerNorm(dim)
        self.feed_forward = FeedForward(dim, config.feedforward_dim)

    def forward(self, tracks: Tensor, queries: Tensor) -> Tensor:
        """Map tracks (B, T, Q, D), which see the queries (B, T, Q, D) of their frames."""
        videos, times = tracks.shape[:2]
        x = self.time_attention(tracks.transpose(1, 2).flatten(0, 1))
        x = self.near_norm(x + self.near(x.mT).mT)
        x = x.unflatten(0, (videos, -1)).transpose(1, 2).flatten(0, 1)
        x, seen = self.track_attention(x), queries.flatten(0, 1)
        x = self.cross_norm(x + self.cross_attention(x, seen, seen))
        return self.feed_forward(x).unflatten(0, (videos, times))


class TemporalRefiner(nn.Module):
    """Layers on the tracks of a video, and heads of its own."""

    def __init__(self, config: InstanceConfig, refiner: RefinerConfig, dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(RefinerLayer(dim, refiner) for _ in range(refiner.layers))
        self.norm = nn.LayerNorm(dim)
        self.class_head = nn.Linear(dim, config.num_classes + 1)
        self.mask_head = MLP(dim, dim, config.hidden_dim, layers=3)
        self.frame_weight = nn.Linear(dim, 1)

    def forward(self, tracks: Tensor, queries: Tensor) -> Tensor:
        """Refined tracks (B, T, Q, D), normed; see `RefinerLayer`."""
        for layer in self.layers:
            tracks = layer(tracks, queries)
        return self.norm(tracks)

    def classes(self, refined: Tensor) -> Tensor:
        """Class logits (B, Q, K + 1) of tracks (B, T, Q, D) over all frames."""
        weights = self.frame_weight(refined).softmax(dim=1)
        return self.class_head((refined * weights).sum(dim=1))

    def masks(self, refined: Tensor, mask_features: Tensor) -> Tensor:
        """Mask logits (B, Q, h, w) of one frame: tracks (B, Q, D), features (B, C, h, w)."""
        return dot_maps(self.mask_head(refined), mask_features)
