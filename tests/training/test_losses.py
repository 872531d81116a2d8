"""Losses against their formulas, written out."""

from __future__ import annotations

import math

import pytest
import torch

from tempomask.training.losses import (
    LossWeights,
    best_of,
    dice_loss,
    focal_loss,
    mask_iou,
    mask_losses,
    object_score_loss,
)


def test_focal_and_dice_by_hand() -> None:
    logits = torch.tensor([[0.0, 2.0], [-3.0, 0.5]])
    target = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    focal, overlap, total = 0.0, 0.0, 0.0
    for logit, wanted in zip(logits.flatten().tolist(), target.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-logit))
        agreement = p if wanted else 1 - p
        alpha = 0.25 if wanted else 0.75
        focal += -alpha * (1 - agreement) ** 2 * math.log(agreement) / 4
        overlap += p * wanted
        total += p + wanted
    assert focal_loss(logits, target).item() == pytest.approx(focal, rel=1e-5)
    assert dice_loss(logits, target).item() == pytest.approx(
        1 - (2 * overlap + 1) / (total + 1), rel=1e-5
    )


def test_iou_of_empty_masks_is_one() -> None:
    logits, target = torch.full((2, 4, 4), -1.0), torch.zeros(2, 4, 4)
    target[1, :2] = 1
    assert mask_iou(logits, target).tolist() == [1.0, 0.0]


def test_absent_objects_are_not_supervised_by_shape() -> None:
    logits = torch.randn(2, 3, 8, 8, requires_grad=True)
    iou = torch.full((2, 3), 0.5)
    visible = torch.tensor([True, False])
    losses = mask_losses(logits, iou, torch.zeros(2, 8, 8), visible, LossWeights())
    assert losses.shape.shape == losses.quality.shape == (2, 3)
    best_of(losses).sum().backward()
    assert logits.grad is not None
    assert logits.grad[0].abs().sum() > 0
    assert logits.grad[1].abs().sum() == 0


def test_weights_scale_their_terms() -> None:
    logits, iou = torch.randn(1, 1, 8, 8), torch.tensor([[0.3]])
    target, visible = torch.zeros(1, 8, 8), torch.tensor([True])

    def loss(**weights: float) -> float:
        none = {"focal": 0.0, "dice": 0.0, "iou": 0.0}
        weighted = LossWeights(**none | weights)
        return best_of(mask_losses(logits, iou, target, visible, weighted)).item()

    parts = loss(focal=20.0) + loss(dice=1.0) + loss(iou=1.0)
    whole = best_of(mask_losses(logits, iou, target, visible, LossWeights()))
    assert whole.item() == pytest.approx(parts)
    score = object_score_loss(torch.tensor([0.0]), visible, LossWeights(object_score=2.0))
    assert score.item() == pytest.approx(2 * math.log(2))


def test_the_best_candidate_learns_its_shape_and_all_learn_how_good_they_are() -> None:
    target = torch.zeros(1, 8, 8)
    target[:, :4] = 1
    logits = torch.stack([4 * target - 2, 2 - 4 * target, 2 * target - 1], dim=1)
    logits.requires_grad_()
    iou = torch.full((1, 3), 0.4, requires_grad=True)
    losses = mask_losses(logits, iou, target, torch.tensor([True]), LossWeights())
    best_of(losses).sum().backward()
    assert logits.grad is not None and iou.grad is not None
    assert [bool(g.abs().sum() > 0) for g in logits.grad[0]] == [True, False, False]
    # The second mask is wrong, and has to say so.
    assert iou.grad[0].sign().tolist() == [-1.0, 1.0, -1.0]
