"""The memories that objects attend to, as the tensors of memory attention.

The usual inputs grow: from one remembered frame to seven, from one pointer to sixteen. A compiled
network, and a CUDA graph still more, is made for one set of shapes: for it each memory has a slot
of its own, one for each temporal encoding, and slots that are still empty are masked.

N objects, T slots of remembered frames, P slots of pointers, C hidden_dim, h x w the stride-16
grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from tempomask.models.config import SegmenterConfig
from tempomask.models.segmenter import MemoryInputs
from tempomask.ops.transfer import to_device
from tempomask.tracking.memory_bank import Memory
from tempomask.tracking.selection import Selection

T = TypeVar("T")


def memory_inputs(
    selections: Sequence[Selection],
    images: Mapping[int, Tensor],
    features: Tensor,
    config: SegmenterConfig,
) -> MemoryInputs:
    """The memories of N objects with one layout; what they share is given once.

    Args:
        selections: What each object attends to.
        images: Raw features (C, h, w) by frame, where the network's memory keys see them.
        features: (1 or N, C, h, w), of the current frame.
        config: Of the network.
    """
    spatial, device = [s.spatial for s in selections], features.device
    distances = to_device(_shared([s.distances for s in selections]), device)
    # Where all objects remember the same frames, one row of images is for all.
    seen = _shared([tuple(m.frame for m in row) for row in spatial])
    return MemoryInputs(
        spatial=_stacked([[m.features for m in row] for row in spatial]).to(features.dtype),
        images=_images(spatial[: len(seen)], images, features, config),
        temporal_index=to_device(np.array(selections[0].temporal_index, dtype=int), device),
        pointers=_stacked(
            [[m.pointer for m in s.pointers] for s in selections], spatial[0][0].pointer
        ),
        pointer_distance=distances[0] if len(distances) == 1 else distances,
    )


def _shared(rows: list[tuple[T, ...]]) -> list[tuple[T, ...]]:
    """One row if all are equal, else all of them."""
    return rows[:1] if all(row == rows[0] for row in rows) else rows


def is_lone(selection: Selection, config: SegmenterConfig) -> bool:
    """Whether a selection needs shapes of its own: a lone memory is not pooled where others are."""
    return config.memory_attention.pooling != "none" and len(selection.spatial) == 1


def memory_slots(
    selections: Sequence[Selection],
    images: Mapping[int, Tensor],
    features: Tensor,
    config: SegmenterConfig,
) -> MemoryInputs:
    """The memories of objects whose layouts may differ, all of them lone or none, in slots.

    Arguments as in `memory_inputs`. T and P follow from the network and the number of conditioning
    frames alone, which is rounded up to a power of two; `absent` is None once every slot is taken,
    and attention then runs without a mask.
    """
    slots = [_slots(s, config, is_lone(s, config)) for s in selections]
    conditioning = _power_of_two(max(len(rows) for rows, _ in slots))
    recent = 0 if is_lone(selections[0], config) else config.memory_frames - 1
    spatial = [_padded(rows, conditioning) + others for rows, others in slots]
    size = conditioning + config.max_pointers - 1
    pointers = [_padded(list(s.pointers), size) for s in selections]
    distances = np.zeros((len(selections), size), dtype=np.float32)
    for row, selection in zip(distances, selections, strict=True):
        row[: len(selection.distances)] = selection.distances
    taken = [[m is not None for m in (*a, *b)] for a, b in zip(spatial, pointers, strict=True)]
    index = [*[config.memory_frames - 1] * conditioning, *range(recent - 1, -1, -1)]
    device = features.device
    return MemoryInputs(
        spatial=_stacked([[m and m.features for m in row] for row in spatial]).to(features.dtype),
        images=_images(spatial, images, features, config),
        temporal_index=to_device(np.array(index), device),
        pointers=_stacked(
            [[m and m.pointer for m in row] for row in pointers],
            selections[0].spatial[0].pointer,
        ),
        pointer_distance=to_device(distances[0] if len(distances) == 1 else distances, device),
        absent=None if all(map(all, taken)) else to_device(~np.array(taken), device),
    )


def _slots(
    selection: Selection, config: SegmenterConfig, lone: bool
) -> tuple[list[Memory | None], list[Memory | None]]:
    """The conditioning memories, and the recent ones from the oldest slot to the newest."""
    row_of_conditioning = config.memory_frames - 1
    conditioning: list[Memory | None] = []
    recent: list[Memory | None] = [None] * row_of_conditioning
    for memory, row in zip(selection.spatial, selection.temporal_index, strict=True):
        if row == row_of_conditioning:
            conditioning.append(memory)
        else:
            recent[row_of_conditioning - 1 - row] = memory
    return conditioning, [] if lone else recent


def _power_of_two(count: int) -> int:
    return 1 << max(count - 1, 0).bit_length()


def _padded(memories: Sequence[Memory | None], size: int) -> list[Memory | None]:
    return [*memories, *[None] * (size - len(memories))]


def _stacked(rows: Sequence[Sequence[Tensor | None]], like: Tensor | None = None) -> Tensor:
    """(N, slots, ...), zeros in the empty ones.

    like: one of them; needed where there may be none, as of pointers if every memory lies ahead.
    """
    if like is None:
        like = next(x for row in rows for x in row if x is not None)
    if not rows[0]:
        return like.new_zeros(len(rows), 0, *like.shape)
    empty = torch.zeros_like(like)
    return torch.stack([torch.stack([empty if x is None else x for x in row]) for row in rows])


def _images(
    spatial: Sequence[Sequence[Memory | None]],
    images: Mapping[int, Tensor],
    features: Tensor,
    config: SegmenterConfig,
) -> Tensor | None:
    """(1 or N, T, C, h, w): raw features of the remembered frames, where memory keys see them."""
    if not config.memory_attention.image_keys:
        return None
    rows = [[m and images[m.frame] for m in row] for row in spatial]
    return _stacked(rows).to(features.dtype)
