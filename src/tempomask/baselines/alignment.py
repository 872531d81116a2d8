"""Losses that hold a cheaper network to the one it came from: masks, their boxes, features.

PBD aligns predictions by KL divergence and GIoU and features by MSE, DyT predictions alone, RDS
nothing. What they gain by it is no merit of theirs: here it is a setting of the training, for any
method (`Aligned`). SlimSAM's distillation, without which its prunings make no sense, uses parts.

B clips, T frames, C channels, h x w grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tempomask.adaptation.method import (
    ClipOutputs,
    Measure,
    Method,
    Prepared,
    Replay,
    WrappedMethod,
)
from tempomask.baselines.settings import AlignmentConfig
from tempomask.models.encoder import RoutedNetwork

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


class Aligned(WrappedMethod):
    """A method whose network is held to the untouched one, besides its own loss."""

    def __init__(self, method: Method, config: AlignmentConfig) -> None:
        super().__init__(method)
        self.config = config

    def prepare(
        self, network: RoutedNetwork, measure: Measure, state: Mapping[str, Any] | None = None
    ) -> Prepared:
        self._teacher = deepcopy(network).eval().requires_grad_(False)
        return super().prepare(network, measure, state)

    def extra_loss(self, outputs: ClipOutputs, replay: Replay, step: int) -> Tensor | None:
        own = super().extra_loss(outputs, replay, step)
        whole = replay(self._teacher, None)
        aligned = self.config.predictions * prediction_alignment(outputs, whole)
        aligned = aligned + self.config.features * feature_error(outputs.features, whole.features)
        return aligned if own is None else own + aligned


def aligned(method: Method, config: AlignmentConfig) -> Method:
    """The method, aligned if the weights say so."""
    return Aligned(method, config) if config.predictions or config.features else method
