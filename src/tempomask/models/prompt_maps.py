"""Maps of what clicks and boxes say about every place of the image (nano's own; not in SAM 2).

A small network hardly learns from few images to meet a click's token with the place that was
clicked. These maps say it outright: how near and how alike each place is to the clicks, and how it
lies to the box. They join the dense prompt, beside the tokens.

N objects, P points, C channels, h x w the stride-16 grid.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tempomask.models.prompt_encoder import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, NEGATIVE, POSITIVE

# Reach of "near", in shares of the image.
NEAR, NEARBY = 0.04, 0.15
# Per kind of click: alike, near, nearby. Of the box: inside, centre, alike inside, alike around it.
CLICK_MAPS, BOX_MAPS = 3, 4


class PromptMaps(nn.Module):
    """Turns points and boxes into a dense prompt (N, C, h, w)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.feature = nn.Conv2d(dim, dim // 2, 1)
        self.mix = nn.Conv2d(2 * CLICK_MAPS + BOX_MAPS, dim // 2, 1)
        self.spread = nn.Conv2d(dim // 2, dim, 3, padding=1)

    def forward(self, features: Tensor, points: Tensor, labels: Tensor, image_size: int) -> Tensor:
        """Features (N, C, h, w), points (N, P, 2) in pixels, labels (N, P) as in `PromptEncoder`.

        Objects without any point or box get zeros.
        """
        position = (points.float() + 0.5) / image_size
        alike = F.normalize(self.feature(features).float(), dim=1)
        grid = _grid(features.shape[2], features.shape[3], features.device)
        maps = [
            _click_maps(alike, grid, position, labels == POSITIVE),
            _click_maps(alike, grid, position, labels == NEGATIVE),
            _box_maps(alike, grid, position, labels),
        ]
        prompted = (labels >= 0).any(dim=1)[:, None, None, None]
        dense = self.spread(F.gelu(self.mix(torch.cat(maps, dim=1).to(features.dtype))))
        return dense * prompted.to(dense.dtype)


def _grid(height: int, width: int, device: torch.device) -> Tensor:
    """Cell centres (h, w, 2) as x, y in [0, 1]."""
    y = (torch.arange(height, device=device) + 0.5) / height
    x = (torch.arange(width, device=device) + 0.5) / width
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=-1)


def _similarity(features: Tensor, reference: Tensor) -> Tensor:
    """Cosine of unit features (N, C, h, w) with references (N, P, C): (N, P, h, w)."""
    return torch.einsum("nchw,npc->nphw", features, F.normalize(reference, dim=-1))


def _click_maps(features: Tensor, grid: Tensor, position: Tensor, chosen: Tensor) -> Tensor:
    """(N, 3, h, w): the greatest likeness and nearness to the chosen (N, P) points; else zeros."""
    sampled = F.grid_sample(
        features, 2 * position[:, :, None] - 1, padding_mode="border", align_corners=False
    )[..., 0].transpose(1, 2)
    alike = _similarity(features, sampled)
    # (N, P, h, w) squared distances, in shares of the image
    distance = (grid - position[:, :, None, None]).square().sum(dim=-1)
    near = [(-distance / (2 * reach * reach)).exp() for reach in (NEAR, NEARBY)]
    maps = torch.stack([alike, *near], dim=2)
    lowest = maps.new_full((), -1.0)
    best = torch.where(chosen[:, :, None, None, None], maps, lowest).amax(dim=1)
    return torch.where(chosen.any(dim=1)[:, None, None, None], best, maps.new_zeros(()))


def _box_maps(features: Tensor, grid: Tensor, position: Tensor, labels: Tensor) -> Tensor:
    """(N, 4, h, w): inside the box, its soft middle, likeness to its middle and to around it."""
    given = (labels == BOX_TOP_LEFT).any(dim=1)[:, None, None]
    low = _corner(position, labels == BOX_TOP_LEFT)
    high = _corner(position, labels == BOX_BOTTOM_RIGHT)
    extent = (high - low).clamp(min=1 / grid.shape[0])
    # (N, h, w, 2): 0 in the box's middle, +-1 at its edges
    offset = (grid - ((low + high) / 2)[:, None, None]) / (extent / 2)[:, None, None]
    farthest = offset.abs().amax(dim=-1)
    inside = ((1 - farthest) * 4).sigmoid()
    middle = (-2 * offset.square().sum(-1)).exp()
    around = ((farthest > 1) & (farthest < 2)).float() + 1e-6
    references = [
        torch.einsum("nchw,nhw->nc", features, weight / weight.sum((1, 2), keepdim=True))
        for weight in (middle, around)
    ]
    alike = _similarity(features, torch.stack(references, dim=1))
    maps = torch.cat([torch.stack([inside, middle], dim=1), alike], dim=1)
    return torch.where(given[:, None], maps, maps.new_zeros(()))


def _corner(position: Tensor, chosen: Tensor) -> Tensor:
    """The chosen one (N, P) of positions (N, P, 2): (N, 2); zeros without one."""
    return (position * chosen[..., None]).sum(dim=1)
