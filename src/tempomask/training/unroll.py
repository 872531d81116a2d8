"""Training clips, tracked as in use: prompt the first frame, then memory, frame by frame.

B clips of T frames with N objects in all, S image side. A frame is encoded once for all its
objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from tempomask.adaptation.method import Method
from tempomask.models.config import SegmenterConfig
from tempomask.models.encoder import Policy, RoutedNetwork
from tempomask.models.segmenter import (
    MASK_PROMPT_BIAS,
    MASK_PROMPT_SCALE,
    Decoded,
    Encoded,
    MemoryInputs,
    Segmenter,
    as_segmenter,
)
from tempomask.tracking.frame_step import FED_BACK_LOGIT
from tempomask.training.losses import (
    LossWeights,
    best_of,
    mask_iou,
    mask_losses,
    object_score_loss,
)
from tempomask.training.prompts import PromptSampling, box_prompt, click
from tempomask.training.unrolled_clips import Clips, Unrolled, UnrolledClips, clip_outputs


class FrameOutput(NamedTuple):
    """The single mask and the three candidates of one frame."""

    single: Decoded
    multi: Decoded


@dataclass
class ClipMemory:
    """Memories of one batch of clips, in the order in which its frames were followed."""

    spatial: list[Tensor] = field(default_factory=list)
    images: list[Tensor] = field(default_factory=list)
    pointers: list[Tensor] = field(default_factory=list)

    def inputs(
        self,
        frame: int,
        config: SegmenterConfig,
        order: Sequence[int] | None = None,
        conditioning: Sequence[int] = (0,),
        num_frames: int | None = None,
    ) -> MemoryInputs:
        """What a frame attends to: the conditioning frames, then the most recent others.

        Args:
            frame: Its number in the clip.
            config: Of the segmenter.
            order: Frames of the memories; None if they are 0, 1, 2 ...
            conditioning: Those that all others attend to.
            num_frames: Of the clip, by which SAM 2's training scales distances in time if there
                are fewer than pointers; None for the scale of long videos.
        """
        memory_frames, image_keys = config.memory_frames, config.memory_attention.image_keys
        at = {i: k for k, i in enumerate(range(len(self.spatial)) if order is None else order)}
        others = [i for i in range(frame) if i in at and i not in conditioning]
        recent = [i for i in others if i > frame - memory_frames]
        chosen = [at[i] for i in (*conditioning, *recent)]
        index = [*(memory_frames - 1 for _ in conditioning), *(frame - i - 1 for i in recent)]
        device = self.spatial[0].device
        pointer_frames = [*conditioning, *reversed(others)]
        distance = torch.tensor([frame - i for i in pointer_frames], device=device)
        span = min(config.max_pointers, num_frames or config.max_pointers)
        return MemoryInputs(
            spatial=torch.stack([self.spatial[i] for i in chosen], dim=1),
            images=torch.stack([self.images[i] for i in chosen], dim=1) if image_keys else None,
            temporal_index=torch.tensor(index, device=device),
            pointers=torch.stack([self.pointers[at[i]] for i in pointer_frames], dim=1),
            pointer_distance=distance / (span - 1),
        )

    def remember(self, segmenter: Segmenter, frame: Encoded, decoded: Decoded) -> None:
        """Add a frame with its masks."""
        logits, score = decoded.logits, decoded.object_score
        self.spatial.append(segmenter.encode_memory(frame.features, logits, score))
        self.images.append(frame.features)
        self.pointers.append(decoded.object_pointer)


class ClipModel(UnrolledClips):
    """A segmenter tracking over clips: prompts on the first frame, SAM 2's losses on all.

    Args:
        segmenter: That is trained.
        weights: Of the losses.
        prompts: How the first frame is prompted.
        policy: Same as in `UnrolledClips`.
        method: Same as in `UnrolledClips`.
        task: Same as in `UnrolledClips`.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        weights: LossWeights,
        prompts: PromptSampling,
        policy: Policy | None = None,
        method: Method | None = None,
        task: bool = True,
    ) -> None:
        super().__init__(segmenter, policy, method, task)
        self.weights = weights
        self.prompts = prompts

    @property
    def segmenter(self) -> Segmenter:
        """The network."""
        return as_segmenter(self.network)

    def alike(self, network: RoutedNetwork, policy: Policy | None) -> ClipModel:
        """The same for another network, without a method."""
        return ClipModel(as_segmenter(network), self.weights, self.prompts, policy)

    def unroll(self, clips: Clips) -> Unrolled:
        """Track the clips, frame by frame."""
        generator = torch.Generator().manual_seed(clips.seed)
        length = clips.images.shape[1]
        memory = ClipMemory()
        losses, ious, scores = [], [], []
        frames, logits, previous = [], [], None
        recurrent = self.policy is not None and self.policy.recurrent
        whole = None if recurrent else encode_whole(self.segmenter, clips.images, self.policy)
        for index in range(length):
            target = clips.targets[:, index]
            if whole is None:
                encoded = self.segmenter.encode(clips.images[:, index], self.policy, previous)
            else:
                encoded = whole[index]
            frame = encoded_per_object(encoded, clips.owner)
            if index == 0:
                decoded, frame_losses = self.prompted_frame(frame, target, generator)
            else:
                inputs = memory.inputs(index, self.segmenter.config)
                outputs = self._decode_both(self.segmenter.attend(frame.features, inputs), frame)
                decoded, frame_losses = outputs.single, [self._loss(outputs, target)]
                ious.append(mask_iou(full_size(decoded.logits, target)[:, 0], target).mean())
            losses += frame_losses
            scores.append(decoded.object_score.detach())
            frames.append(encoded)
            logits.append(decoded.logits)
            if whole is None:
                seen = decoded.logits.detach()
                previous = union_of_objects(seen, clips.owner, len(clips.images))
            if index < length - 1:
                use_truth = torch.rand((), generator=generator).item() < clips.true_memory
                kept = _with_truth(decoded, target) if use_truth else decoded
                memory.remember(self.segmenter, frame, kept)
        visible = clips.targets.flatten(2).any(dim=2)
        score_loss = object_score_loss(torch.stack(scores, dim=1), visible, self.weights)
        said = clip_outputs(
            [frame.features for frame in frames],
            [frame.blocks for frame in frames],
            torch.cat(logits, dim=1),
            clips.targets,
            losses,
        )
        return Unrolled(said, torch.stack(ious).mean(), score_loss.mean())

    def _decode_both(
        self,
        features: Tensor,
        frame: Encoded,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        mask_prompt: Tensor | None = None,
    ) -> FrameOutput:
        proposals = self.segmenter.propose(
            features, frame.high_resolution, points, labels, mask_prompt
        )
        return FrameOutput(
            self.segmenter.select(proposals, multimask=False),
            self.segmenter.select(proposals, multimask=True),
        )

    def prompted_frame(
        self, frame: Encoded, target: Tensor, generator: torch.Generator
    ) -> tuple[Decoded, list[Tensor]]:
        """Prompt the first frame of N objects by a sampled kind of prompt, the same for all.

        frame: features of N; target (N, S, S) in [0, 1]. Returns what is remembered, and the loss
        of every prediction: none for a mask, one for a box, one a click.
        """
        kind = self.prompts.choose(generator)
        if kind == "mask":
            return self.segmenter.use_mask_as_output(frame, target[:, None]), []
        features = self.segmenter.attend(frame.features, None)
        if kind == "box":
            points, labels = box_prompt(target, self.prompts.box_jitter, generator)
            outputs = self._decode_both(features, frame, points, labels)
            return outputs.single, [self._loss(outputs, target)]
        return self._clicked_frame(features, frame, target, generator)

    def _clicked_frame(
        self, features: Tensor, frame: Encoded, target: Tensor, generator: torch.Generator
    ) -> tuple[Decoded, list[Tensor]]:
        """A first click, then up to `corrections` clicks on errors, each seeing the last logits."""
        points, labels = click(target, None, generator)
        outputs = self._decode_both(features, frame, points, labels)
        losses, chosen = [self._loss(outputs, target)], outputs.multi
        rounds = int(torch.randint(self.prompts.corrections + 1, (), generator=generator))
        for _ in range(rounds):
            predicted = full_size(chosen.logits, target)[:, 0] > 0
            point, label = click(target, predicted, generator)
            points, labels = torch.cat([points, point], dim=1), torch.cat([labels, label], dim=1)
            previous = chosen.logits.detach().clamp(-FED_BACK_LOGIT, FED_BACK_LOGIT)
            outputs = self._decode_both(features, frame, points, labels, previous)
            chosen = outputs.single
            losses.append(self._loss(outputs, target))
        return chosen, losses

    def _loss(self, outputs: FrameOutput, target: Tensor) -> Tensor:
        """The single mask at full size; the best of the three candidates at their own size."""
        visible = target.flatten(1).any(dim=1)
        single, multi = outputs.single, outputs.multi
        full = full_size(single.raw_logits, target)
        own = mask_losses(full, single.all_iou, target, visible, self.weights)
        side = multi.raw_logits.shape[-1]
        small = F.interpolate(target[:, None], size=(side, side), mode="area")[:, 0]
        candidates = mask_losses(multi.raw_logits, multi.all_iou, small, visible, self.weights)
        score = object_score_loss(single.object_score.float(), visible, self.weights)
        return (best_of(own) + best_of(candidates) + score).mean()


