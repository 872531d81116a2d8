"""SAM2Long (arXiv 2410.16268, section 3.2): a tree of masks, of which a few pathways are kept.

On every frame each pathway proposes three masks, each of which could go on from it. The few with
the greatest sum of log IoUs (the network's own guess) become the pathways of the next frame. Each
has a memory bank of its own: prompted frames, and the nearest frames whose mask is good and whose
object is seen, weighed by how surely it is. Written from the paper alone.

Chosen here where the paper leaves it open, or a stream does not allow it:
- The best pathway so far is shown at once. The paper goes back after the last frame and shows that
  pathway's masks from the first frame on.
- A prompt ends all pathways but the one that is shown, as do a gap in the frames and a turn.
- Weights apply to the memories of frames without a prompt, keys and values alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from tempomask.tracking.memory_bank import Memory, MemoryBank, Reach
from tempomask.tracking.options import SamuraiConfig
from tempomask.tracking.samurai import MotionAwareMemories
from tempomask.tracking.selection import MemorySelector, RecentMemories, Selection

# All values are the paper's (section 4, implementation), as are its three pathways (`rules.py`).
# A frame is remembered above this predicted IoU (delta_iou), if its object is seen.
GOOD_IOU = 0.3
# Below this absolute object score (delta_conf) of all masks a frame is uncertain, and pathways must
# differ.
CERTAIN_SCORE = 2.0
# Of the memory with the lowest and the highest object score (w_low, w_high); the others lie evenly
# between.
LIGHTEST, HEAVIEST = 0.95, 1.05
# Keeps the logarithm of an IoU of zero finite.
LEAST_IOU = 1e-6


def kept_pathways(
    before: Sequence[float], ious: Sequence[float], present: Sequence[float], most: int
) -> list[tuple[int, float]]:
    """Which masks become pathways, the best first, and their scores.

    Args:
        before: Of each mask, the score of the pathway that it goes on from.
        ious: Their predicted IoUs.
        present: Their object scores, logits.
        most: How many pathways are kept.
    """
    scores = [b + math.log(max(iou, LEAST_IOU)) for b, iou in zip(before, ious, strict=True)]
    ranked = sorted(range(len(scores)), key=lambda i: -scores[i])
    if max(map(abs, present)) < CERTAIN_SCORE:
        # Equal guesses are taken for equal masks: first one of each, then the others.
        first = {round(ious[i], 2): i for i in reversed(ranked)}
        ranked.sort(key=lambda i: first[round(ious[i], 2)] != i)
    return sorted(((i, scores[i]) for i in ranked[:most]), key=lambda pair: -pair[1])


class PathwayMemories(MemorySelector):
    """SAM2Long's selection in one pathway: the nearest good frames, the surest the heaviest.

    Args:
        recent: SAM 2's rule, whose conditioning frames and pointers are taken.
    """

    def __init__(self, recent: RecentMemories) -> None:
        thresholds = SamuraiConfig(memory_iou=GOOD_IOU, memory_object_score=0.0)
        self.good = MotionAwareMemories(recent, thresholds, always_last=False)

    def select(self, bank: MemoryBank, frame: int, reverse: bool) -> Selection:
        selection = self.good.select(bank, frame, reverse)
        pairs = zip(selection.spatial, selection.temporal_index, strict=True)
        free = [memory for memory, row in pairs if row != self.good.slots]
        step = (HEAVIEST - LIGHTEST) / max(len(free) - 1, 1)
        order = sorted(range(len(free)), key=lambda i: free[i].object_score)
        weighed = dict(zip(order, (LIGHTEST + step * k for k in range(len(free))), strict=True))
        if len(free) < 2:
            weighed = {}
        conditioning = selection.spatial[: len(selection.spatial) - len(free)]
        memories = (_weighed(memory, weighed.get(i, 1.0)) for i, memory in enumerate(free))
        return replace(selection, spatial=(*conditioning, *memories))

    def reach(self, bank: MemoryBank, first: int, last: int, reverse: bool) -> Reach:
        return self.good.reach(bank, first, last, reverse)


def _weighed(memory: Memory, weight: float) -> Memory:
    if memory.features is None or weight == 1:
        return memory
    return replace(memory, features=memory.features * weight)
