"""Losses that hold a cheaper network to the one it came from: masks, their boxes, features.

PBD aligns predictions by KL divergence and GIoU and features by MSE; DyT and SlimSAM use parts.
B clips, T frames, C channels, h x w grid.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tempomask.adaptation.method import ClipOutputs

# Logits beyond this say nothing more; those of absent objects are -1024.
SURE = 12.0


def mask_divergence(logits: Tensor, wanted: Tensor) -> Tensor:
    """Mean KL divergence, over pixels, of the student's Bernoulli masks from the teacher's.

    logits, wanted: the same shape; gradients through logits alone. Zero where they are equal.
    """
    student = logits.float().clamp(-SURE, SURE)
    teacher = wanted.detach().float().clamp(-SURE, SURE)
    probability = teacher.sigmoid()
    crossed = F.binary_cross_entropy_with_logits(student, probability)
    return crossed - F.binary_cross_entropy_with_logits(teacher, probability)


def box_giou_loss(logits: Tensor, wanted: Tensor) -> Tensor:
    """1 - GIoU of the boxes around two masks (..., H, W), averaged over masks.

    Boxes are soft: a mask's profile along an axis is the greatest probability in each column or
    row, and a box is the product of its two profiles. Where the teacher sees nothing, nothing is
    asked.
    """
    student = logits.float().clamp(-SURE, SURE).sigmoid()
    teacher = wanted.detach().float().clamp(-SURE, SURE).sigmoid()
    there = (teacher > 0.5).flatten(-2).any(dim=-1)
    sides = []
    for axis in (-2, -1):
        a, b = student.amax(dim=axis), teacher.amax(dim=axis)
        hull = _extent((a > 0.5) | (b > 0.5))
        overlap, both = torch.minimum(a, b).sum(-1), torch.maximum(a, b).sum(-1)
        sides.append((a.sum(-1), b.sum(-1), overlap, torch.maximum(hull, both)))
    own, other, overlap, hull = (x * y for x, y in zip(*sides, strict=True))
    union = (own + other - overlap).clamp(min=1e-6)
    giou = overlap / union - (hull - union).clamp(min=0) / hull.clamp(min=1e-6)
    return torch.where(there, 1 - giou, 0.0).sum() / there.sum().clamp(min=1)


def _extent(occupied: Tensor) -> Tensor:
    """From the first to the last place of occupied (..., N): how many places."""
    places = torch.arange(occupied.shape[-1], device=occupied.device)
    last = torch.where(occupied, places + 1, 0).amax(dim=-1)
    first = torch.where(occupied, places, occupied.shape[-1]).amin(dim=-1)
    return (last - first).clamp(min=0).float()


def feature_error(features: Tensor, wanted: Tensor) -> Tensor:
    """MSE over the variance of the wanted features, so that one weight fits every network."""
    teacher = wanted.detach().float()
    return F.mse_loss(features.float(), teacher) / teacher.var().clamp(min=1e-8)


def prediction_alignment(student: ClipOutputs, teacher: ClipOutputs) -> Tensor:
    """KL and GIoU between what two networks say of the same clips, but for the prompted frames."""
    ours, theirs = student.logits[:, 1:], teacher.logits[:, 1:]
    return mask_divergence(ours, theirs) + box_giou_loss(ours, theirs)
