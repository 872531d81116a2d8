"""The base of every network that is trained over clips: run it as in use, then sum up the losses.

`unroll.py` tracks with a segmenter, `propagation.py` propagates labels with an encoder alone.

B clips of T frames with N objects in all, S image side.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from tempomask.adaptation.method import ClipOutputs, Method, Replay
from tempomask.models.encoder import Policy, RoutedNetwork
from tempomask.ops.normalise import normalise


class ClipLosses(NamedTuple):
    """Scalars: the total to descend, and what to watch.

    iou: of the masks. object_score: loss of the object score. extra: the adaptation method's own
    loss, within the total. blocks: share of the encoder's blocks that ran.
    """

    total: Tensor
    iou: Tensor
    object_score: Tensor
    extra: Tensor
    blocks: Tensor


class Clips(NamedTuple):
    """images (B, T, 3, S, S), normalised; targets (N, T, S, S); the rest as in `UnrolledClips`."""

    images: Tensor
    targets: Tensor
    owner: Tensor
    seed: int
    true_memory: float


class Unrolled(NamedTuple):
    """What a network said of clips: outputs for a method, and the scalars to watch."""

    outputs: ClipOutputs
    iou: Tensor
    object_score: Tensor


class UnrolledClips(nn.Module, ABC):
    """A network run over clips, returning losses; one module, so that DDP can wrap it.

    Args:
        network: That is trained.
        policy: Routes its encoder; one that is recurrent sees each frame's masks before the next
            frame is encoded.
        method: Of adaptation; its own loss is added.
        task: Whether the losses of the predictions count, or the method's own alone.
    """

    def __init__(
        self,
        network: RoutedNetwork,
        policy: Policy | None = None,
        method: Method | None = None,
        task: bool = True,
    ) -> None:
        super().__init__()
        self.network = network
        self.policy = policy
        self.method = method
        self.task = task

    @abstractmethod
    def unroll(self, clips: Clips) -> Unrolled:
        """Go through the clips, frame by frame."""

    @abstractmethod
    def alike(self, network: RoutedNetwork, policy: Policy | None) -> Self:
        """The same for another network, without a method."""

    def forward(
        self,
        frames: Tensor,
        masks: Tensor,
        owner: Tensor,
        seed: int,
        true_memory: float = 0.0,
        step: int = 0,
    ) -> ClipLosses:
        """The losses of clips.

        Args:
            frames: (B, T, S, S, 3), uint8.
            masks: (N, T, S, S), zeros and ones.
            owner: (N,) long, the clip of each object, in ascending order.
            seed: Of what is drawn, such as prompts, so that a resumed run repeats itself.
            true_memory: Probability that a frame is remembered with its true mask instead of the
                predicted one.
            step: Of the optimiser, for the method.
        """
        clips = self.clips(frames, masks, owner, seed, true_memory)
        outputs, iou, object_score = self.unroll(clips)
        zero = outputs.loss.new_zeros(())
        extra = zero
        if self.method is not None:
            own = self.method.extra_loss(outputs, self.replay(clips), step)
            extra = extra if own is None else own
        total = (outputs.loss if self.task else zero) + extra
        share = outputs.blocks.float().mean()
        return ClipLosses(total, iou, object_score, extra.detach(), share)

    def replay(self, clips: Clips) -> Replay:
        """What runs other networks on the clips."""

        def run(
            network: RoutedNetwork, policy: Policy | None, /, *, gradients: bool = False
        ) -> ClipOutputs:
            with torch.set_grad_enabled(gradients):
                return self.alike(network, policy).unroll(clips).outputs

        return run

    def clips(
        self, frames: Tensor, masks: Tensor, owner: Tensor, seed: int, true_memory: float = 0.0
    ) -> Clips:
        """A batch, ready to be followed; arguments same as in `forward`."""
        images = normalise(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        targets = masks.to(self.network.device).float()
        return Clips(images, targets, owner, seed, true_memory)


def clip_outputs(
    features: list[Tensor],
    blocks: list[Tensor],
    logits: Tensor,
    targets: Tensor,
    losses: list[Tensor],
) -> ClipOutputs:
    """What a method sees, of T features (B, C, h, w) and blocks, (L,) or (B, L)."""
    batch = len(features[0])
    return ClipOutputs(
        features=torch.stack(features, dim=1),
        logits=logits,
        targets=targets,
        # A plan shared by the batch reports its blocks once.
        blocks=torch.stack([ran.expand(batch, -1) for ran in blocks], dim=1),
        loss=torch.stack(losses).mean(),
    )
