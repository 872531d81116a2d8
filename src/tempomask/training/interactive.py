"""Clips as SAM 2 trains on them: some frames prompted, some corrected by clicks, the rest tracked.

Shapes as in `unroll.py`. What is called the official code is SAM 2's `SAM2Train`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tempomask.models.encoder import Policy, RoutedNetwork
from tempomask.models.segmenter import Decoded, Encoded, Segmenter, as_segmenter
from tempomask.tracking.frame_step import FED_BACK_LOGIT
from tempomask.training.finetune_recipe import InteractiveSampling
from tempomask.training.losses import (
    LossWeights,
    best_of,
    mask_iou,
    mask_losses,
    object_score_loss,
)
from tempomask.training.prompts import box_prompt, click
from tempomask.training.regularise import Recomputed
from tempomask.training.unroll import ClipMemory, encode_whole, encoded_per_object, full_size
from tempomask.training.unrolled_clips import Clips, Unrolled, UnrolledClips, clip_outputs

Points = tuple[Tensor, Tensor]


class InteractiveClips(UnrolledClips):
    """A segmenter on clips; frames that are prompted at first come before all others.

    Args:
        segmenter: That is trained.
        weights: Of the losses.
        prompts: How clips are prompted.
        checkpointing: Compute activations twice instead of keeping them.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        weights: LossWeights,
        prompts: InteractiveSampling,
        checkpointing: bool = False,
    ) -> None:
        policy = Recomputed(segmenter.encoder.num_blocks) if checkpointing else None
        super().__init__(segmenter, policy)
        self.weights, self.prompts, self.checkpointing = weights, prompts, checkpointing

    @property
    def segmenter(self) -> Segmenter:
        """The network."""
        return as_segmenter(self.network)

    def alike(self, network: RoutedNetwork, policy: Policy | None) -> InteractiveClips:
        """The same for another network."""
        return InteractiveClips(as_segmenter(network), self.weights, self.prompts)

    def unroll(self, clips: Clips) -> Unrolled:
        """Prompt, correct and track; the loss is the sum over all predictions, as SAM 2's."""
        generator = torch.Generator().manual_seed(clips.seed)
        length = clips.images.shape[1]
        drawn = self.prompts.drawn(length, generator)
        encoded = encode_whole(self.segmenter, clips.images, self.policy)
        rest = (i for i in range(length) if i not in drawn.conditioning)
        order, remembered = [*drawn.conditioning, *rest], list(drawn.conditioning)
        memory, last = ClipMemory(), dict[int, Decoded]()
        losses, ious = [clips.targets.new_zeros(())], list[Tensor]()
        for place, index in enumerate(order):
            frame = encoded_per_object(encoded[index], clips.owner)
            target, first = clips.targets[:, index], index in drawn.conditioning
            if first and not drawn.points:
                last[index] = self.segmenter.use_mask_as_output(frame, target[:, None])
            else:
                inputs = None
                if not first:
                    config = self.segmenter.config
                    inputs = memory.inputs(index, config, order[:place], remembered, length)
                features = self._run(self.segmenter.attend, frame.features, inputs)
                points = self._first_prompt(target, generator) if first else None
                rounds = self.prompts.corrections if index in drawn.corrected else 0
                last[index], found = self._predict(
                    features, frame, target, points, rounds, generator
                )
                losses += found
                full = full_size(last[index].logits.detach(), target)[:, 0]
                ious.append(mask_iou(full, target).mean())
            if index in drawn.corrected and not first:
                remembered.append(index)
            if place < length - 1:
                memory.remember(self.segmenter, frame, last[index])
        return self._said(clips, encoded, last, losses, ious)

    def _said(
        self,
        clips: Clips,
        encoded: list[Encoded],
        last: dict[int, Decoded],
        losses: list[Tensor],
        ious: list[Tensor],
    ) -> Unrolled:
        frames = range(len(encoded))
        scores = torch.stack([last[index].object_score.detach().float() for index in frames], 1)
        visible = clips.targets.flatten(2).any(dim=2)
        said = clip_outputs(
            [encoded[index].features for index in frames],
            [encoded[index].blocks for index in frames],
            torch.cat([last[index].logits for index in frames], dim=1),
            clips.targets,
            losses,
        )
        said = said._replace(loss=torch.stack(losses).sum())
        score_loss = object_score_loss(scores, visible, self.weights).mean()
        return Unrolled(said, torch.stack(ious).mean(), score_loss)

    def _run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What a function gives; its activations are kept or computed anew, as was asked for."""
        if not self.checkpointing:
            return function(*arguments)
        return checkpoint(function, *arguments, use_reentrant=False)

    def _first_prompt(self, target: Tensor, generator: torch.Generator) -> Points:
        if _chance(self.prompts.box, generator):
            return box_prompt(target, self.prompts.box_jitter, generator)
        return click(target, None, generator)

    def _predict(
        self,
        features: Tensor,
        frame: Encoded,
        target: Tensor,
        points: Points | None,
        rounds: int,
        generator: torch.Generator,
    ) -> tuple[Decoded, list[Tensor]]:
        """The last of a prediction and so many corrected ones, and the loss of each."""
        decoded, loss = self._run(self._decode, features, frame, target, points, None)
        losses = [loss]
        for _ in range(rounds):
            wrong = full_size(decoded.logits.detach(), target)[:, 0] > 0
            anywhere = _chance(self.prompts.from_truth, generator)
            new = click(target, None if anywhere else wrong, generator)
            points = new if points is None else _joined(points, new)
            previous = decoded.logits.clamp(-FED_BACK_LOGIT, FED_BACK_LOGIT)
            decoded, loss = self._run(self._decode, features, frame, target, points, previous)
            losses.append(loss)
        return decoded, losses

    def _decode(
        self,
        features: Tensor,
        frame: Encoded,
        target: Tensor,
        points: Points | None,
        previous: Tensor | None,
    ) -> tuple[Decoded, Tensor]:
        """A prediction as in use, and its loss: of the best of three masks where these compete."""
        config, (where, labels) = self.segmenter.config, points or (None, None)
        count = 0 if labels is None else labels.shape[1]
        decoded = self.segmenter.decode(
            features,
            frame.high_resolution,
            where,
            labels,
            previous,
            multimask=config.multimask_min_points <= count <= config.multimask_max_points,
        )
        visible = target.flatten(1).any(dim=1)
        full = full_size(decoded.raw_logits, target)
        masks = mask_losses(full, decoded.all_iou, target, visible, self.weights)
        score = object_score_loss(decoded.object_score.float(), visible, self.weights)
        return decoded, (best_of(masks) + score).mean()


def _chance(share: float, generator: torch.Generator) -> bool:
    return torch.rand((), generator=generator).item() < share


def _joined(points: Points, new: Points) -> Points:
    return torch.cat([points[0], new[0]], dim=1), torch.cat([points[1], new[1]], dim=1)
