"""Which memories a frame attends to: SAM 2's rule (paper, section 4, memory bank).

Time runs in the direction of tracking; in reverse the rule is the same on negated frame numbers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import ClassVar

from tempomask.tracking.memory_bank import Memory, MemoryBank, Reach


@dataclass(frozen=True)
class Selection:
    """Memories of one object that a frame attends to.

    spatial: conditioning frames, then recent frames from oldest to newest.
    temporal_index: per spatial memory, the row of the temporal encoding: memory_frames - 1 for
        conditioning frames, distance - 1 for the others.
    pointers: conditioning frames, then recent frames from newest to oldest.
    distances: per pointer, its distance in time over (number of pointers - 1).
    """

    spatial: tuple[Memory, ...]
    temporal_index: tuple[int, ...]
    pointers: tuple[Memory, ...]
    distances: tuple[float, ...]

    @property
    def nearest_first(self) -> list[Memory]:
        """The memories of the pointers by their distance in time."""
        pairs = zip(self.distances, self.pointers, strict=True)
        return [memory for _, memory in sorted(pairs, key=lambda pair: abs(pair[0]))]


class MemorySelector(ABC):
    """A rule that reads a bank. It has no state: what it needs is in the memories.

    Attributes:
        reads_scores: It looks at the memories' scores; otherwise they are never copied from the
            device, and NaN.
    """

    reads_scores: ClassVar[bool] = True

    @abstractmethod
    def select(self, bank: MemoryBank, frame: int, reverse: bool) -> Selection:
        """What `frame` attends to."""

    @abstractmethod
    def reach(self, bank: MemoryBank, first: int, last: int, reverse: bool) -> Reach:
        """What selections at the frames from `first` to `last`, and after it, can still read."""


def closest_conditioning(frames: Collection[int], frame: int, limit: int) -> list[int]:
    """At most `limit` conditioning frames: the nearest before, the nearest not before, then others.

    The others by distance. All of them, in their own order, if limit is -1 or not exceeded.
    """
    if limit == -1 or len(frames) <= limit:
        return list(frames)
    chosen = [
        *sorted((t for t in frames if t < frame), reverse=True)[:1],
        *sorted(t for t in frames if t >= frame)[:1],
    ]
    others = [t for t in frames if t not in chosen]
    return chosen + sorted(others, key=lambda t: abs(t - frame))[: limit - len(chosen)]


@dataclass(frozen=True)
class RecentMemories(MemorySelector):
    """SAM 2's selection: conditioning frames, the last few frames, and the last pointers.

    memory_frames (7) and max_pointers (16) as in the network's configuration; stride and
    max_conditioning_frames as in `TrackingOptions`; num_frames of the video, None when unknown.
    """

    memory_frames: int = 7
    max_pointers: int = 16
    stride: int = 1
    max_conditioning_frames: int = -1
    num_frames: int | None = None

    reads_scores: ClassVar[bool] = False

    @property
    def pointer_limit(self) -> int:
        """Pointers lie at distances below this; it also normalises their distances."""
        if self.num_frames is None:
            return self.max_pointers
        return min(self.num_frames, self.max_pointers)

    def select(self, bank: MemoryBank, frame: int, reverse: bool) -> Selection:
        sign = -1 if reverse else 1
        chosen = closest_conditioning(bank.conditioning, frame, self.max_conditioning_frames)
        conditioning = [bank.conditioning[t] for t in chosen]
        # A conditioning frame beyond the limit counts as an ordinary recent one.
        others = {t: m for t, m in bank.conditioning.items() if t not in chosen} | bank.recent

        spatial = [(memory, self.memory_frames - 1) for memory in conditioning]
        for distance in range(self.memory_frames - 1, 0, -1):
            memory = others.get(sign * self._previous(sign * frame, distance))
            if memory is not None and memory.features is not None:
                spatial.append((memory, distance - 1))

        past = [memory for memory in conditioning if sign * (frame - memory.frame) >= 0]
        pointers = [(memory, sign * (frame - memory.frame)) for memory in past]
        for distance in range(1, self.pointer_limit):
            memory = others.get(frame - sign * distance)
            if memory is not None:
                pointers.append((memory, distance))
        # A single-frame video would divide by zero.
        longest = max(self.pointer_limit - 1, 1)
        return Selection(
            spatial=tuple(memory for memory, _ in spatial),
            temporal_index=tuple(index for _, index in spatial),
            pointers=tuple(memory for memory, _ in pointers),
            distances=tuple(distance / longest for _, distance in pointers),
        )

    def _previous(self, frame: int, distance: int) -> int:
        """The frame that counts as `distance` frames ago: t - 1, then multiples of the stride."""
        if distance == 1:
            return frame - 1
        return (frame - 2) // self.stride * self.stride - (distance - 2) * self.stride

    def reach(self, bank: MemoryBank, first: int, last: int, reverse: bool) -> Reach:
        sign = -1 if reverse else 1
        begin, end = sign * first, sign * last
        oldest = min(begin - 1, self._previous(begin, self.memory_frames - 1))

        def in_spatial_reach(t: int) -> bool:
            return oldest <= t < end and (t >= begin - 1 or t % self.stride == 0)

        def in_pointer_reach(t: int) -> bool:
            return begin - self.pointer_limit < t < end

        stored = {*bank.conditioning, *bank.recent}
        conditioning = self._reachable_conditioning(bank.conditioning, first, last, sign)
        return Reach(
            spatial=frozenset(conditioning | {t for t in stored if in_spatial_reach(sign * t)}),
            pointers=frozenset(conditioning | {t for t in stored if in_pointer_reach(sign * t)}),
        )

    def _reachable_conditioning(
        self, frames: Collection[int], first: int, last: int, sign: int
    ) -> set[int]:
        """Frames chosen for some frame from first to last, and those that lie ahead.

        Once passed over, a conditioning frame that lies behind only gets farther away.
        """
        queries: Iterable[int] = range(first, last + sign, sign)
        if self.max_conditioning_frames == -1:
            queries = [last]
        ahead = {t for t in frames if sign * t >= sign * last}
        limit = self.max_conditioning_frames
        return ahead.union(*(closest_conditioning(frames, t, limit) for t in queries))
