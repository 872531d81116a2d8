"""Label propagation: the masks of the first frame flow along the similarity of patches.

The steps of DINOv3's published segmentation tracking, which go back to the contrastive random walk
(arXiv 2006.14613): each patch takes the labels of its most similar patches nearby, in the first
frame and in the last few. It needs no training, and any encoder's features will do.

h x w patches, D channels, M labels (background first), T context frames, H x W the video's size.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional as F

from tempomask.errors import InputError
from tempomask.frames import Size
from tempomask.models.encoder import Encoder, Policy, VideoPolicy
from tempomask.prompts import Prompt
from tempomask.results import FrameResult
from tempomask.tracking.preprocess import check_frame, network_input

# Queries are taken in squares of this many patches, so that similarities to the patches around a
# square fit into memory at any resolution.
TILE = 16
# Which side of 0 a pixel's margin lies on says whether the object has it, also where labels tie.
LEAST_MARGIN = 1e-6


@dataclass(frozen=True)
class PropagationConfig:
    """The published settings.

    short_side: of the images the encoder sees, in pixels, rounded up to what it can take; the
        aspect is kept. context_frames: last frames compared with, besides the first.
    radius: of the neighbourhood, a circle, in patches. top_k: patches that labels are taken from.
    temperature: of the softmax over their cosine similarities.
    """

    short_side: int = 960
    context_frames: int = 7
    radius: float = 12.0
    top_k: int = 5
    temperature: float = 0.2

    def __post_init__(self) -> None:
        for name in ("short_side", "context_frames", "top_k"):
            value, least = getattr(self, name), 0 if name == "context_frames" else 1
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InputError(f"{name} must be a whole number, {least} or more, got {value!r}")
        for name in ("radius", "temperature"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} must be above 0, got {getattr(self, name)!r}")

    @property
    def image_size(self) -> int:
        """The short side, by the name that segmenters have for it."""
        return self.short_side


def resized_shape(size: Size, short_side: int, multiple: int) -> Size:
    """(H, W) of the encoder's image: both sides rounded up, the aspect kept as far as that goes.

    >>> resized_shape((480, 854), 960, 16)
    (960, 1712)
    """

    def round_up(side: float) -> int:
        return math.ceil(side / multiple) * multiple

    height, width = size
    short = round_up(short_side)
    if width > height:
        return short, round_up(width * short / height)
    return round_up(height * short / width), short


def propagate(
    features: Tensor,
    context_features: Sequence[Tensor],
    context_labels: Sequence[Tensor],
    config: PropagationConfig,
) -> Tensor:
    """Label probabilities (h, w, M) of a frame with features (h, w, D), unit vectors.

    context_features, context_labels: T features (h, w, D) and probabilities (h, w, M). Of the
    patches within the radius, in all context frames together, those at least as similar as the
    k-th most similar give their labels.
    """
    height, width = features.shape[:2]
    labels = features.new_zeros(height, width, context_labels[0].shape[2])
    reach = math.floor(config.radius)
    for top in range(0, height, TILE):
        for left in range(0, width, TILE):
            tile = slice(top, top + TILE), slice(left, left + TILE)
            around = (
                slice(max(top - reach, 0), top + TILE + reach),
                slice(max(left - reach, 0), left + TILE + reach),
            )
            queries = features[tile]
            keys = torch.stack([frame[around] for frame in context_features])
            near = _near(tile, around, (height, width), config.radius, features.device)
            similarity = queries.flatten(0, 1) @ keys.flatten(0, 2).T
            outside = ~near.repeat(1, len(keys))
            values = torch.stack([frame[around] for frame in context_labels]).flatten(0, 2)
            mixed = _mix(similarity.masked_fill_(outside, -torch.inf), values, config)
            labels[tile] = mixed.unflatten(0, queries.shape[:2])
    return labels


def _near(
    tile: tuple[slice, slice],
    around: tuple[slice, slice],
    shape: Size,
    radius: float,
    device: torch.device,
) -> Tensor:
    """bool (patches of the tile, patches around it): which lie within the radius of which."""
    squares = []
    for inner, outer, length in zip(tile, around, shape, strict=True):
        here = torch.arange(*inner.indices(length), device=device)
        there = torch.arange(*outer.indices(length), device=device)
        squares.append((here[:, None] - there).square())
    rows, columns = squares
    # (y, 1, y', 1) + (1, x, 1, x')
    distance = rows[:, None, :, None] + columns[None, :, None, :]
    return (distance <= radius * radius).flatten(2).flatten(0, 1)


def _mix(similarity: Tensor, labels: Tensor, config: PropagationConfig) -> Tensor:
    """Mean (Q, M) of labels (K, M), weighted by the largest of the similarities (Q, K)."""
    count = min(config.top_k, similarity.shape[1])
    least = similarity.topk(count, dim=1).values[:, -1:]
    kept = similarity.masked_fill(similarity < least, -torch.inf)
    mixed = (kept / config.temperature).softmax(dim=1) @ labels
    return mixed / mixed.sum(dim=1, keepdim=True)


class PatchFeatures:
    """An encoder as a source of patch features: its map of stride 16, or the one nearest to that.

    policy: which blocks run; of a `VideoPolicy` a fresh one is taken.
    """

    def __init__(
        self, encoder: Encoder, short_side: int, dtype: torch.dtype, policy: Policy | None
    ) -> None:
        self.encoder, self.short_side, self.dtype = encoder, short_side, dtype
        self.policy = policy.fresh() if isinstance(policy, VideoPolicy) else policy
        self.device = next(encoder.parameters()).device
        distances = [abs(math.log2(stride / 16)) for stride in encoder.strides]
        self._level = distances.index(min(distances))

    @property
    def multiple(self) -> int:
        """Both sides of the encoder's image are multiples of this."""
        # Only encoders of a single plain stack do without a stride-32 map.
        plain = len(self.encoder.strides) == 1
        return self.encoder.strides[0] if plain else 32

    def __call__(
        self, frame: NDArray[np.uint8], previous_masks: Tensor | None
    ) -> tuple[Tensor, NDArray[np.bool_]]:
        """Unit features (h, w, D), float32, of a frame (H, W, 3), and which blocks ran (L,)."""
        from PIL import Image

        height, width = resized_shape(
            (frame.shape[0], frame.shape[1]), self.short_side, self.multiple
        )
        resized = Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC)
        image = network_input(np.asarray(resized), self.device)
        reduced = self.dtype != torch.float32
        with torch.autocast(self.device.type, self.dtype, enabled=reduced):
            output = self.encoder(image, self.policy, previous_masks)
        features = output.features[self._level][0].float().permute(1, 2, 0)
        return F.normalize(features, dim=-1), output.blocks.reshape(-1).cpu().numpy()


