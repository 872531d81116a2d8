"""What is to be found, and which query answers for it: Mask2Former's costs, DVIS++'s for clips.

L prediction levels (layers), B clips, T frames of H x W, Q queries, N instances, P points,
K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from tempomask.data.instance_clips import MEAN_COLOUR, InstanceClip
from tempomask.models.instances.query_decoder import Predictions

# The cost of a query that already stands for another instance.
TAKEN = 1e6


class ClipTargets(NamedTuple):
    """labels (N,), masks (T, N, H, W) float 0 or 1, present (T, N) bool."""

    labels: Tensor
    masks: Tensor
    present: Tensor

    def image(self, frame: int) -> FrameTargets:
        """What is to be found on one frame."""
        present = self.present[frame]
        return FrameTargets(self.labels[present], self.masks[frame, present])


class FrameTargets(NamedTuple):
    """labels (N,), masks (N, H, W) float 0 or 1."""

    labels: Tensor
    masks: Tensor


class ClipBatch(NamedTuple):
    """frames: (B, T, H, W, 3) uint8. targets: of each clip."""

    frames: Tensor
    targets: list[ClipTargets]

    def to(self, device: torch.device) -> ClipBatch:
        moved = [ClipTargets(*(x.to(device) for x in target)) for target in self.targets]
        return ClipBatch(self.frames.to(device), moved)


def collate(clips: Sequence[InstanceClip]) -> ClipBatch:
    """Clips as large as the largest, filled up below and right; their instances stay apart."""
    height, width = (max(clip.frames.shape[axis] for clip in clips) for axis in (1, 2))
    frames = torch.tensor(MEAN_COLOUR, dtype=torch.uint8)
    frames = frames.repeat(len(clips), len(clips[0].frames), height, width, 1)
    targets = []
    for into, clip in zip(frames, clips, strict=True):
        _, rows, columns, _ = clip.frames.shape
        into[:, :rows, :columns] = torch.from_numpy(clip.frames)
        masks = F.pad(torch.from_numpy(clip.masks).float(), (0, width - columns, 0, height - rows))
        labels, present = torch.from_numpy(clip.labels), torch.from_numpy(clip.present)
        targets.append(ClipTargets(labels, masks, present))
    return ClipBatch(frames, targets)


class Match(NamedTuple):
    """queries (N,) and the instances (N,) that they answer for."""

    queries: Tensor
    instances: Tensor


@dataclass(frozen=True)
class SetLossWeights:
    """Weights of the terms (costs of the matching as well); the defaults are Mask2Former's.

    no_object: of queries that answer for nothing. points: a mask is compared on; oversample times
    as many are drawn, of which the most uncertain make up `importance` of the points. reid,
    reid_cosine: of the contrastive terms (DVIS++). layers: of the share of decoder layers that
    TAR runs; the paper has no such term.
    """

    classes: float = 2.0
    mask: float = 5.0
    dice: float = 5.0
    no_object: float = 0.1
    points: int = 12544
    oversample: float = 3.0
    importance: float = 0.75
    reid: float = 2.0
    reid_cosine: float = 3.0
    layers: float = 0.0


def sample_points(masks: Tensor, points: Tensor) -> Tensor:
    """Read masks (A, C, H, W) at points (A, P, 2), x and y in [0, 1], bilinearly: (A, C, P)."""
    return F.grid_sample(masks, 2 * points[:, None] - 1, align_corners=False)[:, :, 0]


@torch.no_grad()
def match_costs(predictions: Predictions, target: FrameTargets, weights: SetLossWeights) -> Tensor:
    """(L, Q, N): what it costs that a query answers for an instance.

    predictions: of one image, L levels as the batch: (L, Q, K + 1) and (L, Q, h, w).
    """
    classes, masks = predictions
    levels, queries = classes.shape[:2]
    points = torch.rand(1, weights.points, 2, device=masks.device)
    predicted = sample_points(masks.float().flatten(0, 1)[None], points)[0]
    wanted = sample_points(target.masks[None], points)[0]
    # Sums over the points, for all pairs at once.
    cross_entropy = F.softplus(-predicted) @ wanted.T + F.softplus(predicted) @ (1 - wanted).T
    probability = predicted.sigmoid()
    sums = probability.sum(-1, keepdim=True) + wanted.sum(-1)
    dice = 1 - (2 * probability @ wanted.T + 1) / (sums + 1)
    shape = weights.mask * cross_entropy / weights.points + weights.dice * dice
    likelihood = classes.float().softmax(-1)[..., target.labels]
    return shape.view(levels, queries, -1) - weights.classes * likelihood


def match_images(
    predictions: Sequence[Predictions], targets: Sequence[FrameTargets], weights: SetLossWeights
) -> list[list[Match]]:
    """For every level and image its match; predictions: L of (B, Q, ..)."""
    matches: list[list[Match]] = [[] for _ in predictions]
    for image, target in enumerate(targets):
        classes = torch.stack([level.class_logits[image] for level in predictions])
        masks = torch.stack([level.mask_logits[image] for level in predictions])
        cost = match_costs(Predictions(classes, masks), target, weights)
        for level, matrix in enumerate(cost):
            matches[level].append(assign(matrix))
    return matches


def match_clip(
    predictions: Sequence[Predictions], target: ClipTargets, weights: SetLossWeights
) -> Match:
    """One match for all frames of a clip, made where each instance first appears (DVIS++).

    predictions: of the T frames, (1, Q, ..) each, in the order of the tracks.
    """
    queries: list[Tensor] = []
    instances: list[Tensor] = []
    seen = torch.zeros_like(target.present[0])
    for frame, prediction in enumerate(predictions):
        new = (target.present[frame] & ~seen).nonzero()[:, 0]
        seen |= target.present[frame]
        if not len(new):
            continue
        image = FrameTargets(target.labels[new], target.masks[frame, new])
        cost = match_costs(prediction, image, weights)[0]
        if queries:
            cost[torch.cat(queries)] = TAKEN
        match = assign(cost)
        queries.append(match.queries)
        instances.append(new[match.instances])
    if not queries:
        nothing = torch.zeros(0, dtype=torch.int64, device=target.labels.device)
        return Match(nothing, nothing)
    return Match(torch.cat(queries), torch.cat(instances))


def assign(cost: Tensor) -> Match:
    """The cheapest assignment for costs (Q, N)."""
    from scipy.optimize import linear_sum_assignment

    queries, instances = linear_sum_assignment(torch.nan_to_num(cost).cpu().numpy())
    device = cost.device
    return Match(torch.from_numpy(queries).to(device), torch.from_numpy(instances).to(device))
