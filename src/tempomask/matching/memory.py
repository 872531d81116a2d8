"""What XMem and Cutie remember: working, long-term and sensory memory (XMem, section 3.3).

Objects that came on the same frame share the keys of what is remembered since, and what each pixel
was worth. K and V are channels of keys and values, T remembered pixels, hw pixels of the frame, N
the objects that came together.
"""

from __future__ import annotations

import math
from copy import copy
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from tempomask.frames import Size
from tempomask.matching.options import MatchingOptions
from tempomask.models.matching.blocks import ImageFeatures, Remembered
from tempomask.models.matching.config import MatchingConfig
from tempomask.ops.resumable import Resumable, agree


def similarity(key: Tensor, shrinkage: Tensor, query: Tensor, selection: Tensor) -> Tensor:
    """How near T remembered pixels are to Q others: (Q, T), 0 at most (XMem, equation 5).

    -s sum over channels of e (k - q)^2 / sqrt(K), of keys (T, K), shrinkage s (T, 1), queries q and
    their selection e (Q, K).
    """
    near = torch.cat([2 * query * selection, -selection], 1) @ torch.cat([key, key.square()], 1).T
    constant = (selection * query.square()).sum(dim=1, keepdim=True)
    return (near - constant) * (shrinkage.T / math.sqrt(key.shape[1]))


