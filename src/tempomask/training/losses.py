"""SAM 2's training losses: focal, dice, IoU and object score (arXiv 2408.00714, appendix D).

N objects, M candidate masks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class LossWeights:
    """Weights of the loss terms; the defaults are SAM 2's."""

    focal: float = 20.0
    dice: float = 1.0
    iou: float = 1.0
    object_score: float = 1.0


# Focal loss of Lin et al. with SAM's constants.
FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0


def focal_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Mean focal loss of each mask: logits and target (..., H, W), target in [0, 1]: (...)."""
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    probability = logits.sigmoid()
    agreement = probability * target + (1 - probability) * (1 - target)
    weight = FOCAL_ALPHA * target + (1 - FOCAL_ALPHA) * (1 - target)
    return (weight * (1 - agreement) ** FOCAL_GAMMA * cross_entropy).flatten(-2).mean(-1)


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Dice loss of each mask, smoothed by 1 as in SAM: (..., H, W) to (...)."""
    probability, target = logits.sigmoid().flatten(-2), target.flatten(-2)
    overlap = (probability * target).sum(-1)
    return 1 - (2 * overlap + 1) / (probability.sum(-1) + target.sum(-1) + 1)


def mask_iou(logits: Tensor, target: Tensor) -> Tensor:
    """IoU of logits > 0 with target > 0.5, both (..., H, W): (...); 1 when both are empty."""
    predicted, wanted = (logits > 0).flatten(-2), (target > 0.5).flatten(-2)
    union = (predicted | wanted).sum(-1)
    overlap = (predicted & wanted).sum(-1)
    return torch.where(union > 0, overlap / union.clamp(min=1), 1.0)


class MaskLosses(NamedTuple):
    """Losses (N, M) of every candidate: of its shape, and of its predicted IoU."""

    shape: Tensor
    quality: Tensor


def mask_losses(
    logits: Tensor, iou: Tensor, target: Tensor, visible: Tensor, weights: LossWeights
) -> MaskLosses:
    """What every candidate loses.

    logits (N, M, H, W), iou (N, M) predicted, target (N, H, W) in [0, 1], visible (N,) bool. Masks
    of absent objects are not supervised: their object score says it all.
    """
    target = target[:, None].expand_as(logits)
    shape = weights.focal * focal_loss(logits, target) + weights.dice * dice_loss(logits, target)
    quality = weights.iou * (iou - mask_iou(logits.detach(), target)).abs()
    return MaskLosses(shape * visible[:, None], quality * visible[:, None])


def best_of(losses: MaskLosses) -> Tensor:
    """(N,): the shape of the best candidate, and the predicted IoU of all, as SAM 2 trains them.

    One candidate is free to be the part and another the whole, and each learns how good it is:
    by that the best is chosen in use.
    """
    return losses.shape.min(dim=1).values + losses.quality.mean(dim=1)


def object_score_loss(score: Tensor, visible: Tensor, weights: LossWeights) -> Tensor:
    """Binary cross-entropy of the object score (N,) against visibility (N,) bool: (N,)."""
    target = visible.to(score.dtype)
    return weights.object_score * F.binary_cross_entropy_with_logits(
        score, target, reduction="none"
    )