class PropagationSession:
    """Propagates masks through one video, frame by frame: `prompt` with masks, then `step`.

    encoder, dtype, policy: as of `PatchFeatures`. start: index of the first frame. reverse: frames
    come in descending order. size: (H, W) of the video if known, so that masks are checked at once.
    """

    def __init__(
        self,
        encoder: Encoder,
        config: PropagationConfig | None = None,
        *,
        start: int = 0,
        reverse: bool = False,
        size: Size | None = None,
        dtype: torch.dtype = torch.float32,
        policy: Policy | None = None,
    ) -> None:
        self.config = config or PropagationConfig()
        self.size = size
        self._features = PatchFeatures(encoder, self.config.short_side, dtype, policy)
        self.reverse = reverse
        self._start = start
        self._masks: dict[int, NDArray[np.bool_]] = {}
        self._index: int | None = None
        self._first: tuple[Tensor, Tensor] | None = None
        self._recent: deque[tuple[Tensor, Tensor]] = deque(maxlen=self.config.context_frames)

    @property
    def index(self) -> int | None:
        """The frame last stepped, None before the first."""
        return self._index

    @property
    def next_index(self) -> int:
        """The frame that `step` takes its argument for."""
        return self._start if self._index is None else self._index + (-1 if self.reverse else 1)

    @property
    def object_ids(self) -> tuple[int, ...]:
        """The objects, in the order in which they came."""
        return tuple(self._masks)

    def prompt(self, *, object_id: int = 1, mask: ArrayLike) -> None:
        """The mask (H, W) of an object on the first frame; where masks overlap, the last counts."""
        self.add(Prompt(self._start, object_id, mask=mask))

    def add(self, prompt: Prompt) -> None:
        """`prompt` with a ready-made Prompt. InputError unless it is a mask on the first frame."""
        if prompt.mask is None:
            raise InputError(
                f"the prompt for object {prompt.object_id} is no mask; labels are propagated from"
                " masks: draw one, or make one with `tempomask track` from a click or box"
            )
        if self._index is not None or prompt.frame != self._start:
            raise InputError(
                f"object {prompt.object_id} has its mask on frame {prompt.frame}; labels are"
                f" propagated from the first frame, {self._start}: give all masks there"
            )
        if self.size is not None:
            prompt.check_inside(self.size)
        self._masks[prompt.object_id] = np.asarray(prompt.mask)

    def step(self, frame: NDArray[np.uint8], index: int | None = None) -> FrameResult:
        """Take in one frame (H, W, 3), uint8 RGB, and say where every object is in it.

        In the result, `low_res_logits` are at the video's size: how far an object's share of a
        pixel lies above the largest other one, > 0 where the object is. `object_scores` are the
        largest of these, `predicted_iou` the mean probability of the patches found, 0 without any.
        """
        frame = check_frame(frame)
        if index is not None and index != self.next_index:
            raise InputError(
                f"frame {index} cannot follow; the next one is {self.next_index}, in order"
            )
        if not self._masks:
            raise InputError("no mask given; say where the objects are on the first frame")
        self._check_size((frame.shape[0], frame.shape[1]))
        policy = self._features.policy
        with torch.inference_mode():
            if isinstance(policy, VideoPolicy):
                policy.begin_frame()
            result = self._begin(frame) if self._first is None else self._go_on(frame)
            if isinstance(policy, VideoPolicy):
                policy.end_frame(result.predicted_iou, result.object_scores)
        self._index = self.next_index
        return result

    def _check_size(self, size: Size) -> None:
        if self.size is not None and size != self.size:
            raise InputError(
                f"a frame of {size[1]} x {size[0]} pixels in a video of {self.size[1]} x"
                f" {self.size[0]}; the size may not change, start a new session"
            )
        for object_id, mask in self._masks.items():
            Prompt(self._start, object_id, mask=mask).check_inside(size)
        self.size = size

    def _begin(self, frame: NDArray[np.uint8]) -> FrameResult:
        """The first frame: its masks, as labels of its patches and as they are."""
        labels = np.zeros(frame.shape[:2], dtype=np.int64)
        for place, mask in enumerate(self._masks.values(), 1):
            labels[mask] = place
        features, blocks = self._features(frame, None)
        whole = torch.from_numpy(labels).to(features.device)[None, None].float()
        small = F.interpolate(whole, size=features.shape[:2], mode="nearest-exact")[0, 0].long()
        self._first = features, F.one_hot(small, len(self._masks) + 1).float()
        ids = np.arange(1, len(self._masks) + 1)[:, None, None]
        margins = np.where(labels == ids, np.float32(1), np.float32(-1))
        found = np.asarray((margins > 0).any(axis=(1, 2)))
        scores = np.where(found, np.float32(1), np.float32(-1))
        return self._result(margins, scores, found.astype(np.float32), blocks)

    def _go_on(self, frame: NDArray[np.uint8]) -> FrameResult:
        context = [*([] if self._first is None else [self._first]), *self._recent]
        before = context[-1][1]
        # What a router takes for the logits of the masks: objects above background.
        masks = (before[..., 1:].amax(dim=-1) - before[..., 0])[None, None]
        features, blocks = self._features(frame, masks)
        config = self.config
        labels = propagate(features, [f for f, _ in context], [x for _, x in context], config)
        self._recent.append((features, labels))
        margins, won = share_out(labels, (frame.shape[0], frame.shape[1]))
        scores = margins.amax(dim=(1, 2))
        total = won.sum(dim=(1, 2))
        mean = (won * labels[..., 1:].permute(2, 0, 1)).sum(dim=(1, 2)) / total.clamp(min=1)
        return self._result(margins.cpu().numpy(), scores.cpu().numpy(), mean.cpu().numpy(), blocks)

    def _result(
        self,
        margins: NDArray[np.float32],
        scores: NDArray[np.float32],
        certainty: NDArray[np.float32],
        blocks: NDArray[np.bool_],
    ) -> FrameResult:
        return FrameResult(
            index=self.next_index,
            size=(margins.shape[1], margins.shape[2]),
            object_ids=self.object_ids,
            low_res_logits=margins,
            object_scores=scores,
            predicted_iou=certainty,
            blocks=blocks,
        )


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