@dataclass(frozen=True, eq=False)
class Pixels:
    """T remembered pixels of N objects.

    key (T, K), shrinkage (T, 1), selection (T, K), values (T, N, V); used (T,): how much of all
    readings came from each, and age (T,), over how many frames.
    """

    key: Tensor
    shrinkage: Tensor
    selection: Tensor
    values: Tensor
    used: Tensor
    age: Tensor

    @staticmethod
    def of(features: ImageFeatures, values: Tensor) -> Pixels:
        """Those of a frame, never used."""
        none = torch.zeros_like(features.shrinkage[:, 0])
        # As in the release: without it, what was never asked for would have no usage.
        age = none + 1e-7
        return Pixels(features.key, features.shrinkage, features.selection, values, none, age)

    @property
    def count(self) -> int:
        """T."""
        return len(self.key)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All of them."""
        return self.key, self.shrinkage, self.selection, self.values, self.used, self.age

    def take(self, chosen: slice | Tensor) -> Pixels:
        """Some of them."""
        return Pixels(*(x[chosen] for x in self.tensors))

    def joined(self, *more: Pixels) -> Pixels:
        """These, then others."""
        rows = zip(self.tensors, *(one.tensors for one in more), strict=True)
        return Pixels(*(torch.cat(row) for row in rows))

    def read_by(self, reads: Tensor) -> Pixels:
        """The same after one more frame; reads (T,): how much of it came from each."""
        return replace(self, used=self.used + reads, age=self.age + 1)


@dataclass(frozen=True, eq=False)
class Group:
    """Objects that came together, and what is remembered since.

    first: pixels that are kept for good: of the first frame, and of corrected ones. working: of
    recent frames. long: prototypes of earlier ones. The last two may be empty.
    """

    objects: tuple[int, ...]
    first: Pixels
    working: Pixels
    long: Pixels

    def read(self, features: ImageFeatures, top_k: int) -> tuple[Tensor, Group]:
        """Values (N, V, hw) that a frame reads, and the group with that noted."""
        parts = self.long, self.first, self.working
        every = self.long.joined(self.first, self.working)
        near = similarity(every.key, every.shrinkage, features.key, features.selection)
        best, places = near.topk(min(top_k, near.shape[1]), dim=1)
        weights = best.softmax(dim=1)
        table = every.values.flatten(1)
        found = F.embedding_bag(places, table, per_sample_weights=weights, mode="sum")
        reads = torch.zeros_like(every.used)
        reads.scatter_add_(0, places.flatten(), weights.flatten())
        long, _, working = reads.split([part.count for part in parts])
        noted = replace(self, long=self.long.read_by(long), working=self.working.read_by(working))
        return found.unflatten(1, every.values.shape[1:]).permute(1, 2, 0), noted

    def consolidated(self, frame: int, options: MatchingOptions) -> Group:
        """The group with old pixels as prototypes (XMem, section 3.3); frame: pixels of one."""
        long, kept = self.long, (options.kept_frames - 1) * frame
        most = options.long_tokens - options.prototypes
        if long.count >= most:
            worth = (long.used / long.age).topk(most - options.spare_tokens).indices
            long = long.take(worth)
        old = self.working.take(slice(0, self.working.count - kept))
        count = min(options.prototypes, old.count)
        best = (old.used / old.age).topk(count).indices
        weights = similarity(old.key, old.shrinkage, old.key[best], old.selection[best])
        weights = weights.softmax(dim=1)
        values = (weights @ old.values.flatten(1)).unflatten(1, old.values.shape[1:])
        none = torch.zeros_like(old.used[:count])
        made = Pixels(
            old.key[best], weights @ old.shrinkage, old.selection[best], values, none, none + 1e-7
        )
        working = self.working.take(slice(self.working.count - kept, None))
        return replace(self, long=long.joined(made), working=working)


@dataclass
class MatchingMemory(Resumable):
    """All that is remembered of a video. Its tensors never change: copies are cheap.

    Attributes:
        groups: In the order in which they came.
        sensory: Of each object, (S, h, w), in the order in which they came.
        summaries: Of each object, (Q, C + 1): sums over all remembered frames (Cutie).
    """

    state_types: ClassVar = {
        "groups": list[Group],
        "sensory": dict[int, Tensor],
        "summaries": dict[int, Tensor],
    }

    groups: list[Group] = field(default_factory=list)
    sensory: dict[int, Tensor] = field(default_factory=dict)
    summaries: dict[int, Tensor] = field(default_factory=dict)

    def check(self, config: MatchingConfig, grid: Size) -> None:
        """ValueError unless all fits together, and a network and the size of a video over 16."""
        ids = [object_id for group in self.groups for object_id in group.objects]
        agree(sorted(ids) == sorted(self.sensory), "the objects that are remembered")
        summed = set(self.sensory) if config.kind == "cutie" else set()
        agree(set(self.summaries) == summed, "the summaries")
        shapes = list[tuple[Tensor, tuple[int, ...]]]()
        shapes += [(x, (config.sensory_dim, *grid)) for x in self.sensory.values()]
        shapes += [
            (x, (config.num_queries, config.up_dims[0] + 1)) for x in self.summaries.values()
        ]
        for group in self.groups:
            agree(len(group.objects) > 0 and group.first.count > 0, "a group of objects")
            for part in (group.first, group.working, group.long):
                count, key = part.count, config.key_dim
                values = count, len(group.objects), config.value_dim
                wanted = (count, key), (count, 1), (count, key), values, (count,), (count,)
                shapes += zip(part.tensors, wanted, strict=True)
        for x, shape in shapes:
            agree(x.dtype == torch.float32 and tuple(x.shape) == shape, "a memory")

    def copy(self) -> Self:
        """A copy with lists and dictionaries of its own."""
        other = copy(self)
        other.groups, other.sensory = list(self.groups), dict(self.sensory)
        other.summaries = dict(self.summaries)
        return other

    @property
    def objects(self) -> tuple[int, ...]:
        """In the order in which they came."""
        return tuple(self.sensory)

    def remove(self, object_id: int) -> None:
        """Forget an object."""
        del self.sensory[object_id]
        self.summaries.pop(object_id, None)
        left = []
        for group in self.groups:
            rows = [row for row, one in enumerate(group.objects) if one != object_id]
            if rows:
                parts = {
                    name: replace(part, values=part.values[:, rows])
                    for name in ("first", "working", "long")
                    for part in [getattr(group, name)]
                }
                left.append(replace(group, objects=tuple(group.objects[r] for r in rows), **parts))
        self.groups = left

    def add(
        self,
        features: ImageFeatures,
        found: Remembered,
        options: MatchingOptions,
        long_term: bool,
        for_good: bool = False,
    ) -> None:
        """Remember a frame of all objects, which are in the order of `objects`, new ones last.

        Args:
            features: Of the image.
            found: Of the objects.
            options: How much is kept.
            long_term: Whether what is old is consolidated or dropped.
            for_good: Keep this frame as long as the objects.
        """
        row = {object_id: i for i, object_id in enumerate(self.sensory)}
        known = {one for group in self.groups for one in group.objects}
        for place, group in enumerate(self.groups):
            values = found.values[:, [row[one] for one in group.objects]]
            self.groups[place] = _with_frame(
                group, Pixels.of(features, values), options, long_term, for_good
            )
        new = tuple(one for one in self.sensory if one not in known)
        if new:
            pixels = Pixels.of(features, found.values[:, [row[one] for one in new]])
            none = pixels.take(slice(0, 0))
            self.groups.append(Group(new, pixels, none, none))
        self.sensory = dict(zip(self.sensory, found.sensory, strict=True))
        if found.summaries is not None:
            for object_id, summary in zip(self.sensory, found.summaries, strict=True):
                before = self.summaries.get(object_id)
                self.summaries[object_id] = summary if before is None else before + summary

    def num_bytes(self) -> int:
        """Bytes of all its tensors."""
        parts = [p for g in self.groups for p in (g.first, g.working, g.long)]
        tensors = [x for part in parts for x in part.tensors]
        return sum(x.nbytes for x in (*tensors, *self.sensory.values(), *self.summaries.values()))


def _with_frame(
    group: Group, pixels: Pixels, options: MatchingOptions, long_term: bool, for_good: bool
) -> Group:
    """A group that remembers one more frame, within its bounds."""
    frame = pixels.count
    if for_good:
        return replace(group, first=pixels.joined(group.first))
    group = replace(group, working=group.working.joined(pixels))
    if long_term:
        full = group.working.count >= (options.working_frames - 1) * frame
        return group.consolidated(frame, options) if full else group
    most = (options.short_frames - 1) * frame
    return replace(group, working=group.working.take(slice(-most, None)))
