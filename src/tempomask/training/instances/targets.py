"""A batch of clips as the losses want it.

B clips, T frames, N instances of a clip, S image side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tempomask.data.instance_clips import InstanceClip


class ClipTargets(NamedTuple):
    """labels (N,), masks (T, N, S, S) float 0 or 1, present (T, N) bool."""

    labels: Tensor
    masks: Tensor
    present: Tensor

    def image(self, frame: int) -> FrameTargets:
        """What is to be found on one frame."""
        present = self.present[frame]
        return FrameTargets(self.labels[present], self.masks[frame, present])


class FrameTargets(NamedTuple):
    """labels (N,), masks (N, S, S) float 0 or 1."""

    labels: Tensor
    masks: Tensor


class ClipBatch(NamedTuple):
    """frames: (B, T, S, S, 3) uint8. targets: of each clip."""

    frames: Tensor
    targets: list[ClipTargets]

    def to(self, device: torch.device) -> ClipBatch:
        moved = [ClipTargets(*(x.to(device) for x in target)) for target in self.targets]
        return ClipBatch(self.frames.to(device), moved)


def collate(clips: Sequence[InstanceClip]) -> ClipBatch:
    """Clips of equal size; their instances stay apart."""
    frames = torch.stack([torch.from_numpy(clip.frames) for clip in clips])
    targets = [
        ClipTargets(
            torch.from_numpy(clip.labels),
            torch.from_numpy(clip.masks).float(),
            torch.from_numpy(clip.present),
        )
        for clip in clips
    ]
    return ClipBatch(frames, targets)