def encoded_per_object(encoded: Encoded, image: Tensor) -> Encoded:
    """Features of N objects from those of B images; image (N,) long, ascending: whose they are."""
    if len(image) == len(encoded.features):  # one object an image
        return encoded
    fine = tuple(x[image] for x in encoded.high_resolution)
    return Encoded(encoded.features[image], fine, encoded.blocks)


def union_of_objects(logits: Tensor, owner: Tensor, clips: int) -> Tensor:
    """(B, 1, h, w): the union of the masks (N, 1, h, w) of each clip's objects; owner (N,)."""
    return torch.stack([logits[owner == clip].amax(dim=0) for clip in range(clips)])


def _with_truth(decoded: Decoded, truth: Tensor) -> Decoded:
    """The same with logits and scores of the true masks (N, S, S)."""
    visible = truth.flatten(1).any(dim=1).float()
    return decoded._replace(
        logits=truth[:, None] * MASK_PROMPT_SCALE + MASK_PROMPT_BIAS,
        object_score=visible * MASK_PROMPT_SCALE + MASK_PROMPT_BIAS,
    )


def full_size(logits: Tensor, target: Tensor) -> Tensor:
    """Logits (N, M, h, w) at the size of targets (N, S, S)."""
    return F.interpolate(logits, size=target.shape[-2:], mode="bilinear", align_corners=False)


def encode_whole(segmenter: Segmenter, images: Tensor, policy: Policy | None) -> list[Encoded]:
    """The T frames of clips (B, T, 3, S, S), as one batch: none needs another's masks."""
    batch, length = images.shape[:2]
    encoded = segmenter.encode(images.flatten(0, 1), policy)

    def frame(x: Tensor, index: int) -> Tensor:
        return x.unflatten(0, (batch, length))[:, index]

    return [
        Encoded(
            frame(encoded.features, index),
            tuple(frame(x, index) for x in encoded.high_resolution),
            frame(encoded.blocks, index) if encoded.blocks.ndim == 2 else encoded.blocks,
        )
        for index in range(length)
    ]
