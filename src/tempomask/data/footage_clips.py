"""Clips for fine-tuning, drawn and changed as SAM 2's training does; see `clips.SeededClips`.

T frames, S side of the square frames, K objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tempomask.data.clips import ATTEMPTS, Clip, SeededClips
from tempomask.data.colour import ColourJitter, vary_colour
from tempomask.data.footage import Annotated, Footage, FootageSet, LabelMaps
from tempomask.data.motion import ImageArray, Matrix
from tempomask.data.opencv import cv2
from tempomask.errors import InputError

# What a turned frame shows beyond its edges, in the official code too: ImageNet's mean.
MEAN_COLOUR = (124, 116, 104)
# With the deviations of SAM 2's uniform draws: brightness 0.1 of the clip and of each frame,
# contrast and saturation 0.03.
SAM2_COLOURS = ColourJitter(
    brightness=0.058,
    offset=0.0,
    contrast=0.017,
    saturation=0.017,
    hue=0.0,
    tint=0.0,
    drift=0.0,
    flicker=0.058,
    grey=0.05,
)
# Of images that become clips: the camera's least and greatest strength, and the deformation.
CAMERA, DEFORMATION = (0.3, 1.3), 0.03


@dataclass(frozen=True)
class ClipChanges:
    """Random changes of a clip, the same for all of its frames but for brightness.

    mirrored: probability. degrees, shear: largest angles of an affine change, either way.
    """

    mirrored: float = 0.5
    degrees: float = 25.0
    shear: float = 20.0
    colours: ColourJitter | None = field(default_factory=lambda: SAM2_COLOURS)


class _Squeezed(NamedTuple):
    """images (T, S, S, 3) and masks (K, T, S, S) of zeros and ones; size (H, W) they had."""

    images: ImageArray
    masks: ImageArray
    size: tuple[int, int]


class FootageClips(SeededClips):
    """Clips of consecutive annotated frames; images are seen by a moving camera if T is above 1."""

    def __init__(
        self,
        sets: Sequence[FootageSet],
        image_size: int,
        num_frames: int,
        seed: int,
        most_objects: int,
        changes: ClipChanges | None = None,
    ) -> None:
        """Same as `SeededClips`; InputError if no sequence of a set has num_frames frames."""
        super().__init__(image_size, num_frames, seed, most_objects)
        self.changes = changes or ClipChanges()
        self.items = [self._long_enough(one) for one in sets]
        weights = np.array([one.weight for one in sets])
        self.shares = weights / weights.sum()

    def _long_enough(self, one: FootageSet) -> list[Footage]:
        # How long an mp4 is annotated takes reading its file: that shows when it is drawn.
        short = (isinstance(i, LabelMaps) and i.count < self.num_frames for i in one.items)
        items = [item for item, lacks in zip(one.items, short, strict=True) if not lacks]
        if not items:
            raise InputError(
                f"no sequence of {one.root} has the {self.num_frames} annotated frames of a clip;"
                " give longer ones, or set shorter clips (--num-frames)"
            )
        return items

    def __getitem__(self, index: int) -> Clip:
        # Each loader process works alone; more threads would only contend.
        cv2.setNumThreads(0)
        item = None
        for attempt in range(ATTEMPTS):
            rng = np.random.default_rng((self.seed, index, attempt))
            items = self.items[rng.choice(len(self.items), p=self.shares)]
            item = items[rng.integers(len(items))]
            clip = self._clip(rng, item)
            if clip is not None:
                return clip
        raise InputError(
            f"{ATTEMPTS} clips in turn had no object on their first frame, or fewer than"
            f" {self.num_frames} frames, the last of {item and item.name}; run tempomask data check"
        )

    def _clip(self, rng: np.random.Generator, item: Footage) -> Clip | None:
        if item.count == 1 and self.num_frames > 1:
            return self._of_image(rng, item)
        if item.count < self.num_frames:
            return None
        start = int(rng.integers(item.count - self.num_frames + 1))
        shown = item.read(range(start, start + self.num_frames))
        ids = rng.permutation(sorted(shown[0].masks))[: self.most_objects]
        if not len(ids):
            return None
        return self._changed(rng, self._squeezed(shown, ids.tolist()), item.name)

    def _of_image(self, rng: np.random.Generator, item: Footage) -> Clip | None:
        """A camera that moves over an image; of masks that overlap, the smaller lies in front."""
        image, masks = item.read([0])[0]
        chosen = rng.permutation(sorted(masks))[: self.most_objects].tolist()
        ids = np.zeros(image.shape[:2], np.uint8)
        for number, i in enumerate(sorted(chosen, key=lambda i: -masks[i].sum()), 1):
            ids[masks[i]] = number
        moved = self._moved(rng, (image, ids), CAMERA, DEFORMATION)
        if moved is None:
            return None
        seen = [i for i in np.unique(moved.ids[0]) if i]
        if not seen:
            return None
        stack = np.stack([moved.ids == i for i in seen]).astype(np.uint8)
        return Clip(self._coloured(rng, moved.frames), stack, item.name)

    def _squeezed(self, shown: Sequence[Annotated], ids: Sequence[int]) -> _Squeezed:
        side, size = (self.side, self.side), shown[0].image.shape[:2]
        filters = cv2.INTER_AREA if max(size) > self.side else cv2.INTER_LINEAR
        images = [cv2.resize(one.image, side, interpolation=filters) for one in shown]
        masks = np.zeros((len(ids), len(shown), *side), np.uint8)
        for frame, one in enumerate(shown):
            for row, i in enumerate(ids):
                if i in one.masks:
                    mask = one.masks[i].view(np.uint8)
                    masks[row, frame] = cv2.resize(
                        mask, side, interpolation=cv2.INTER_NEAREST_EXACT
                    )
        return _Squeezed(np.stack(images), masks, size)  # type: ignore[arg-type]

    def _changed(self, rng: np.random.Generator, clip: _Squeezed, name: str) -> Clip | None:
        images, masks = clip.images, clip.masks
        if rng.random() < self.changes.mirrored:
            images, masks = images[:, :, ::-1], masks[..., ::-1]
        if self.changes.degrees or self.changes.shear:
            matrix = self._turn(rng, clip.size)
            turned = np.stack([_warped(m, matrix) for m in masks.reshape(-1, *masks.shape[2:])])
            turned = turned.reshape(masks.shape)
            # As in the official code, a turn that takes an object off the first frame is not made.
            if turned[:, 0].any(axis=(1, 2)).all():
                images, masks = np.stack([_warped(x, matrix, MEAN_COLOUR) for x in images]), turned
        kept = masks[:, 0].any(axis=(1, 2))
        if not kept.any():  # too small to be seen at this size
            return None
        images, masks = np.ascontiguousarray(images), np.ascontiguousarray(masks[kept])
        return Clip(self._coloured(rng, images), masks, name)

    def _turn(self, rng: np.random.Generator, size: tuple[int, int]) -> Matrix:
        """A rotation and shear (2, 3) about the middle, in the proportions the frames had."""
        angle, shear = np.radians(
            rng.uniform(-1, 1, 2) * (self.changes.degrees, self.changes.shear)
        )
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        turn = turn @ np.array([[1, -np.tan(shear)], [0, 1]])
        squeeze = np.diag([1 / size[1], 1 / size[0]])
        turn = squeeze @ turn @ np.linalg.inv(squeeze)
        middle = np.full(2, (self.side - 1) / 2)
        return np.column_stack([turn, middle - turn @ middle])

    def _coloured(self, rng: np.random.Generator, frames: ImageArray) -> ImageArray:
        colours = self.changes.colours
        return frames if colours is None else vary_colour(rng, frames, colours)


def _warped(
    image: ImageArray, matrix: Matrix, beyond: tuple[int, int, int] | None = None
) -> NDArray[np.uint8]:
    """A square (S, S, 3) with this colour beyond its edges, or a mask (S, S) with nothing there."""
    flags = cv2.INTER_NEAREST if beyond is None else cv2.INTER_LINEAR
    side = (image.shape[1], image.shape[0])
    image = np.ascontiguousarray(image)
    return cv2.warpAffine(image, matrix, side, flags=flags, borderValue=beyond or (0,))  # type: ignore[return-value]
