"""SAMURAI (arXiv 2411.11922, section 4): motion chooses the mask, and scores choose the memories.

One Kalman filter per object predicts its box; of the masks that the decoder offers, the one is
taken that fits the prediction and the network's own guess best, and only frames that were good by
three scores are remembered. Nothing is trained, so that it works on every model here.

Differences from the released code, which `official_quirks` takes back:
- Each object has a filter of its own, which ends with a prompt, a gap in the frames or a turn.
- The motion score is known as soon as there is a prediction, not only once motion is trusted.
- A mask without area says "lost": it does not pull the filter to the corner of the image, and its
  frame has motion score 0, so that it is not remembered.
- The first tracked frame can be remembered like any other.
M masks that compete, boxes as in `ops.boxes`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

from tempomask.ops.boxes import box_overlap
from tempomask.ops.resumable import Resumable, agree
from tempomask.tracking.kalman import Box, BoxFilter
from tempomask.tracking.memory_bank import Memory, MemoryBank, Reach
from tempomask.tracking.options import SamuraiConfig
from tempomask.tracking.selection import MemorySelector, RecentMemories, Selection


@dataclass(frozen=True, eq=False)
class Motion:
    """Motion of one object after a frame: its filter, and good frames since it started."""

    filter: BoxFilter
    stable: int


class Choice(NamedTuple):
    """mask: index of the one taken. motion: after the frame, None once it is lost.

    score: IoU of the predicted box and the mask's, None where nothing was predicted.
    area, anchor: Same as in `memory_bank.Memory`.
    """

    mask: int
    motion: Motion | None = None
    score: float | None = None
    area: float | None = None
    anchor: bool = False


def choose_mask(
    config: SamuraiConfig,
    motion: Motion | None,
    boxes: Sequence[Box],
    predicted_iou: Sequence[float],
) -> Choice:
    """Choose among M masks by their boxes, their predicted IoU and the motion so far (None: none).

    (a) Without motion the best predicted IoU is taken, and the filter starts at its box.
    (b) For the first stable_frames the same, while the filter learns from good masks.
    (c) Then the best weighted sum of motion score and predicted IoU is taken.
    """
    if motion is None:
        best = _best(predicted_iou)
        if _has_no_area(boxes[best]) and not config.official_quirks:
            return Choice(best, None, 0.0)
        return Choice(best, Motion(BoxFilter.start(boxes[best]), 1), None)
    predicted = motion.filter.predicted()
    overlaps = [_motion_score(predicted.box, box) for box in boxes]
    if motion.stable < config.stable_frames:
        best = _best(predicted_iou)
        good, stable = predicted_iou[best] > config.stable_iou, motion.stable + 1
        score = None if config.official_quirks else overlaps[best]
    else:
        weight = config.motion_weight
        best = _best(
            [weight * m + (1 - weight) * i for m, i in zip(overlaps, predicted_iou, strict=True)]
        )
        good, stable = predicted_iou[best] >= config.stable_iou, motion.stable
        score = overlaps[best]
    if _has_no_area(boxes[best]) and not config.official_quirks:
        return Choice(best, None, 0.0)
    if not good:
        return Choice(best, None, score)
    return Choice(best, Motion(predicted.updated(boxes[best]), stable), score)


def _best(values: Sequence[float]) -> int:
    """Index of the largest value, the first of equal ones."""
    return max(range(len(values)), key=values.__getitem__)


def _has_no_area(box: Box) -> bool:
    return box[2] <= box[0] or box[3] <= box[1]


def _motion_score(predicted: Box, box: Box) -> float:
    return 0.0 if not any(box) else box_overlap(predicted, box)


class MotionChooser(Resumable):
    """Chooses masks for the objects of one session.

    It holds a state only with official_quirks: there one filter serves all objects, and `reset`
    does not clear it, as in the released code, where it hangs on the network.
    """

    state_types: ClassVar = {"_leaked": Motion | None}

    def __init__(self, config: SamuraiConfig) -> None:
        self.config = config
        self._leaked: Motion | None = None

    def check_state(self) -> None:
        agree(self._leaked is None or self._leaked.filter.fits(), "the motion")

    def choose(
        self,
        motions: Sequence[Motion | None],
        boxes: Sequence[Sequence[Box]],
        predicted_iou: Sequence[Sequence[float]],
    ) -> list[Choice]:
        """One choice for each of N objects, from M boxes and M predicted IoUs each."""
        choices = []
        for motion, candidates, ious in zip(motions, boxes, predicted_iou, strict=True):
            before = self._leaked if self.config.official_quirks else motion
            choices.append(choose_mask(self.config, before, candidates, ious))
            if self.config.official_quirks:
                self._leaked = choices[-1].motion
        return choices


@dataclass(frozen=True)
class MotionAwareMemories(MemorySelector):
    """SAMURAI's selection: of the frames tracked so far the nearest that were good by all scores.

    The frame just before is always taken, if `always_last`. Conditioning frames and pointers are
    those of `recent`, SAM 2's rule. A pure selector: the scores are in the memories.
    """

    recent: RecentMemories
    config: SamuraiConfig
    always_last: bool = True

    @property
    def slots(self) -> int:
        """How many frames besides the conditioning ones are attended to."""
        return self.recent.memory_frames - 1

    def select(self, bank: MemoryBank, frame: int, reverse: bool) -> Selection:
        base = self.recent.select(bank, frame, reverse)
        chosen = [
            memory
            for memory, row in zip(base.spatial, base.temporal_index, strict=True)
            if row == self.slots
        ]
        ids = {memory.frame for memory in chosen}
        others = {t: m for t, m in bank.conditioning.items() if t not in ids} | bank.recent
        sign = -1 if reverse else 1
        before = frame - sign
        if self.always_last:
            nearest = [before, *self._nearest_good(bank, others, before, sign)[: self.slots - 1]]
        else:
            nearest = self._nearest_good(bank, others, frame, sign)[: self.slots]
        # Slot 0 is the frame just before; like SAM 2's, it stays empty if there is no such memory.
        rows = [(others[t], row) for row, t in enumerate(nearest) if t in others]
        rows = [(memory, row) for memory, row in reversed(rows) if memory.features is not None]
        return replace(
            base,
            spatial=(*chosen, *(memory for memory, _ in rows)),
            temporal_index=(*([self.slots] * len(chosen)), *(row for _, row in rows)),
        )

    def _nearest_good(
        self, bank: MemoryBank, memories: dict[int, Memory], before: int, sign: int
    ) -> list[int]:
        """The good frames of some memories that come before a frame, the newest first."""
        good = [
            t
            for t, memory in memories.items()
            if sign * t < sign * before and self._is_good(bank, memory, sign)
        ]
        return sorted(good, reverse=sign > 0)

    def _is_good(self, bank: MemoryBank, memory: Memory, sign: int) -> bool:
        config = self.config
        if config.official_quirks:
            first = min((sign * t for t in bank.conditioning), default=sign * memory.frame)
            if sign * memory.frame <= first + 1:
                return False
        return (
            memory.predicted_iou > config.memory_iou
            and memory.object_score > config.memory_object_score
            and (memory.motion_score is None or memory.motion_score > config.memory_motion)
        )

    def reach(self, bank: MemoryBank, first: int, last: int, reverse: bool) -> Reach:
        base = self.recent.reach(bank, first, last, reverse)
        sign = -1 if reverse else 1
        # Scores do not change: of the good frames before `first` only the nearest can be chosen.
        # Conditioning frames count apart: one that is attended to as such takes no place.
        attended = max(self.recent.max_conditioning_frames, 0)
        earlier = {
            *self._nearest_good(bank, bank.recent, first, sign)[: self.slots],
            *self._nearest_good(bank, bank.conditioning, first, sign)[: self.slots + attended],
        }
        stored = {*bank.conditioning, *bank.recent}
        from_just_before = {t for t in stored if sign * (first - sign) <= sign * t < sign * last}
        conditioning = {t for t in base.spatial if t in bank.conditioning}
        if self.config.official_quirks:
            # Which frames are good depends on the first of them.
            conditioning.update(sorted(bank.conditioning)[:1])
        kept = earlier | from_just_before | conditioning
        return Reach(spatial=frozenset(kept), pointers=base.pointers)
