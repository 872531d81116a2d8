"""Training clips: real video, moving stills, and composed video, in one endless seeded mixture.

T frames, S side of the square frames. Clip i depends on the seed and i alone, so that training can
stop and go on, and several processes can share the work.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from tempomask.data.motion import ImageArray, Placement, affine_path, deformation, warp, warp_mask
from tempomask.data.stills import PictureLibrary
from tempomask.data.synthetic import Cutout, compose, drawn_shape, vary_colour

if TYPE_CHECKING:
    import cv2
else:
    from tempomask.data import opencv as cv2

# An object must cover this share of the first frame, or there is nothing to follow.
LEAST_AREA = 0.003
ATTEMPTS = 40


class Clip(NamedTuple):
    """frames (T, S, S, 3) uint8 RGB; masks (T, S, S) of zeros and ones, one object; its source."""

    frames: ImageArray
    masks: ImageArray
    source: str


@dataclass(frozen=True)
class Mixture:
    """Shares of the sources, which sum to 1."""

    davis: float = 0.45
    moving: float = 0.20
    composed: float = 0.35


def collate(clips: list[Clip]) -> tuple[Tensor, Tensor]:
    """A batch: frames (B, T, S, S, 3) and masks (B, T, S, S), both uint8."""
    frames = torch.from_numpy(np.stack([clip.frames for clip in clips]))
    return frames, torch.from_numpy(np.stack([clip.masks for clip in clips]))


class ClipMixture(Dataset[Clip]):
    """An endless dataset of clips of T frames; see the module's first lines.

    root: as of `PictureLibrary`. held_out: DAVIS sequences to leave out.
    """

    def __init__(
        self,
        root: Path,
        image_size: int = 256,
        num_frames: int = 4,
        seed: int = 1,
        held_out: Collection[str] = (),
        mixture: Mixture | None = None,
    ) -> None:
        self.library = PictureLibrary(Path(root), held_out)
        self.side, self.length, self.seed = image_size, num_frames, seed
        mixture = mixture or Mixture()
        self.sources: list[tuple[float, Callable[[np.random.Generator], Clip | None]]] = [
            (mixture.davis, self.davis),
            (mixture.moving, self.moving),
            (mixture.composed, self.composed),
        ]
        # Each loader process works alone; more threads would only contend.
        cv2.setNumThreads(0)

    def __getitem__(self, index: int) -> Clip:
        for attempt in range(ATTEMPTS):
            rng = np.random.default_rng((self.seed, index, attempt))
            shares, makers = zip(*self.sources, strict=True)
            clip = makers[rng.choice(len(makers), p=shares)](rng)
            if clip is not None and clip.masks[0].mean() > LEAST_AREA:
                return clip
        raise RuntimeError(f"no clip with a visible object in {ATTEMPTS} attempts at index {index}")

    def davis(self, rng: np.random.Generator) -> Clip | None:
        """Real video at a random stride and direction, one random crop for the whole clip."""
        names = list(self.library.sequences)
        pictures = self.library.sequences[names[rng.integers(len(names))]]
        stride = min(int(rng.integers(1, 6)), (len(pictures) - 1) // (self.length - 1))
        start = int(rng.integers(len(pictures) - stride * (self.length - 1)))
        chosen = pictures[start : start + stride * (self.length - 1) + 1 : stride]
        if rng.random() < 0.5:
            chosen = chosen[::-1]
        masks = [self.library.davis_mask(path) for path in chosen]
        if masks[0].mean() < LEAST_AREA:
            return None
        crop = _crop_around(rng, masks[0])
        mirrored, shaken = rng.random() < 0.5, rng.random() < 0.5
        frames, cropped = [], []
        for path, mask in zip(chosen, masks, strict=True):
            matrix = _crop_matrix(crop, self.side)
            if shaken:
                matrix = _shake(rng, matrix, self.side)
            frames.append(warp(self.library.picture(path), matrix, self.side))
            cropped.append(warp_mask(mask, matrix, self.side) > 127)
        stacked, mask_stack = np.stack(frames), np.stack(cropped).astype(np.uint8)
        if mirrored:
            stacked, mask_stack = stacked[:, :, ::-1], mask_stack[:, :, ::-1]
        return Clip(vary_colour(rng, stacked), np.ascontiguousarray(mask_stack), "davis")

    def moving(self, rng: np.random.Generator) -> Clip | None:
        """One still under a moving, deforming camera."""
        cutout = self.still(rng)
        if cutout is None:
            return None
        height, width = cutout.mask.shape
        ys, xs = np.nonzero(cutout.mask)
        place = Placement(
            anchor=(float(xs.mean()), float(ys.mean())),
            target=(self.side * rng.uniform(0.3, 0.7), self.side * rng.uniform(0.3, 0.7)),
            scale=self.side / min(height, width) * rng.uniform(0.85, 1.6),
            mirrored=bool(rng.random() < 0.5),
        )
        path = affine_path(rng, self.length, self.side, place, rng.uniform(0.3, 1.3))
        fields = [None] * self.length
        if rng.random() < 0.7:
            fields = deformation(rng, self.length, self.side, rng.uniform(0, 0.03))
        steps = list(zip(path, fields, strict=True))
        frames = np.stack([warp(cutout.picture, m, self.side, f) for m, f in steps])
        masks = np.stack([warp_mask(cutout.mask, m, self.side, f) > 127 for m, f in steps])
        return Clip(vary_colour(rng, frames), masks.astype(np.uint8), "moving")

    def composed(self, rng: np.random.Generator) -> Clip | None:
        """One to four cut-outs over a moving picture; sometimes all from the same picture."""
        count = int(rng.integers(1, 5))
        cutouts = [self.still(rng)] * count if rng.random() < 0.3 else self._assorted(rng, count)
        present = [cutout for cutout in cutouts if cutout is not None]
        if not present:
            return None
        video = compose(rng, self.background(rng), present, self.length, self.side)
        masks = (video.ids == 1 + rng.integers(len(present))).astype(np.uint8)
        return Clip(vary_colour(rng, video.frames), masks, "composed")

    def _assorted(self, rng: np.random.Generator, count: int) -> list[Cutout | None]:
        return [
            drawn_shape(rng, self.background(rng)) if rng.random() < 0.2 else self.still(rng)
            for _ in range(count)
        ]

    def background(self, rng: np.random.Generator) -> ImageArray:
        """A picture to move things over: BSDS or a DAVIS frame."""
        regions = self.library.stills["regions-bsds500"]
        if rng.random() < 0.5:
            return self.library.picture(regions[rng.integers(len(regions))].picture)
        return self.library.picture(self._davis_frame(rng))

    def _davis_frame(self, rng: np.random.Generator) -> Path:
        names = list(self.library.sequences)
        pictures = self.library.sequences[names[rng.integers(len(names))]]
        return pictures[rng.integers(len(pictures))]

    def still(self, rng: np.random.Generator) -> Cutout | None:
        """A random labelled object: a person, a horse, a nucleus, a DAVIS object or a region."""
        choice = rng.random()
        if choice < 0.25:
            path = self._davis_frame(rng)
            mask = self.library.davis_mask(path)
            cutout = Cutout(self.library.picture(path), mask)
        else:
            cutout = self._labelled(rng, choice)
        return None if cutout is None or cutout.mask.mean() < LEAST_AREA / 2 else cutout

    def _labelled(self, rng: np.random.Generator, choice: float) -> Cutout | None:
        stills = self.library.stills
        if choice < 0.50:
            pool = stills["regions-bsds500"]
        elif choice < 0.58:
            pool = stills["nuclei-dsb2018"]
        else:
            pool = stills["person-ccp"] + stills["person-290"] + stills["horse-weizmann"]
        still = pool[rng.integers(len(pool))]
        picture, label = self.library.picture(still.picture), self.library.label(still.label)
        if still.kind == "object":
            return Cutout(picture, (label > 0).astype(np.uint8), still.category)
        least, most = (0.01, 0.35) if still.kind == "regions" else (LEAST_AREA, 1.0)
        ids, counts = np.unique(label, return_counts=True)
        share = counts / label.size
        fits = ids[(share > least) & (share < most) & ((ids > 0) | (still.kind == "regions"))]
        if len(fits) == 0:
            return None
        mask = (label == fits[rng.integers(len(fits))]).astype(np.uint8)
        return Cutout(picture, _largest_part(mask), still.category)


def _largest_part(mask: ImageArray) -> ImageArray:
    """The largest connected part of a binary mask."""
    _, parts, stats, _ = cv2.connectedComponentsWithStats(mask)
    return (parts == 1 + stats[1:, cv2.CC_STAT_AREA].argmax()).astype(np.uint8)


def _crop_around(rng: np.random.Generator, mask: ImageArray) -> tuple[int, int, int, int]:
    """A random crop x, y, width, height that holds most of the object; the aspect varies."""
    height, width = mask.shape
    ys, xs = np.nonzero(mask)
    for _ in range(8):
        share = rng.uniform(0.45, 1.0)
        crop_width = int(width * share)
        crop_height = int(height * np.clip(share * np.exp(rng.normal() * 0.15), 0.45, 1.0))
        if rng.random() < 0.35:
            crop_width = min(crop_width, int(crop_height * rng.uniform(0.9, 1.4)))
        x = int(rng.integers(width - crop_width + 1))
        y = int(rng.integers(height - crop_height + 1))
        inside = (xs >= x) & (xs < x + crop_width) & (ys >= y) & (ys < y + crop_height)
        if inside.mean() > 0.6:
            return x, y, crop_width, crop_height
    return 0, 0, width, height


def _crop_matrix(crop: tuple[int, int, int, int], side: int) -> NDArray[np.float64]:
    x, y, width, height = crop
    return np.array([[side / width, 0, -x * side / width], [0, side / height, -y * side / height]])


def _shake(rng: np.random.Generator, matrix: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """A small extra rotation, scale and shift about the centre of the output."""
    angle, scale = rng.normal() * 0.02, np.exp(rng.normal() * 0.02)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * scale
    centre = np.full(2, side / 2)
    shift = centre - turn @ centre + rng.normal(size=2) * 0.01 * side
    return np.column_stack([turn @ matrix[:, :2], turn @ matrix[:, 2] + shift])
