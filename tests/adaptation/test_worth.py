"""What blocks are worth: the derivative against differences, and a router that predicts it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tempomask.adaptation.method import Replay
from tempomask.adaptation.options import AdapterConfig, RDSConfig, RouterTraining
from tempomask.adaptation.rds import RDS
from tempomask.adaptation.worth import measured_worth, smoothed, worth_loss, worth_targets
from tempomask.models.encoder import Policy, RoutedBlock
from tempomask.models.segmenter import Segmenter
from tempomask.training.losses import LossWeights
from tempomask.training.prompts import PromptSampling
from tempomask.training.unroll import ClipModel

pytest.importorskip("peft")
BATCH, FRAMES, SIDE, BLOCKS = 2, 3, 64, 6


class Scaled(Policy):
    """Runs block `index` of frame `frame` of clip `clip` by r, and everything else whole."""

    def __init__(self, clip: int, frame: int, index: int, r: float) -> None:
        self.row, self.index, self.r = clip * FRAMES + frame, index, r

    def plan(self, embedding: Tensor, previous_masks: Tensor | None) -> Scaled:
        return self

    def apply(self, index: int, block: RoutedBlock, x: Tensor) -> Tensor:
        y = block(x)
        if index == self.index:
            y = y.clone()
            y[self.row] = x[self.row] + self.r * (y[self.row] - x[self.row])
        return y

    @property
    def blocks(self) -> Tensor:
        return torch.ones(BLOCKS, dtype=torch.bool)


def clips() -> tuple[Tensor, Tensor, Tensor]:
    """Two clips of one object each."""
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (BATCH, FRAMES, SIDE, SIDE, 3), generator=generator)
    masks = torch.zeros(BATCH, FRAMES, SIDE, SIDE, dtype=torch.uint8)
    for frame in range(FRAMES):
        masks[0, frame, 10 : 40 + 4 * frame, 16:44] = 1
        masks[1, frame, 20:56, 8 : 30 + 6 * frame] = 1
    return frames.to(torch.uint8), masks, torch.arange(BATCH)


def asked(segmenter: Segmenter, ask: Callable[[Replay], Any]) -> Any:
    weights = LossWeights(iou=0.0)  # whose target jumps where a mask changes
    model = ClipModel(segmenter, weights, PromptSampling(mask=1, box=0))
    return ask(model.replay(model.clips(*clips(), seed=3)))


def test_worth_is_the_derivative_of_the_loss_by_r(segmenter: Segmenter) -> None:
    segmenter.requires_grad_(False)
    worth = asked(segmenter, lambda replay: measured_worth(segmenter, replay))
    assert worth.shape == (BATCH, FRAMES, BLOCKS)
    for clip, frame, index in ((0, 1, 2), (1, 2, 4), (1, 1, 0), (0, 2, 5)):

        def loss(r: float, where: tuple[int, int, int] = (clip, frame, index)) -> float:
            policy = Scaled(*where, r)
            return asked(segmenter, lambda replay: replay(segmenter, policy).loss.item())

        difference = (loss(1.02) - loss(0.98)) / 0.04
        assert worth[clip, frame, index].item() == pytest.approx(-difference, rel=0.1, abs=3e-4)


def test_targets_are_standardised_and_smooth() -> None:
    worth = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0)) * 1e-3
    worth[:, 2] *= 100
    targets = worth_targets(worth, [1, 2, 3, 4])
    assert targets.shape == (2, 5, 4)
    assert targets.mean(dim=-1).abs().max() < 1e-5
    # A frame a hundred times as weighty counts no more than its neighbours.
    scaled = worth_targets(worth * torch.tensor([1, 1, 0.01, 1, 1])[:, None], [1, 2, 3, 4])
    assert torch.allclose(targets, scaled, atol=1e-4)
    assert worth_loss(torch.cat([targets, targets], -1), targets, [0, 1, 2, 3]).item() < 1e-8
    shifted = torch.cat([targets + 3, targets], -1)
    assert worth_loss(shifted, targets, [0, 1, 2, 3]).item() < 1e-8, "only differences count"


def test_smoothing_is_a_mean_over_neighbours() -> None:
    x = torch.tensor([0.0, 4.0, 0.0, 8.0]).view(1, 4, 1)
    assert smoothed(x).flatten().tolist() == [1.0, 2.0, 3.0, 6.0]


def test_a_router_learns_worth_alone_and_then_beside_the_loss(
    segmenter: Segmenter, make_measure: Callable[[Segmenter], Any]
) -> None:
    """Within a warm-up the logits come to follow the worth of every frame."""
    training = RouterTraining(learn_worth=1.0, worth_warmup=30, router_rate=5e-3)
    config = RDSConfig(0.5, training, AdapterConfig(blocks=(1, 2), rank=2))
    method = RDS(config, steps=32)
    prepared = method.prepare(segmenter, make_measure(segmenter))
    policy, router = method.policy, method.router
    assert policy is not None and router is not None
    sampling = PromptSampling(mask=1, box=0)
    model = ClipModel(prepared.network, LossWeights(), sampling, policy, method).train()
    optimizer = torch.optim.AdamW(router.parameters(), lr=training.router_rate)
    extras, free = [], [1, 2, 3, 4]
    for step in range(32):
        method.on_step(step)
        policy.reseed(step)
        losses = model(*clips(), seed=3, step=step)
        before = {name: p.clone() for name, p in router.named_parameters()}
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        extras.append(losses.extra.item())
        assert any(not torch.equal(p, before[name]) for name, p in router.named_parameters())
        watched = prepared.watch() if prepared.watch is not None else {}
        assert watched["load"] == watched["load_in_use"] == 0.5
    assert extras[29] < 0.5 * extras[0]
    worth = asked(prepared.network, lambda replay: measured_worth(prepared.network, replay))
    targets = worth_targets(worth[:, 1:], free)
    logits = torch.stack(policy.logits, dim=1)[..., free].detach()
    pairs = torch.stack([logits.flatten(), targets.flatten()])
    assert torch.corrcoef(pairs)[0, 1] > 0.7
