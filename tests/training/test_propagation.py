"""Training of label propagation: the labels of use, their gradients, and a loss that falls."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tempomask.adaptation.lora import add_lora
from tempomask.errors import InputError
from tempomask.models.dinov3 import DINOv3, DINOv3Config
from tempomask.models.encoder import KeepPlan
from tempomask.propagation.labels import LabelContext
from tempomask.propagation.network import PatchEncoder
from tempomask.propagation.options import PropagationOptions
from tempomask.propagation.session import PropagationSession
from tempomask.routing.static import StaticPlan
from tempomask.training.propagation import (
    PropagationClips,
    PropagationLoss,
    first_labels,
    object_logits,
    truth_on_grid,
)

pytest.importorskip("transformers")
SIDE = 96
OPTIONS = PropagationOptions(short_side=SIDE)
# Each of two clips shows one object.
OWNERS = torch.arange(2)


@pytest.fixture
def network() -> PatchEncoder:
    torch.manual_seed(0)
    return PatchEncoder(DINOv3(DINOv3Config("tiny", 32, 2, 6, 64)), "tiny").eval()


def noisy_clips(count: int = 2, length: int = 4) -> tuple[Tensor, Tensor]:
    """A square of one colour moves over another, both under noise that hides them from a patch."""
    rng = np.random.default_rng(0)
    frames = np.zeros((count, length, SIDE, SIDE, 3), np.uint8)
    masks = np.zeros((count, length, SIDE, SIDE), np.uint8)
    for clip in range(count):
        ground, figure = rng.integers(60, 200, (2, 3))
        (y, x), (dy, dx) = rng.integers(8, 40, 2), rng.integers(-6, 7, 2)
        for t in range(length):
            top, left = np.clip([y + dy * t, x + dx * t], 0, SIDE - 40)
            masks[clip, t, top : top + 40, left : left + 40] = 1
            colour = np.where(masks[clip, t, ..., None], figure, ground)
            frames[clip, t] = (colour + rng.normal(0, 45, (SIDE, SIDE, 3))).clip(0, 255)
    return torch.from_numpy(frames), torch.from_numpy(masks)


def test_clips_are_propagated_as_by_a_session(network: PatchEncoder) -> None:
    frames, masks = noisy_clips()
    model = PropagationClips(network, OPTIONS, PropagationLoss())
    seen: list[Tensor] = []
    original = LabelContext.step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LabelContext, "step", lambda *a: seen.append(x := original(*a)) or x)
        model(frames, masks, OWNERS, seed=0)
    trained = torch.stack(seen).unflatten(0, (3, 2))  # frame by frame, clip by clip
    for clip in range(2):
        session = PropagationSession(network, OPTIONS)
        session.prompt(mask=masks[clip, 0].bool().numpy())
        for index, frame in enumerate(frames[clip].numpy()):
            session.step(frame)
            if index:
                torch.testing.assert_close(trained[index - 1, clip], session.context.labels)


def test_the_plan_of_a_frame_sees_the_objects_of_the_frame_before(network: PatchEncoder) -> None:
    """A recurrent policy is asked frame by frame; one that runs everything changes nothing."""

    class Everything(StaticPlan):
        recurrent = True
        seen: list[Tensor | None]

        def plan(self, embedding: Tensor, previous_masks: Tensor | None) -> KeepPlan:
            self.seen.append(previous_masks)
            return super().plan(embedding, previous_masks)

    everything = Everything(range(6), network.encoder)
    everything.seen = []
    frames, masks = noisy_clips()
    plain = PropagationClips(network, OPTIONS, PropagationLoss())(frames, masks, OWNERS, seed=0)
    routed = PropagationClips(network, OPTIONS, PropagationLoss(), everything)(
        frames, masks, OWNERS, seed=0
    )
    assert routed.total.item() == pytest.approx(plain.total.item(), rel=1e-4)
    assert plain.blocks == routed.blocks == 1
    assert everything.seen[0] is None and len(everything.seen) == 4
    second = everything.seen[1]
    assert second is not None and second.shape == (2, 1, 6, 6) and not second.requires_grad
    first = torch.stack([first_labels(m[:1].float(), (6, 6)) for m in masks])
    assert torch.equal(second[:, 0] > 0, first[..., 1] > 0)


def test_several_objects_of_a_clip_compete_as_in_a_session(network: PatchEncoder) -> None:
    """One clip with two objects and one with one: each clip is propagated by itself."""
    frames, masks = noisy_clips()
    below = torch.zeros_like(masks[:1])
    below[..., 80:, :] = 1
    targets, owner = torch.cat([masks[:1], below, masks[1:]]), torch.tensor([0, 0, 1])
    model = PropagationClips(network, OPTIONS, PropagationLoss())
    outputs = model.unroll(model.clips(frames, targets, owner, seed=0)).outputs
    assert outputs.logits.shape == (3, 4, 6, 6) and outputs.blocks.shape == (2, 4, 6)
    session = PropagationSession(network, OPTIONS)
    for object_id, mask in enumerate((masks[0, 0], below[0, 0]), 1):
        session.prompt(object_id=object_id, mask=mask.bool().numpy())
    for index, frame in enumerate(frames[0].numpy()):
        session.step(frame)
        expected = object_logits(session.context.labels)
        torch.testing.assert_close(outputs.logits[:2, index], expected, atol=1e-4, rtol=1e-4)
    alone = model.unroll(model.clips(frames[1:], masks[1:], torch.tensor([0]), seed=0)).outputs
    torch.testing.assert_close(outputs.logits[2:], alone.logits, atol=1e-4, rtol=1e-4)


def test_gradients_of_the_labels_are_right() -> None:
    """Through the similarities, and through the labels of the frame between."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(3, 3, 4, 5, generator=generator, dtype=torch.float64).requires_grad_()
    first = torch.rand(3, 4, 2, generator=generator, dtype=torch.float64).softmax(dim=-1)

    def last(features: Tensor) -> Tensor:
        context = LabelContext(PropagationOptions(radius=1.5, top_k=4))
        unit = F.normalize(features, dim=-1)
        context.begin(unit[0], first)
        context.step(unit[1])
        return context.step(unit[2])

    assert torch.autograd.gradcheck(last, features)


