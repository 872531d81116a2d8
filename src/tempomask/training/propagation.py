"""Training for label propagation: clips whose first masks flow on as in use, against the truth.

The functions are those of use (`propagation/labels.py`), so that what is trained is what runs: the
gradient of the propagated labels reaches the encoder's adapters through the similarities of patches
and through the labels of the frames before, and the router by its straight-through weights.

B clips of T frames, h x w patches, M labels (background first), S image side.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tempomask.adaptation.method import ClipOutputs, Method
from tempomask.errors import InputError
from tempomask.frames import Size
from tempomask.models.encoder import Policy, RoutedNetwork
from tempomask.ops.normalise import normalise
from tempomask.propagation.labels import LabelContext, PropagationOptions, labels_on_grid
from tempomask.propagation.network import EncodedPatches, PatchEncoder
from tempomask.training.losses import mask_iou
from tempomask.training.unroll import ClipLosses

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


class PropagationClips(nn.Module):
    """An encoder whose labels are propagated over clips, returning losses; DDP can wrap it.

    Args:
        network: That is trained.
        options: Of the propagation; the size of images is that of the clips.
        loss: Of every frame after the first.
        policy: Routes the encoder; one that is recurrent sees each frame's objects before the next
            frame is encoded.
        method: Of adaptation; its own loss is added.
    """

    def __init__(
        self,
        network: PatchEncoder,
        options: PropagationOptions,
        loss: PropagationLoss,
        policy: Policy | None = None,
        method: Method | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.options, self.loss = options, loss
        self.policy, self.method = policy, method

    def forward(
        self, frames: Tensor, masks: Tensor, seed: int, true_memory: float = 0.0, step: int = 0
    ) -> ClipLosses:
        """The losses of clips.

        Args:
            frames: (B, T, S, S, 3), uint8.
            masks: (B, T, S, S), zeros and ones.
            seed: As in `ClipModel`; nothing is drawn here.
            true_memory: As in `ClipModel`; labels are propagated as they are.
            step: Of the optimiser, for the method.
        """
        images = normalise(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        targets = masks.to(self.network.device).float()
        outputs = self._unroll(images, targets)
        total = outputs.loss
        extra = total.new_zeros(())
        if self.method is not None:

            def replay(
                network: RoutedNetwork, policy: Policy | None, *, gradients: bool = False
            ) -> ClipOutputs:
                assert isinstance(network, PatchEncoder)
                other = PropagationClips(network, self.options, self.loss, policy)
                with torch.set_grad_enabled(gradients):
                    return other._unroll(images, targets)

            own = self.method.extra_loss(outputs, replay, step)
            extra = extra if own is None else own
        wanted = F.interpolate(targets[:, 1:], size=outputs.logits.shape[-2:], mode="area")
        iou = mask_iou(outputs.logits[:, 1:], wanted).mean()
        share = outputs.blocks.float().mean()
        return ClipLosses(total + extra, iou, total.new_zeros(()), extra.detach(), share)

    def _unroll(self, images: Tensor, targets: Tensor) -> ClipOutputs:
        """Propagate the first masks through the clips.

        Args:
            images: (B, T, 3, S, S), normalised.
            targets: (B, T, S, S).
        """
        contexts = [LabelContext(self.options) for _ in images]
        losses, frames, logits = [], [], []
        recurrent = self.policy is not None and self.policy.recurrent
        whole = None if recurrent else self._encode_whole(images)
        for index in range(images.shape[1]):
            if whole is None:
                previous = torch.cat([c.masks for c in contexts]).detach() if index else None
                frame = self.network.encode(images[:, index], self.policy, previous)
            else:
                frame = whole[index]
            # Similarities are float32 in use, too.
            with torch.autocast(images.device.type, enabled=False):
                for clip, context in enumerate(contexts):
                    masks, features = targets[clip, index][None], frame.features[clip]
                    grid = features.shape[0], features.shape[1]
                    if index == 0:
                        context.begin(features, first_labels(masks, grid))
                    else:
                        truth = truth_on_grid(masks, grid)
                        losses.append(self.loss(context.step(features), truth))
                logits.append(torch.cat([object_logits(c.labels) for c in contexts]))
            frames.append(frame)
        return _outputs(frames, logits, targets, torch.stack(losses).mean())

    def _encode_whole(self, images: Tensor) -> list[EncodedPatches]:
        """All frames of all clips as one batch, where no frame needs the masks of another."""
        batch, length = images.shape[:2]
        features, blocks = self.network.encode(images.flatten(0, 1), self.policy)
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


def _outputs(
    frames: list[EncodedPatches], logits: list[Tensor], targets: Tensor, loss: Tensor
) -> ClipOutputs:
    batch = len(targets)
    return ClipOutputs(
        features=torch.stack([f.features.permute(0, 3, 1, 2) for f in frames], dim=1),
        logits=torch.stack(logits, dim=1),
        targets=targets,
        # A plan shared by the batch reports its blocks once.
        blocks=torch.stack([f.blocks.expand(batch, -1) for f in frames], dim=1),
        loss=loss,
    )
