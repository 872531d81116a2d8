"""Mask2Former's set loss on all layers at once, and the contrastive loss of re-identification.

L prediction levels (layers), B images, Q queries, N instances, P points, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from tempomask.models.instances.query_decoder import Predictions
from tempomask.training.instances.matching import (
    FrameTargets,
    Match,
    SetLossWeights,
    match_images,
    sample_points,
)
from tempomask.training.losses import dice_loss


class SetLoss(NamedTuple):
    """Terms summed over the levels, unweighted, and their weighted total."""

    total: Tensor
    classes: Tensor
    mask: Tensor
    dice: Tensor


def set_loss(
    predictions: Sequence[Predictions],
    targets: Sequence[FrameTargets],
    weights: SetLossWeights,
    matches: Sequence[Sequence[Match]] | None = None,
) -> SetLoss:
    """Loss of L levels of predictions (B, Q, ..) for B images.

    matches: for each level and image; None matches every level anew, as Mask2Former does.
    """
    if matches is None:
        matches = match_images(predictions, targets, weights)
    classes = predictions[0].class_logits.new_zeros((), dtype=torch.float32)
    logits: list[Tensor] = []
    wanted: list[Tensor] = []
    for level, level_matches in zip(predictions, matches, strict=True):
        classes = classes + class_loss(level.class_logits, targets, level_matches, weights)
        for image, match in enumerate(level_matches):
            logits.append(level.mask_logits[image, match.queries])
            wanted.append(targets[image].masks[match.instances])
    number = max(1, sum(len(target.labels) for target in targets))
    mask, dice = mask_losses(torch.cat(logits).float(), torch.cat(wanted), weights)
    mask, dice = mask / number, dice / number
    total = weights.classes * classes + weights.mask * mask + weights.dice * dice
    return SetLoss(total, classes, mask, dice)


def class_loss(
    logits: Tensor,
    targets: Sequence[FrameTargets],
    matches: Sequence[Match],
    weights: SetLossWeights,
) -> Tensor:
    """Weighted cross-entropy of one level's class logits (B, Q, K + 1)."""
    nothing = logits.shape[-1] - 1
    wanted = torch.full(logits.shape[:2], nothing, device=logits.device)
    for image, match in enumerate(matches):
        wanted[image, match.queries] = targets[image].labels[match.instances]
    balance = torch.ones(nothing + 1, device=logits.device)
    balance[nothing] = weights.no_object
    return F.cross_entropy(logits.float().flatten(0, 1), wanted.flatten(), balance)


def mask_losses(logits: Tensor, wanted: Tensor, weights: SetLossWeights) -> tuple[Tensor, Tensor]:
    """Sums over M masks of cross-entropy and dice: logits (M, h, w), wanted (M, S, S)."""
    if not len(logits):
        return logits.sum(), logits.sum()
    points = uncertain_points(logits.detach(), weights)
    target = sample_points(wanted[:, None], points)[:, 0]
    predicted = sample_points(logits[:, None], points)[:, 0]
    cross_entropy = F.binary_cross_entropy_with_logits(predicted, target, reduction="none")
    # Points as an image of one row.
    dice = dice_loss(predicted[:, None], target[:, None])
    return cross_entropy.mean(-1).sum(), dice.sum()


def uncertain_points(logits: Tensor, weights: SetLossWeights) -> Tensor:
    """(M, P, 2) in [0, 1]: mostly where the masks (M, h, w) are near 0, the rest anywhere."""
    number, device = len(logits), logits.device
    drawn = torch.rand(number, int(weights.points * weights.oversample), 2, device=device)
    certainty = sample_points(logits[:, None], drawn)[:, 0].abs()
    chosen = int(weights.points * weights.importance)
    places = certainty.topk(chosen, largest=False).indices
    uncertain = drawn.gather(1, places[..., None].expand(-1, -1, 2))
    anywhere = torch.rand(number, weights.points - chosen, 2, device=device)
    return torch.cat([uncertain, anywhere], 1)


class ContrastiveLoss(NamedTuple):
    """cross_entropy of dot products, and squared error of cosines; zeros without a pair."""

    cross_entropy: Tensor
    cosine: Tensor


def contrastive_loss(embeddings: Tensor, queries: Tensor) -> ContrastiveLoss:
    """An instance's embedding shall be nearest to its own on the neighbouring frames (DVIS++).

    embeddings (T, Q, C); queries (T, N): each instance's query on each frame, -1 if it has none.
    Anchors are the frames after the first; the positive is the instance's query on the frame
    before and after, the negatives are all other queries there.
    """
    cross_entropy, cosine, pairs = embeddings.sum() * 0, embeddings.sum() * 0, 0
    frames = len(embeddings)
    for anchor in range(1, frames):
        for other in (anchor - 1, anchor + 1):
            if other == frames:
                continue
            both = (queries[anchor] >= 0) & (queries[other] >= 0)
            mine, theirs = embeddings[anchor, queries[anchor, both]], embeddings[other]
            positive = queries[other, both]
            cross_entropy = cross_entropy + F.cross_entropy(
                mine @ theirs.T, positive, reduction="sum"
            )
            similarity = F.normalize(mine, dim=-1) @ F.normalize(theirs, dim=-1).T
            label = F.one_hot(positive, len(theirs)).to(similarity.dtype)
            cosine = cosine + (similarity - label).square().mean(-1).sum()
            pairs += len(positive)
    return ContrastiveLoss(cross_entropy / max(1, pairs), cosine / max(1, pairs))
