"""One tracked object: its results, its prompts in the network's pixels, and its memories."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from tempomask.frames import Size
from tempomask.ops.transfer import to_device
from tempomask.prompts import Prompt
from tempomask.tracking.memory_bank import Memory, MemoryBank
from tempomask.tracking.samurai import Motion

# Labels of the two leading points that stand for a box.
BOX_TOP_LEFT, BOX_BOTTOM_RIGHT = 2, 3


@dataclass(frozen=True, eq=False)
class Clicks:
    """Points (P, 2) in pixels of the network's input, with labels (P,); a box is two points."""

    points: NDArray[np.float32]
    labels: NDArray[np.int64]

    @staticmethod
    def of(prompt: Prompt, size: Size, image_size: int) -> Clicks:
        """The box corners, then the points of a prompt, scaled from (H, W) to the square input.

        What lies outside the image is moved to its border.
        """
        points, labels = [], []
        if prompt.box is not None:
            points.append(np.asarray(prompt.box).reshape(2, 2))
            labels.append(np.array([BOX_TOP_LEFT, BOX_BOTTOM_RIGHT]))
        if prompt.points is not None:
            points.append(np.asarray(prompt.points))
            labels.append(np.asarray(prompt.labels))
        # Divide, then multiply, in float32: the official order of operations.
        whole = np.array([size[1], size[0]], dtype=np.float32)
        inside = np.concatenate(points).astype(np.float32).clip(0, whole)
        scaled = inside / whole * np.float32(image_size)
        return Clicks(scaled.astype(np.float32), np.concatenate(labels).astype(np.int64))

    def after(self, earlier: Clicks | None) -> Clicks:
        """These clicks with the earlier ones of the frame before them; a box starts anew."""
        if earlier is None or BOX_TOP_LEFT in self.labels:
            return self
        return Clicks(
            np.concatenate([earlier.points, self.points]),
            np.concatenate([earlier.labels, self.labels]),
        )


def network_mask(prompt: Prompt, image_size: int, device: torch.device) -> Tensor:
    """The mask of a prompt as (S, S) zeros and ones: bilinear with antialiasing, then >= 0.5.

    An object so small that nothing reaches 0.5 keeps its strongest pixels instead of vanishing.
    """
    mask = to_device(np.array(prompt.mask), device).float()
    if mask.shape == (image_size, image_size):
        return mask
    size = (image_size, image_size)
    soft = F.interpolate(mask[None, None], size=size, mode="bilinear", antialias=True)[0, 0]
    return (soft >= soft.max().clamp(max=0.5)).float()


@dataclass(frozen=True, eq=False)
class Output:
    """What the network said about one object on one frame.

    logits: (h, w) low resolution, as memorised; shown: as given out and fed back, holes filled.
    object_score, predicted_iou: scalars; pointer (C,).
    full_mask: (S, S) zeros and ones of a mask prompt, where its memory is to be made from that.
    prompted: by a person. initial: without memory, as the first prompt on a frame that has not been
    tracked. reverse: the direction of tracking at that time.
    motion, motion_score: with SAMURAI's memory, as of `samurai.Choice`.
    """

    logits: Tensor
    shown: Tensor
    object_score: Tensor
    predicted_iou: Tensor
    pointer: Tensor
    full_mask: Tensor | None = None
    prompted: bool = False
    initial: bool = False
    reverse: bool = False
    motion: Motion | None = None
    motion_score: float | None = None


@dataclass
class TrackedObject:
    """State of one object.

    outputs: by frame, of frames that can be corrected and of conditioning frames that lie ahead.
    clicks: by frame, all clicks given so far.
    staged: memories by frame, and whether they condition; they enter the bank when tracking goes
        on, so that a second prompt on a frame does not see the first one as memory.
    """

    object_id: int
    bank: MemoryBank = field(default_factory=MemoryBank)
    outputs: dict[int, Output] = field(default_factory=dict)
    clicks: dict[int, Clicks] = field(default_factory=dict)
    staged: dict[int, tuple[Memory, bool]] = field(default_factory=dict)

    def copy(self) -> TrackedObject:
        """A copy with dictionaries of its own, of the same results."""
        bank = MemoryBank(dict(self.bank.conditioning), dict(self.bank.recent))
        return replace(
            self,
            bank=bank,
            outputs=dict(self.outputs),
            clicks=dict(self.clicks),
            staged=dict(self.staged),
        )

    def merge_staged(self) -> None:
        """Move staged memories into the bank."""
        for memory, conditioning in self.staged.values():
            self.bank.store(memory, conditioning)
        self.staged.clear()

    def forget_outputs(self, kept: Collection[int]) -> None:
        """Drop the outputs and clicks of all frames but these."""
        self.outputs = {t: output for t, output in self.outputs.items() if t in kept}
        self.clicks = {t: clicks for t, clicks in self.clicks.items() if t in kept}
