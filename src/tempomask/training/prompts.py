"""Prompts sampled from true masks, as SAM 2 trains: a mask, a box with jitter, or clicks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tempomask.models.prompt_encoder import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, NEGATIVE, POSITIVE

PromptKind = Literal["mask", "box", "click"]
# Sides of a box are shifted by at most so many pixels, as in SAM's training.
MOST_JITTER = 20


@dataclass(frozen=True)
class PromptSampling:
    """Probabilities of the first frame's prompt; a click is the rest. Semi-supervised use leads.

    box_jitter: standard deviation of each box side's shift, as a share of the box.
    corrections: at most this many corrective clicks after a first click.
    """

    mask: float = 0.6
    box: float = 0.2
    box_jitter: float = 0.1
    corrections: int = 2

    def choose(self, generator: torch.Generator) -> PromptKind:
        value = torch.rand((), generator=generator).item()
        if value < self.mask:
            return "mask"
        return "box" if value < self.mask + self.box else "click"


def box_prompt(mask: Tensor, jitter: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Box corners (N, 2, 2) in pixels and labels (N, 2) of masks (N, S, S); jittered."""
    corners = []
    size = mask.shape[-1]
    for one in mask > 0.5:
        ys, xs = torch.nonzero(one, as_tuple=True)
        if len(xs) == 0:
            corners.append(torch.zeros(4))
            continue
        box = torch.stack([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]).float().cpu()
        extent = (box[2:] - box[:2]).repeat(2)
        shift = torch.randn(4, generator=generator) * jitter * extent
        corners.append((box + shift.clamp(-MOST_JITTER, MOST_JITTER)).clamp(0, size))
    points = torch.stack(corners).view(-1, 2, 2).to(mask.device)
    labels = torch.tensor([[BOX_TOP_LEFT, BOX_BOTTOM_RIGHT]], device=mask.device)
    return points, labels.expand(len(points), 2)


def _random_pixel(region: Tensor, generator: torch.Generator) -> Tensor | None:
    pixels = torch.nonzero(region)
    if len(pixels) == 0:
        return None
    choice = int(torch.randint(len(pixels), (), generator=generator))
    return pixels[choice].flip(0).float()


def click(
    mask: Tensor, predicted: Tensor | None, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """One click per object: inside the mask (N, S, S), or in the error region of `predicted`.

    predicted: bool (N, S, S) or None. Returns points (N, 1, 2) and labels (N, 1): 1 on missed
    object pixels, 0 on false ones.
    """
    points, labels = [], []
    for index, wanted in enumerate(mask > 0.5):
        region = wanted if predicted is None else wanted ^ predicted[index]
        pixel = _random_pixel(region, generator)
        pixel = _random_pixel(wanted, generator) if pixel is None else pixel
        pixel = torch.zeros(2, device=mask.device) if pixel is None else pixel
        x, y = int(pixel[0]), int(pixel[1])
        points.append(pixel)
        labels.append(POSITIVE if wanted[y, x] else NEGATIVE)
    return torch.stack(points)[:, None], torch.tensor(labels, device=mask.device)[:, None]
