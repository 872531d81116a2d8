"""Storage of one object's memories (SAM 2's memory bank); `selection.py` says what is read from it.

C hidden_dim, h x w the stride-16 grid.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Memory:
    """What is remembered of an object on one frame.

    features: of SegmenterConfig.memory_shape, or None once only the pointer can still be reached.
    pointer: object pointer (C,). object_score: logit, > 0 = present. predicted_iou: in [0, 1]. Both
    are NaN where the selector does not read them.
    motion_score: in [0, 1], how well the mask fits the motion before it (`samurai.py`); None where
    there was none to compare with.
    area: of the mask in low-resolution pixels, and anchor: whether it tells the object from a
    distractor (`distractors.py`); None and False where nobody looked.
    path, rivals: the memory pathway that it goes on from, and the memories of the frame's other
    pathways until tracking goes on (`pathways.py`).
    """

    frame: int
    features: Tensor | None
    pointer: Tensor
    object_score: float
    predicted_iou: float
    motion_score: float | None = None
    area: float | None = None
    anchor: bool = False
    path: int = 0
    rivals: tuple[Memory, ...] = ()


@dataclass(frozen=True)
class Reach:
    """Frames that selections from now on can still read: their spatial features, their pointers."""

    spatial: frozenset[int]
    pointers: frozenset[int]


@dataclass
class MemoryBank:
    """Memories by frame: conditioning frames (prompted) in the order given, and recent frames."""

    conditioning: dict[int, Memory] = field(default_factory=dict)
    recent: dict[int, Memory] = field(default_factory=dict)

    def store(self, memory: Memory, conditioning: bool) -> None:
        """Put a memory in, in place of any other of the same frame."""
        if conditioning or memory.frame in self.conditioning:
            self.recent.pop(memory.frame, None)
            self.conditioning[memory.frame] = memory
        else:
            self.recent[memory.frame] = memory

    def retain(self, reach: Reach) -> None:
        """Drop what lies out of reach: a memory, or its features where its pointer is in reach."""
        for memories in (self.conditioning, self.recent):
            for frame, memory in list(memories.items()):
                if frame in reach.spatial:
                    continue
                if frame not in reach.pointers:
                    del memories[frame]
                elif memory.features is not None:
                    memories[frame] = replace(memory, features=None)

    def copy(self) -> MemoryBank:
        """A bank of its own, with the same memories."""
        return MemoryBank(dict(self.conditioning), dict(self.recent))

    def frames(self) -> Collection[int]:
        """Frames with spatial features."""
        everything = {**self.conditioning, **self.recent}
        return {frame for frame, memory in everything.items() if memory.features is not None}

    def num_bytes(self) -> int:
        """Bytes held by the memories' tensors."""
        return bytes_of([self])


def bytes_of(banks: Iterable[MemoryBank]) -> int:
    """Bytes held by the memories' tensors of banks, which may share them."""
    tensors = {
        id(tensor): tensor
        for bank in banks
        for memory in (*bank.conditioning.values(), *bank.recent.values())
        for tensor in (memory.features, memory.pointer)
        if tensor is not None
    }
    return sum(tensor.nbytes for tensor in tensors.values())
