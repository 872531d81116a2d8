"""SAM's prompt encoder: points, box corners and mask prompts (arXiv 2408.00714).

N objects, P points, C hidden_dim, h x w the stride-16 grid.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from tempomask.ops.layers import LayerNorm2d, learned

# Rows of `point_embeddings`; label -1 stands for "not a point".
NEGATIVE, POSITIVE, BOX_TOP_LEFT, BOX_BOTTOM_RIGHT, NOT_A_POINT = 0, 1, 2, 3, -1


class PromptEncoder(nn.Module):
    """Turns prompts into sparse tokens and a dense map."""

    frequencies: Tensor

    def __init__(self, hidden_dim: int, mask_channels: int) -> None:
        super().__init__()
        frequencies = torch.empty(2, hidden_dim // 2)
        self.register_buffer("frequencies", nn.init.trunc_normal_(frequencies, a=-4, b=4))
        # The last grid's encoding and what it was made from; the frequencies are not trained.
        self._grid: tuple[tuple[int, int, int], Tensor, Tensor] | None = None
        self.point_embeddings = learned(4, hidden_dim)
        self.not_a_point = learned(hidden_dim)
        self.no_mask = learned(hidden_dim)
        quarter = mask_channels // 4
        self.mask_embedding = nn.Sequential(
            nn.Conv2d(1, quarter, 2, stride=2),
            LayerNorm2d(quarter),
            nn.GELU(),
            nn.Conv2d(quarter, mask_channels, 2, stride=2),
            LayerNorm2d(mask_channels),
            nn.GELU(),
            nn.Conv2d(mask_channels, hidden_dim, 1),
        )

    def encode_position(self, position: Tensor) -> Tensor:
        """Random Fourier features of positions (..., 2) in [0, 1] (x, y): (..., C), float32."""
        x, y = (2 * position.float() - 1).unbind(dim=-1)
        across, down = self.frequencies.float()
        # Not a matrix product, which autocast would compute in low precision.
        angle = (x[..., None] * across + y[..., None] * down) * (2 * math.pi)
        return torch.cat([angle.sin(), angle.cos()], dim=-1)

    def grid_position(self, height: int, width: int) -> Tensor:
        """Position encoding of the cell centres of a grid: (1, C, height, width)."""
        # Tensors made in inference mode never change, and count no versions.
        version = 0 if self.frequencies.is_inference() else self.frequencies._version
        key = (height, width, version)
        cached = self._grid
        if cached is None or cached[0] != key or cached[1] is not self.frequencies:
            with torch.inference_mode(False), torch.no_grad():
                cached = (key, self.frequencies, self._make_grid(height, width))
            self._grid = cached
        return cached[2]

    def _make_grid(self, height: int, width: int) -> Tensor:
        device = self.frequencies.device
        y = (torch.arange(height, device=device) + 0.5) / height
        x = (torch.arange(width, device=device) + 0.5) / width
        grid = torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=-1)
        return self.encode_position(grid).permute(2, 0, 1)[None]

    def embed_points(self, points: Tensor, labels: Tensor, image_size: int) -> Tensor:
        """Points (N, P, 2) in pixels of the network input, labels (N, P): tokens (N, P, C)."""
        encoded = self.encode_position((points.float() + 0.5) / image_size)
        is_point = (labels != NOT_A_POINT)[..., None]
        learned = self.point_embeddings[labels.clamp(min=0).long()]
        return torch.where(is_point, encoded + learned, self.not_a_point)

    def forward(
        self, points: Tensor, labels: Tensor, mask: Tensor | None, image_size: int
    ) -> tuple[Tensor, Tensor]:
        """Encode the prompts of N objects.

        points (N, P, 2), labels (N, P) as in `embed_points`; mask (N, 1, 4h, 4w) logits or None.
        Returns sparse tokens (N, P + 1, C), the last a pad as in the official code, none at all
        where P is 0, and the dense map (N, C, h, w) or (1, C, 1, 1) without a mask.
        """
        pad_point = points.new_zeros(points.shape[0], 1, 2)
        pad_label = labels.new_full((labels.shape[0], 1), NOT_A_POINT)
        sparse = self.embed_points(
            torch.cat([points, pad_point], dim=1), torch.cat([labels, pad_label], dim=1), image_size
        )[:, : points.shape[1] + 1 if points.shape[1] else 0]
        dense = self.no_mask[None, :, None, None] if mask is None else self.mask_embedding(mask)
        return sparse, dense
