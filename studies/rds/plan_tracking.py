"""Many plans on one video at once: the same frames, a state for each plan.

What plans share is computed once: what comes before the blocks, and every block up to the one where
they part. V videos are tracked one by one; P plans, T frames, S image side, L encoder blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from tempomask.metrics.region_boundary import region_and_boundary
from tempomask.models.encoder import Encoder, Plan, Policy, RoutedBlock
from tempomask.models.segmenter import Encoded, Segmenter
from tempomask.ops.normalise import normalise
from tempomask.training.unroll import ClipMemory
from tempomask.training.validation import SquareVideo

# Which blocks run, ascending.
Blocks = tuple[int, ...]


class SharedPlans(Policy):
    """Runs the blocks of P plans on one image: P feature maps from one embedding."""

    def __init__(self, plans: Sequence[Blocks], encoder: Encoder) -> None:
        self._keep = [[i in plan for i in range(encoder.num_blocks)] for plan in plans]
        self._emitting = encoder.feature_blocks

    def plan(self, embedding: Tensor, previous_masks: Tensor | None) -> Plan:
        """See `models.encoder.Policy`; the embedding is of one image."""
        return _SharedPass(self._keep, self._emitting)


class _SharedPass:
    """One pass: x has a row for every prefix of the plans so far; `rows` says which is whose."""

    def __init__(self, keep: list[list[bool]], emitting: Sequence[int]) -> None:
        self._keep, self._emitting = keep, emitting
        self._rows = [0] * len(keep)

    def apply(self, index: int, block: RoutedBlock, x: Tensor) -> Tensor:
        wanted = [(row, keep[index]) for row, keep in zip(self._rows, self._keep, strict=True)]
        prefixes = sorted(set(wanted))
        running = [row for row, runs in prefixes if runs]
        skipping = [row for row, runs in prefixes if not runs]
        parts = [x[skipping]] if skipping else []
        parts += [block(x[running])] if running else []
        ordered = [(row, False) for row in skipping] + [(row, True) for row in running]
        self._rows = [ordered.index(pair) for pair in wanted]
        x = torch.cat([part.to(parts[-1].dtype) for part in parts])
        if index in self._emitting:
            x, self._rows = x[self._rows], list(range(len(self._rows)))
        return x

    @property
    def blocks(self) -> Tensor:
        return torch.tensor(self._keep)


@dataclass(frozen=True)
class TrackState:
    """Memories of P trackings of one video, as after frame `last`."""

    memory: ClipMemory
    last: int

    def only(self, row: int) -> TrackState:
        """That of one of them."""
        picked = [[x[row : row + 1] for x in kept] for kept in self._lists()]
        return TrackState(ClipMemory(*picked), self.last)

    def repeated(self, count: int) -> TrackState:
        """The state of one, `count` times."""
        grown = [[x.expand(count, *x.shape[1:]) for x in kept] for kept in self._lists()]
        return TrackState(ClipMemory(*grown), self.last)

    def _lists(self) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        return self.memory.spatial, self.memory.images, self.memory.pointers


class PlanTracker:
    """Tracks one video with many plans; its first frame runs all blocks, as with a router."""

    def __init__(self, segmenter: Segmenter, video: SquareVideo) -> None:
        self._segmenter, self.video = segmenter, video
        self._all = tuple(range(segmenter.encoder.num_blocks))

    @torch.no_grad()
    def begin(self) -> TrackState:
        """The state after the first frame, whose mask is given."""
        first = self.video.masks[0].float()[None, None]
        frame = self._encode(0, [self._all])
        decoded = self._segmenter.use_mask_as_output(frame, first)
        memory = ClipMemory()
        memory.remember(self._segmenter, frame, decoded)
        return TrackState(memory, 0)

    @torch.no_grad()
    def follow(
        self, state: TrackState, plans: Sequence[Blocks], frames: int
    ) -> tuple[TrackState, NDArray[np.float64]]:
        """The next frames with each plan, from the state of one: new states, J&F (P, frames)."""
        state = state.repeated(len(plans))
        memory = ClipMemory(*(list(kept) for kept in state._lists()))
        found = []
        for index in range(state.last + 1, state.last + 1 + frames):
            frame = self._encode(index, plans)
            inputs = memory.inputs(index, self._segmenter.config)
            features = self._segmenter.attend(frame.features, inputs)
            decoded = self._segmenter.decode(features, frame.high_resolution)
            size = self.video.masks.shape[1:]
            full = F.interpolate(decoded.logits.float(), size=size, mode="bilinear")
            found.append(full[:, 0] > 0)
            memory.remember(self._segmenter, frame, decoded)
        masks = torch.stack(found, dim=1).numpy()
        truth = self.video.masks[state.last + 1 : state.last + 1 + frames].numpy()
        region, boundary = region_and_boundary(masks, np.broadcast_to(truth, masks.shape))
        return TrackState(memory, state.last + frames), (region + boundary) / 2

    def _encode(self, index: int, plans: Sequence[Blocks]) -> Encoded:
        image = normalise(self.video.frames[index : index + 1])
        policy = SharedPlans(plans, self._segmenter.encoder)
        frame = self._segmenter.encode(image, policy)
        fine = tuple(x.expand(len(plans), *x.shape[1:]) for x in frame.high_resolution)
        return Encoded(frame.features, fine, frame.blocks)
