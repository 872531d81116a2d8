"""DAM4SAM (arXiv 2411.17576, section 3): memories that tell an object from its look-alikes.

Half of the memories follow the object's appearance: the last frame, and every fifth before it, of
those in which it is seen. The other half resolve distractors: the prompted frame, and frames on
which a mask that the decoder offered besides shows a look-alike while the one chosen is to be
trusted (anchors). These carry no time, as prompted frames do. Written from the paper alone.

Chosen here: look-alikes are measured at the resolution of the logits, anchors lie at least
`SPACING` frames apart, and all prompted frames stay, as in SAM 2's rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
from numpy.typing import NDArray

from tempomask.tracking.memory_bank import Memory, MemoryBank, Reach
from tempomask.tracking.selection import MemorySelector, RecentMemories, Selection

# All values are the paper's (section 3), which sets them once for all data.
# Appearances are taken every so many frames (its Delta), and anchors lie as far apart.
SPACING = 5
# A mask is to be trusted above this predicted IoU (its theta_IoU), if its area differs by at most
# this share (theta_area) from the median of so many frames.
TRUSTED_IOU, AREA_CHANGE, AREA_FRAMES = 0.8, 0.2, 10
# There is a look-alike if the box of the mask falls below this share (theta_anc) of the area of the
# box of the mask with the largest part of another one.
BOX_SHARE = 0.7


def is_reliable(before: Sequence[Memory], area: float, predicted_iou: float) -> bool:
    """Whether a frame could be an anchor, by its mask alone.

    Args:
        before: Memories of the object, the nearest in time first.
        area: Of the mask, in low-resolution pixels.
        predicted_iou: Of the mask.
    """
    seen = [memory for memory in before if memory.area is not None]
    areas = [memory.area for memory in seen if memory.area is not None][:AREA_FRAMES]
    if not areas or area == 0 or predicted_iou <= TRUSTED_IOU:
        return False
    newest = seen[0].frame
    if any(memory.anchor and abs(newest - memory.frame) < SPACING - 1 for memory in seen):
        return False
    usual = median(areas)
    return abs(area - usual) <= AREA_CHANGE * usual


def is_anchor(mask: NDArray[np.bool_], others: NDArray[np.bool_]) -> bool:
    """Whether one of the other masks (M, h, w) shows a look-alike of the mask (h, w)."""
    from scipy import ndimage

    own = _box_area(mask)
    for other in others:
        parts, count = ndimage.label(other, structure=np.ones((3, 3)))  # type: ignore[misc]
        if count:
            largest = parts == np.bincount(parts.ravel())[1:].argmax() + 1
            if own < BOX_SHARE * _box_area(mask | largest):
                return True
    return False


def _box_area(mask: NDArray[np.bool_]) -> int:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int((rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1))


@dataclass(frozen=True)
class DistractorMemories(MemorySelector):
    """DAM4SAM's selection, with the conditioning frames and pointers of `recent`, SAM 2's rule."""

    recent: RecentMemories

    @property
    def slots(self) -> tuple[int, int]:
        """How many appearances, and how many anchors besides the prompted frame: 3 and 2 of 6."""
        half = (self.recent.memory_frames - 1) // 2
        return half, half - 1

    def select(self, bank: MemoryBank, frame: int, reverse: bool) -> Selection:
        base, sign = self.recent.select(bank, frame, reverse), -1 if reverse else 1
        timeless = self.recent.memory_frames - 1
        pairs = zip(base.spatial, base.temporal_index, strict=True)
        chosen = [memory for memory, row in pairs if row == timeless]
        ids = {memory.frame for memory in chosen}
        others = {t: m for t, m in bank.conditioning.items() if t not in ids} | bank.recent
        past = [m for t, m in others.items() if sign * t < sign * frame and m.features is not None]
        anchors = self._anchors(past, sign)
        appearances = self._appearances(past, sign)
        rows = [*[timeless] * (len(chosen) + len(anchors)), *range(len(appearances) - 1, -1, -1)]
        spatial = (*chosen, *anchors, *reversed(appearances))
        return replace(base, spatial=spatial, temporal_index=tuple(rows))

    def _anchors(self, past: Sequence[Memory], sign: int) -> list[Memory]:
        """The newest anchors, oldest first."""
        found = sorted((m for m in past if m.anchor), key=lambda m: sign * m.frame)
        return found[len(found) - min(self.slots[1], len(found)) :]

    def _appearances(self, past: Sequence[Memory], sign: int) -> list[Memory]:
        """The newest frame on which the object is seen, then every fifth; newest first."""
        seen = _seen(past, sign)
        spaced = [memory for memory in seen[1:] if memory.frame % SPACING == 0]
        return [*seen[:1], *spaced[: self.slots[0] - 1]]

    def reach(self, bank: MemoryBank, first: int, last: int, reverse: bool) -> Reach:
        base, sign = self.recent.reach(bank, first, last, reverse), -1 if reverse else 1
        kept = {t for t in base.spatial if t in bank.conditioning}
        # Conditioning frames count apart: one that is attended to as such takes no place.
        attended = max(self.recent.max_conditioning_frames, 0)
        for memories, more in ((bank.recent, 0), (bank.conditioning, attended)):
            past = [m for t, m in memories.items() if sign * t < sign * first]
            seen = _seen(past, sign)
            spaced = [memory for memory in seen if memory.frame % SPACING == 0]
            near = [*seen[: 1 + more], *spaced[: self.slots[0] + more]]
            kept |= {memory.frame for memory in (*self._anchors(past, sign), *near)}
            kept |= {t for t in memories if sign * first <= sign * t < sign * last}
        return Reach(spatial=frozenset(kept), pointers=base.pointers)


def _seen(past: Sequence[Memory], sign: int) -> list[Memory]:
    """The memories in which the object is seen, newest first."""
    seen = (memory for memory in past if memory.area != 0 and memory.object_score > 0)
    return sorted(seen, key=lambda memory: -sign * memory.frame)
