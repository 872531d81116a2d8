"""Training for label propagation: clips whose first masks flow on as in use, against the truth.

The functions are those of use (`propagation/labels.py`), so that what is trained is what runs: the
gradient of the propagated labels reaches the encoder's adapters through the similarities of patches
and through the labels of the frames before, and the router by its straight-through weights.

B clips of T frames, h x w patches, N objects, M labels (background first), S image side.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tempomask.adaptation.method import Method
from tempomask.errors import InputError
from tempomask.frames import Size
from tempomask.models.encoder import Policy, RoutedNetwork
from tempomask.propagation.labels import LabelContext, labels_on_grid
from tempomask.propagation.network import EncodedPatches, as_patch_encoder
from tempomask.propagation.options import PropagationOptions
from tempomask.propagation.session import PropagationSession
from tempomask.training.losses import mask_iou
from tempomask.training.unrolled_clips import Clips, Unrolled, UnrolledClips, clip_outputs

# Labels are propagated from few patches, so that a probability may be exactly 0; this much of an
# even distribution is mixed in, and the loss of a patch that is surely wrong stays finite.
UNSURE = 1e-3


@dataclass(frozen=True)
class PropagationLoss:
    """Weights of the terms, both of label probabilities on the grid of patches."""

    cross_entropy: float = 1.0
    dice: float = 1.0

    def __post_init__(self) -> None:
        if min(self.cross_entropy, self.dice) < 0 or self.cross_entropy + self.dice == 0:
            raise InputError(
                "weights of the loss must be 0 or more, and one above 0; got cross_entropy"
                f" {self.cross_entropy:g} and dice {self.dice:g}"
            )

    def __call__(self, labels: Tensor, truth: Tensor) -> Tensor:
        """The loss of one frame.

        Args:
            labels: (h, w, M), propagated probabilities.
            truth: (h, w, M), the share of each patch that each label has.

        Returns:
            A scalar: cross-entropy averaged over patches, and dice loss averaged over objects.
        """
        sure = (1 - UNSURE) * labels + UNSURE / labels.shape[-1]
        crossed = -(truth * sure.log()).sum(dim=-1).mean()
        found, wanted = labels[..., 1:].flatten(0, 1), truth[..., 1:].flatten(0, 1)
        overlap = (found * wanted).sum(dim=0)
        dice = 1 - (2 * overlap + 1) / (found.sum(dim=0) + wanted.sum(dim=0) + 1)
        return self.cross_entropy * crossed + self.dice * dice.mean()


class PropagationClips(UnrolledClips):
    """An encoder whose labels are propagated over clips; nothing is drawn, and nothing prompted.

    Args:
        network: That is trained, a `PatchEncoder`.
        options: Of the propagation; the size of images is that of the clips.
        loss: Of every frame after the first.
        policy: Same as in `UnrolledClips`.
        method: Same as in `UnrolledClips`.
        task: Same as in `UnrolledClips`.
    """

    def __init__(
        self,
        network: RoutedNetwork,
        options: PropagationOptions,
        loss: PropagationLoss,
        policy: Policy | None = None,
        method: Method | None = None,
        task: bool = True,
    ) -> None:
        super().__init__(network, policy, method, task)
        self.options, self.loss = options, loss

    def alike(self, network: RoutedNetwork, policy: Policy | None) -> PropagationClips:
        """The same for another network, without a method."""
        return PropagationClips(network, self.options, self.loss, policy)

    def unroll(self, clips: Clips) -> Unrolled:
        """Propagate the first masks through the clips, frame by frame."""
        images, network = clips.images, as_patch_encoder(self.network)
        targets = [clips.targets[clips.owner == clip] for clip in range(len(images))]
        contexts = [LabelContext(self.options) for _ in images]
        losses, frames, logits = [], [], []
        recurrent = self.policy is not None and self.policy.recurrent
        whole = None if recurrent else self._encode_whole(images)
        for index in range(images.shape[1]):
            if whole is None:
                previous = torch.cat([c.masks for c in contexts]).detach() if index else None
                frame = network.encode(images[:, index], self.policy, previous)
            else:
                frame = whole[index]
            # Similarities are float32 in use, too.
            with torch.autocast(images.device.type, enabled=False):
                for features, context, masks in zip(frame.features, contexts, targets, strict=True):
                    grid = features.shape[0], features.shape[1]
                    if index == 0:
                        context.begin(features, first_labels(masks[:, 0], grid))
                    else:
                        truth = truth_on_grid(masks[:, index], grid)
                        losses.append(self.loss(context.step(features), truth))
                logits.append(torch.cat([object_logits(c.labels) for c in contexts]))
            frames.append(frame)
        outputs = clip_outputs(
            [frame.features.permute(0, 3, 1, 2) for frame in frames],
            [frame.blocks for frame in frames],
            torch.stack(logits, dim=1),
            clips.targets,
            losses,
        )
        wanted = F.interpolate(clips.targets[:, 1:], size=outputs.logits.shape[-2:], mode="area")
        iou = mask_iou(outputs.logits[:, 1:], wanted).mean()
        return Unrolled(outputs, iou, outputs.loss.new_zeros(()))

    def _encode_whole(self, images: Tensor) -> list[EncodedPatches]:
        """All frames of all clips as one batch, where no frame needs the masks of another."""
        batch, length = images.shape[:2]
        network = as_patch_encoder(self.network)
        features, blocks = network.encode(images.flatten(0, 1), self.policy)
        features = features.unflatten(0, (batch, length))
        ran = blocks.expand(batch * length, -1).unflatten(0, (batch, length))
        return [EncodedPatches(features[:, t], ran[:, t]) for t in range(length)]


def first_labels(masks: Tensor, grid: Size) -> Tensor:
    """Labels (h, w, N + 1) of masks (N, S, S) as in a session: where masks overlap, the last."""
    ids = torch.arange(1, len(masks) + 1, device=masks.device)[:, None, None]
    return labels_on_grid(((masks > 0.5) * ids).amax(dim=0), grid, len(masks) + 1)


def truth_on_grid(masks: Tensor, grid: Size) -> Tensor:
    """Which share (h, w, N + 1) of each patch belongs to each label, of masks (N, S, S)."""
    objects = F.interpolate(masks[None], size=grid, mode="area")[0].permute(1, 2, 0)
    background = (1 - objects.sum(dim=-1, keepdim=True)).clamp(min=0)
    shares = torch.cat([background, objects], dim=-1)
    # Where masks overlap, all of them count.
    return shares / shares.sum(dim=-1, keepdim=True)


def object_logits(labels: Tensor) -> Tensor:
    """Logits (N, h, w) of the objects, above 0 where their label (h, w, N + 1) is the largest."""
    sure = ((1 - UNSURE) * labels + UNSURE / labels.shape[-1]).log().permute(2, 0, 1)
    others = [torch.cat([sure[:n], sure[n + 1 :]]).amax(dim=0) for n in range(1, len(sure))]
    return sure[1:] - torch.stack(others)


def propagate_sequence(
    network: RoutedNetwork,
    frames: Tensor,
    first: Tensor,
    options: PropagationOptions,
    policy: Policy | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Masks bool (T - 1, S, S) of the frames after the first, from its mask, by a session.

    Args:
        network: A `PatchEncoder`.
        frames: (T, S, S, 3), uint8.
        first: (S, S), zeros and ones.
        options: Of the propagation.
        policy: Routes the encoder.
        dtype: Of the encoder's computation.
    """
    session = PropagationSession(as_patch_encoder(network), options, dtype=dtype, policy=policy)
    session.prompt(mask=first.bool().cpu().numpy())
    results = [session.step(frame) for frame in frames.cpu().numpy()]
    return torch.from_numpy(np.stack([result.masks[0] for result in results[1:]]))
