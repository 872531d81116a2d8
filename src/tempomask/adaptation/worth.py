"""What every block is worth on every frame, by one backward pass, and a router that predicts it.

Beyond RDS. With X' = r h(X) + (1 - r) X and all r = 1, dL/dr of a block is how fast the loss L of
the clip falls as the block is faded in, so that -dL/dr is the block's worth to first order: what
leaving it out would cost. One backward pass of the full model gives it for all blocks and frames,
where draws give one noisy number for a whole plan.

B clips, T frames, L encoder blocks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from tempomask.adaptation.method import Replay
from tempomask.models.encoder import Plan, Policy, RoutedNetwork
from tempomask.routing.plans import RoutedPlan

# Weights of a frame's worth and of its neighbours' when a clip is smoothed.
SMOOTHING = (0.25, 0.5, 0.25)


class Switches(Policy):
    """A policy that runs all blocks and remembers the r of every pass, for their gradients.

    Attributes:
        passes: r (samples, L), all 1, of each pass.
    """

    def __init__(self, num_blocks: int) -> None:
        self._num_blocks = num_blocks
        self.passes: list[Tensor] = []

    def plan(self, embedding: Tensor, previous_masks: Tensor | None) -> Plan:
        """See `models.encoder.Policy`."""
        size = (len(embedding), self._num_blocks)
        r = torch.ones(size, device=embedding.device, requires_grad=True)
        self.passes.append(r)
        return RoutedPlan(torch.ones(size, dtype=torch.bool).tolist(), r)


def measured_worth(network: RoutedNetwork, replay: Replay) -> Tensor:
    """-dL/dr (B, T, L) of the full model on the clips of the step at hand, L their mean loss.

    Blocks that change the shape have no r: theirs is 0.
    """
    switches = Switches(network.encoder.num_blocks)
    outputs = replay(network, switches, gradients=True)
    batch, length = outputs.blocks.shape[:2]
    # A policy that is not recurrent sees all frames of all clips in one pass.
    (r,) = switches.passes
    (gradient,) = torch.autograd.grad(outputs.loss, r)
    return -gradient.unflatten(0, (batch, length))


def worth_targets(worth: Tensor, free: Sequence[int]) -> Tensor:
    """Worth (B, T, F) of the free blocks, standardised on every frame, smoothed over the clip."""
    chosen = worth[..., list(free)].float()
    centred = chosen - chosen.mean(dim=-1, keepdim=True)
    scaled = centred / centred.std(dim=-1, keepdim=True).clamp(min=1e-12)
    return smoothed(scaled)


def smoothed(values: Tensor) -> Tensor:
    """values (B, T, F), each frame averaged with its neighbours; a clip's ends stand for those."""
    kernel = values.new_tensor(SMOOTHING).view(1, 1, -1)
    rows = values.transpose(1, 2).flatten(0, 1)[:, None]
    mixed = F.conv1d(F.pad(rows, (1, 1), mode="replicate"), kernel)
    return mixed[:, 0].unflatten(0, (len(values), -1)).transpose(1, 2)


def worth_loss(logits: Tensor, targets: Tensor, free: Sequence[int]) -> Tensor:
    """How far a router's logits (B, T, L), centred on each frame, are from targets (B, T, F)."""
    chosen = logits[..., list(free)].float()
    return F.smooth_l1_loss(chosen - chosen.mean(dim=-1, keepdim=True), targets)
