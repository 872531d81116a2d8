"""Label propagation: the masks of the first frame flow along the similarity of patches.

The steps of DINOv3's published segmentation tracking, which go back to the contrastive random walk
(arXiv 2006.14613): each patch takes the labels of its most similar patches nearby, in the first
frame and in the last few. Use and training (`training/propagation.py`) share these functions, whose
gradients reach the features and, through the context, those of earlier frames.

h x w patches, D channels, M labels (background first), T context frames, H x W the video's size.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from tempomask.errors import InputError
from tempomask.frames import Size
from tempomask.ops.resumable import Resumable, agree
from tempomask.propagation.options import PropagationOptions

# Queries are taken in squares of this many patches, so that similarities to the patches around a
# square fit into memory at any resolution.
TILE = 16
# Which side of 0 a pixel's margin lies on says whether the object has it, also where labels tie.
LEAST_MARGIN = 1e-6


class LabelContext(Resumable):
    """What the labels of a frame come from: the first frame and the last few, with their labels.

    Args:
        options: Of the propagation.
    """

    state_types: ClassVar = {
        "first": tuple[Tensor, Tensor] | None,
        "recent": deque[tuple[Tensor, Tensor]],
    }

    def __init__(self, options: PropagationOptions) -> None:
        self.options = options
        self.first: tuple[Tensor, Tensor] | None = None
        self.recent: deque[tuple[Tensor, Tensor]] = deque(maxlen=options.context_frames)

    def check_state(self) -> None:
        agree(self.first is not None or not self.recent, "the first frame")
        for features, labels in self._frames() if self.first is not None else ():
            agree(features.is_floating_point() and labels.is_floating_point(), "a frame")
            shapes = (features.shape, labels.shape)
            agree(shapes == tuple(x.shape for x in self._frames()[0]), "the frames' shapes")
            agree(features.ndim == 3 and features.shape[:2] == labels.shape[:-1], "a frame's grid")

    def begin(self, features: Tensor, labels: Tensor) -> None:
        """The first frame: features (h, w, D), unit vectors, and known labels (h, w, M)."""
        self.first = features, labels

    def step(self, features: Tensor) -> Tensor:
        """Label probabilities (h, w, M) of the next frame, which then is the last of the context.

        Args:
            features: (h, w, D), unit vectors.
        """
        frames = self._frames()
        if features.shape != frames[0][0].shape:
            raise InputError("the frames before are of another network or size; begin anew")
        labels = propagate(features, [f for f, _ in frames], [x for _, x in frames], self.options)
        self.recent.append((features, labels))
        return labels

    @property
    def labels(self) -> Tensor:
        """(h, w, M), of the last frame."""
        return self._frames()[-1][1]

    @property
    def masks(self) -> Tensor:
        """(1, 1, h, w): how far objects are above background in the last frame, for routers."""
        return (self.labels[..., 1:].amax(dim=-1) - self.labels[..., 0])[None, None]

    def _frames(self) -> list[tuple[Tensor, Tensor]]:
        if self.first is None:
            raise InputError("there is no first frame to propagate from; call begin first")
        return [self.first, *self.recent]


def labels_on_grid(label_map: Tensor, grid: Size, count: int) -> Tensor:
    """Labels of patches, by the nearest pixel, as published.

    Args:
        label_map: (H, W), 0 for background and 1 to count - 1 for the objects.
        grid: (h, w).
        count: M, of labels.

    Returns:
        (h, w, M), float32, one of each patch's labels is 1.
    """
    small = F.interpolate(label_map[None, None].float(), size=grid, mode="nearest-exact")[0, 0]
    return F.one_hot(small.long(), count).float()


def propagate(
    features: Tensor,
    context_features: Sequence[Tensor],
    context_labels: Sequence[Tensor],
    options: PropagationOptions,
) -> Tensor:
    """Label probabilities (h, w, M) of a frame with features (h, w, D), unit vectors.

    context_features, context_labels: T features (h, w, D) and probabilities (h, w, M). Of the
    patches within the radius, in all context frames together, those at least as similar as the
    k-th most similar give their labels.
    """
    height, width = features.shape[:2]
    labels = features.new_zeros(height, width, context_labels[0].shape[2])
    reach = math.floor(options.radius)
    for top in range(0, height, TILE):
        for left in range(0, width, TILE):
            tile = slice(top, top + TILE), slice(left, left + TILE)
            around = (
                slice(max(top - reach, 0), top + TILE + reach),
                slice(max(left - reach, 0), left + TILE + reach),
            )
            queries = features[tile]
            keys = torch.stack([frame[around] for frame in context_features])
            near = _near(tile, around, (height, width), options.radius, features.device)
            similarity = queries.flatten(0, 1) @ keys.flatten(0, 2).T
            outside = ~near.repeat(1, len(keys))
            values = torch.stack([frame[around] for frame in context_labels]).flatten(0, 2)
            mixed = _mix(similarity.masked_fill_(outside, -torch.inf), values, options)
            labels[tile] = mixed.unflatten(0, queries.shape[:2])
    return labels


def _near(
    tile: tuple[slice, slice],
    around: tuple[slice, slice],
    shape: Size,
    radius: float,
    device: torch.device,
) -> Tensor:
    """Which lie within the radius of which: bool (patches of the tile, patches around it)."""
    squares = []
    for inner, outer, length in zip(tile, around, shape, strict=True):
        here = torch.arange(*inner.indices(length), device=device)
        there = torch.arange(*outer.indices(length), device=device)
        squares.append((here[:, None] - there).square())
    rows, columns = squares
    # (y, 1, y', 1) + (1, x, 1, x')
    distance = rows[:, None, :, None] + columns[None, :, None, :]
    return (distance <= radius * radius).flatten(2).flatten(0, 1)


def _mix(similarity: Tensor, labels: Tensor, options: PropagationOptions) -> Tensor:
    """Mean (Q, M) of labels (K, M), weighted by the largest of the similarities (Q, K)."""
    count = min(options.top_k, similarity.shape[1])
    least = similarity.topk(count, dim=1).values[:, -1:]
    kept = similarity.masked_fill(similarity < least, -torch.inf)
    mixed = (kept / options.temperature).softmax(dim=1) @ labels
    return mixed / mixed.sum(dim=1, keepdim=True)


def share_out(labels: Tensor, size: Size) -> tuple[Tensor, Tensor]:
    """Label probabilities (h, w, M) to margins (M - 1, H, W) of the objects, > 0 where they are.

    Each label is stretched to 0 .. 1 over the image (all 0 if it is the same everywhere), then
    the largest has the pixel, the first of equal ones. Also bool (M - 1, h, w): the patches of each
    object.
    """
    shares = labels.permute(2, 0, 1)
    # "nearest" may leave patches out where the video is smaller than the grid.
    rows = _nearest(shares.shape[1], size[0], labels.device)
    columns = _nearest(shares.shape[2], size[1], labels.device)
    seen = shares[:, rows.unique()][:, :, columns.unique()]
    low, high = seen.amin(dim=(1, 2), keepdim=True), seen.amax(dim=(1, 2), keepdim=True)
    stretched = ((shares - low) / (high - low)).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    winner = stretched.argmax(dim=0)
    best = stretched.topk(2, dim=0).values
    objects = torch.arange(1, len(shares), device=labels.device)[:, None, None]
    won = winner == objects
    margins = torch.where(
        won,
        (best[0] - best[1]).clamp(min=LEAST_MARGIN),
        (stretched[1:] - best[0]).clamp(max=-LEAST_MARGIN),
    )
    return margins[:, rows][:, :, columns], won


def _nearest(count: int, length: int, device: torch.device) -> Tensor:
    """Which of `count` patches each of `length` pixels takes, as interpolation by "nearest"."""
    places = torch.arange(count, device=device, dtype=torch.float32)[None, None]
    return F.interpolate(places, size=length, mode="nearest")[0, 0].long()