def test_the_loss_by_hand() -> None:
    labels = torch.tensor([[[0.75, 0.25], [0.0, 1.0]]])
    truth = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    loss = PropagationLoss(cross_entropy=2, dice=0)(labels, truth).item()
    assert loss == pytest.approx(2 * -(math.log(0.75) + math.log(1)) / 2, abs=4e-3)
    dice = PropagationLoss(cross_entropy=0, dice=3)(labels, truth).item()
    assert dice == pytest.approx(3 * (1 - (2 * 1 + 1) / (1.25 + 1 + 1)))
    wrong = PropagationLoss()(truth.flip(-1), truth)
    assert wrong.isfinite() and wrong > 5
    assert PropagationLoss()(truth, truth).item() == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("weights", [(-1.0, 1.0), (0.0, 0.0)])
def test_weights_that_train_nothing(weights: tuple[float, float]) -> None:
    with pytest.raises(InputError, match="weights of the loss must be 0 or more"):
        PropagationLoss(*weights)


def test_several_objects_on_the_grid() -> None:
    """Where masks overlap the last counts in what is propagated, and all in the truth."""
    masks = torch.zeros(2, 32, 32)
    masks[0, :, :28], masks[1, :16, 16:] = 1, 1
    first, truth = first_labels(masks, (2, 2)), truth_on_grid(masks, (2, 2))
    assert first.argmax(dim=-1).tolist() == [[1, 2], [1, 1]]
    assert truth[0, 0].tolist() == [0, 1, 0] and truth[1, 1].tolist() == [0.25, 0.75, 0]
    torch.testing.assert_close(truth[0, 1], torch.tensor([0, 3 / 7, 4 / 7]))
    logits = object_logits(truth)
    assert torch.equal(logits > 0, truth.argmax(dim=-1) == torch.arange(1, 3)[:, None, None])


def test_adapters_learn_what_looks_alike(network: PatchEncoder) -> None:
    frames, masks = noisy_clips()
    model = PropagationClips(network, OPTIONS, PropagationLoss()).train()
    parameters = add_lora(network.encoder, range(6), rank=8)
    optimizer = torch.optim.AdamW(parameters, lr=5e-3)
    losses: list[float] = []
    for _ in range(20):
        found = model(frames, masks, OWNERS, seed=0)
        losses.append(found.total.item())
        optimizer.zero_grad()
        found.total.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in parameters)
        optimizer.step()
    assert losses[-1] < losses[0] - 0.15, losses
