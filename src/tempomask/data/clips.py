"""Training clips: real video, moving stills, and composed video, in one endless seeded mixture.

T frames, S side of the square frames. Clip i depends on the seed and i alone, so that training can
stop and go on, and several processes can share the work.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from tempomask.data.colour import vary_colour
from tempomask.data.motion import (
    ImageArray,
    Matrix,
    Placement,
    Stage,
    affine_path,
    deformation,
    keep_inside,
    warp,
)
from tempomask.data.shapes import drawn_shape
from tempomask.data.stills import Cutout, ImageLibrary
from tempomask.data.synthetic import Motion, blur_along, compose, paste
from tempomask.errors import InputError

if TYPE_CHECKING:
    import cv2
else:
    from tempomask.data import opencv as cv2

# Least and greatest share of the first frame that an object covers, for something to follow.
AREA = (0.003, 0.85)
ATTEMPTS = 40
# Width / height of the videos that people have, which the network sees squeezed to a square.
ASPECTS = (16 / 9, 16 / 9, 16 / 9, 4 / 3, 4 / 3, 1.0, 3 / 4, 9 / 16)
LONGEST_STRIDE = 5
LEAST_CROP = 0.4


class Clip(NamedTuple):
    """frames (T, S, S, 3) uint8 RGB; masks (T, S, S) of zeros and ones, one object; its source."""

    frames: ImageArray
    masks: ImageArray
    source: str


@dataclass(frozen=True)
class Mixture:
    """Shares of the sources, each in proportion to their sum; 0 leaves a source out.

    davis: real video; stills: a still under a moving camera; paste: objects pasted over a moving
    image or a real video; regions: a region of a BSDS image, moved or pasted; drawn: shapes.
    """

    davis: float = 0.40
    stills: float = 0.20
    paste: float = 0.25
    regions: float = 0.08
    drawn: float = 0.07

    def __post_init__(self) -> None:
        shares = astuple(self)
        if min(shares) < 0 or sum(shares) == 0:
            raise InputError(f"shares of the mixture must be positive or 0, not all 0: {shares}")


def collate(clips: list[Clip]) -> tuple[Tensor, Tensor]:
    """A batch: frames (B, T, S, S, 3) and masks (B, T, S, S), both uint8."""
    frames = torch.from_numpy(np.stack([clip.frames for clip in clips]))
    return frames, torch.from_numpy(np.stack([clip.masks for clip in clips]))


class ClipMixture(Dataset[Clip]):
    """Clips of T frames of one object that is visible in the first frame.

    root: as of `ImageLibrary`; held_out: DAVIS sequences to leave out. length is what len() says,
    one epoch of a plain loader; larger indices give further clips. Images are decoded once and
    kept, about 1.2 GB when all have been seen.
    """

    def __init__(
        self,
        root: Path,
        image_size: int = 256,
        num_frames: int = 4,
        seed: int = 1,
        held_out: Collection[str] = (),
        mixture: Mixture | None = None,
        length: int = 100_000,
    ) -> None:
        if image_size < 16 or num_frames < 1:
            raise InputError(f"clips need 16 pixels and a frame: {image_size=}, {num_frames=}")
        self.library = ImageLibrary(Path(root), held_out)
        self.side, self.num_frames, self.seed, self.length = image_size, num_frames, seed, length
        makers = (self.davis, self.stills, self.paste, self.regions, self.drawn)
        self.makers: tuple[Callable[[np.random.Generator], Clip | None], ...] = makers
        shares = np.array(astuple(mixture or Mixture()))
        self.shares = shares / shares.sum()

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Clip:
        # Each loader process works alone; more threads would only contend.
        cv2.setNumThreads(0)
        choice = np.random.default_rng((self.seed, index)).choice(len(self.makers), p=self.shares)
        for attempt in range(1, ATTEMPTS + 1):
            clip = self.makers[choice](np.random.default_rng((self.seed, index, attempt)))
            if clip is not None and AREA[0] < clip.masks[0].mean() < AREA[1]:
                return clip
        raise InputError(
            f"no object covers {AREA[0]:.1%} to {AREA[1]:.0%} of the frame in {ATTEMPTS} tries at "
            f"clip {index}, {self.makers[choice].__name__}; leave that source out of the mixture"
        )

    def davis(self, rng: np.random.Generator) -> Clip | None:
        """Real video at a random stride and direction, one random crop for the whole clip."""
        video = self._real_video(rng)
        return None if video is None else self._finished(rng, *video, "davis")

    def stills(self, rng: np.random.Generator) -> Clip | None:
        """One still under a moving camera, deforming."""
        cutout = self.library.object(rng)
        if cutout is None:
            return None
        return self._finished(rng, *self._moved(rng, cutout, (0.3, 1.3), 0.03), "stills")

    def paste(self, rng: np.random.Generator) -> Clip | None:
        """One to four objects over a moving image; or over real video, whose object may count."""
        count = int(rng.integers(1, 5))
        cutouts = [self.library.object(rng) for _ in range(count)]
        if rng.random() < 0.1:
            cutouts[0] = drawn_shape(rng, self.library.any_image(rng))
        if rng.random() < 0.3:
            cutouts = [cutouts[0]] * count
        present = [cutout for cutout in cutouts if cutout is not None]
        if not present:
            return None
        if rng.random() < 0.35:
            return self._over_real_video(rng, present)
        return self._composed(rng, self.library.any_image(rng), present, "paste")

    def regions(self, rng: np.random.Generator) -> Clip | None:
        """A region of an image, moved with the image, or cut out and pasted on another one."""
        region = self.library.region(rng)
        if region is None:
            return None
        if rng.random() < 0.6:
            return self._finished(rng, *self._moved(rng, region, (0.5, 1.8), 0.05), "regions")
        others = [self.library.region(rng) for _ in range(rng.integers(3))]
        present = [region, *(other for other in others if other is not None)]
        return self._composed(rng, self.library.any_image(rng), present, "regions")

    def drawn(self, rng: np.random.Generator) -> Clip | None:
        """One to four drawn shapes over a moving image."""
        count = int(rng.integers(1, 5))
        shapes = [drawn_shape(rng, self.library.any_image(rng)) for _ in range(count)]
        return self._composed(rng, self.library.any_image(rng), shapes, "drawn")

    def _finished(
        self, rng: np.random.Generator, frames: ImageArray, masks: ImageArray, source: str
    ) -> Clip:
        return Clip(vary_colour(rng, frames), masks, source)

    def _stage(self, rng: np.random.Generator, image: ImageArray | None = None) -> Stage:
        """A random aspect; if an image is given, nearer to its own, to show more of it."""
        aspect = np.log(ASPECTS[rng.integers(len(ASPECTS))]) + rng.normal() * 0.1
        if image is not None:
            own = np.log(image.shape[1] / image.shape[0])
            aspect += (own - aspect) * rng.uniform(0.2, 1.0)
        return Stage.squeezed(self.side, float(np.exp(aspect)))

    def _composed(
        self, rng: np.random.Generator, background: ImageArray, cutouts: list[Cutout], source: str
    ) -> Clip | None:
        video = compose(rng, background, cutouts, self.num_frames, self._stage(rng))
        masks = video.mask(int(rng.integers(1, 1 + len(cutouts))))
        return self._finished(rng, video.frames, masks, source)

    def _over_real_video(self, rng: np.random.Generator, cutouts: list[Cutout]) -> Clip | None:
        real = self._real_video(rng)
        if real is None:
            return None
        frames, masks = real
        # The object that was filmed is the interesting one: it deforms and is now occluded.
        follow_filmed = rng.random() < 0.6
        size = (0.15, 0.5) if follow_filmed else Motion.size
        motion = replace(Motion(), size=size)
        video = paste(rng, frames, cutouts[:2], self._stage(rng), motion)
        if follow_filmed:
            masks = masks * (video.ids == 0)
        else:
            masks = video.mask(int(rng.integers(1, 1 + len(video.categories))))
        return self._finished(rng, video.frames, masks, "paste")

    def _moved(
        self,
        rng: np.random.Generator,
        cutout: Cutout,
        strength: tuple[float, float],
        amplitude: float,
    ) -> tuple[ImageArray, ImageArray]:
        """frames and masks of a camera that moves over the cut-out's whole image."""
        stage, size = self._stage(rng, cutout.image), (self.side, self.side)
        height, width = cutout.mask.shape
        x, y, columns, rows = cv2.boundingRect(cutout.mask)
        cover = max(stage.width / width, stage.height / height)
        # Small objects are looked at from nearer, but not enlarged to a blur.
        fitting = min(stage.width / columns, stage.height / rows)
        nearest = max(1.6 * cover, min(0.7 * fitting, 3.0 * cover))
        place = Placement(
            anchor=(x + columns / 2, y + rows / 2),
            target=tuple(rng.uniform(0.3, 0.7, size=2) * [stage.width, stage.height]),
            scale=float(np.exp(rng.uniform(np.log(cover), np.log(nearest)))),
            mirrored=bool(rng.random() < 0.5),
        )
        path = affine_path(rng, self.num_frames, stage, place, rng.uniform(*strength))
        path = keep_inside(path, cutout.mask.shape, stage)
        fields = [None] * self.num_frames
        if rng.random() < 0.7:
            fields = deformation(rng, self.num_frames, size, rng.uniform(0, amplitude))
        steps = [(stage.show(m), f) for m, f in zip(path, fields, strict=True)]
        frames = np.stack([warp(cutout.image, m, size, f) for m, f in steps])
        # Where the image is continued by its mirror image, the object is too.
        full = cutout.mask * np.uint8(255)
        masks = np.stack([warp(full, m, size, f) for m, f in steps])
        if rng.random() < 0.2:
            middle = np.array([*place.anchor, 1.0])
            positions = [matrix @ middle for matrix, _ in steps]
            blur_along(frames, positions)
            blur_along(masks, positions)
        return frames, (masks > 127).astype(np.uint8)

    def _real_video(self, rng: np.random.Generator) -> tuple[ImageArray, ImageArray] | None:
        """frames and masks of a cropped and shaken DAVIS sequence; None without an object."""
        images = self.library.sequences[self.library.names[rng.integers(len(self.library.names))]]
        if len(images) < self.num_frames:
            return None
        gaps = max(1, self.num_frames - 1)
        stride = min(int(rng.integers(1, LONGEST_STRIDE + 1)), max(1, (len(images) - 1) // gaps))
        start = int(rng.integers(len(images) - stride * (self.num_frames - 1)))
        chosen = images[start:][::stride][: self.num_frames]
        if rng.random() < 0.5:
            chosen = chosen[::-1]
        masks = [self.library.davis_mask(path) for path in chosen]
        if masks[0].mean() < AREA[0] / 2:
            return None
        crop = crop_around(rng, masks[0])
        mirrored = rng.random() < 0.5
        shake = 1.0 if rng.random() < 0.5 else 0.0
        frames, shown = [], []
        for path, mask in zip(chosen, masks, strict=True):
            matrix = shaken(rng, self.side, shake, mirrored)
            frames.append(view(self.library.image(path), crop, matrix, self.side))
            shown.append(view(mask * np.uint8(255), crop, matrix, self.side) > 127)
        return np.stack(frames), np.stack(shown).astype(np.uint8)


def crop_around(rng: np.random.Generator, mask: ImageArray) -> tuple[int, int, int, int]:
    """A random crop x, y, width, height that holds most of the object; the aspect varies."""
    height, width = mask.shape
    whole = int(mask.sum())
    for _ in range(8):
        share = rng.uniform(LEAST_CROP, 1.0)
        crop_width = int(width * share)
        crop_height = int(height * np.clip(share * np.exp(rng.normal() * 0.15), LEAST_CROP, 1.0))
        if rng.random() < 0.3:
            crop_width = min(crop_width, int(crop_height * rng.uniform(0.8, 1.4)))
        x = int(rng.integers(width - crop_width + 1))
        y = int(rng.integers(height - crop_height + 1))
        if int(mask[y : y + crop_height, x : x + crop_width].sum()) > 0.6 * whole:
            return x, y, crop_width, crop_height
    return 0, 0, width, height


def shaken(rng: np.random.Generator, side: int, strength: float, mirrored: bool) -> Matrix:
    """A small rotation, scale and shift of a square (2, 3), about its centre; maybe mirrored."""
    angle, scale = rng.normal() * 0.02 * strength, np.exp(rng.normal() * 0.02 * strength)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * scale
    if mirrored:
        turn = turn @ np.diag([-1.0, 1.0])
    # Pixel centres lie at whole numbers, so the square's centre is half a pixel before side / 2.
    centre = np.full(2, (side - 1) / 2)
    shift = centre - turn @ centre + rng.normal(size=2) * 0.01 * side * strength
    return np.column_stack([turn, shift])


def view(
    image: ImageArray, crop: tuple[int, int, int, int], matrix: Matrix, side: int
) -> ImageArray:
    """The crop of a frame or mask, resized to a square without aliasing and moved by the matrix."""
    x, y, width, height = crop
    filters = cv2.INTER_AREA if max(width, height) > side else cv2.INTER_LINEAR
    # What lies around the crop is resized too, for the motion to uncover it.
    margin_x, margin_y = int(0.1 * width), int(0.1 * height)
    left, top = max(0, x - margin_x), max(0, y - margin_y)
    right, bottom = min(image.shape[1], x + width + margin_x), y + height + margin_y
    part = image[top:bottom, left:right]
    columns, rows = side / width, side / height
    size = (round(part.shape[1] * columns), round(part.shape[0] * rows))
    resized = cv2.resize(part, size, interpolation=filters)
    offset = matrix[:, :2] @ [(x - left) * columns, (y - top) * rows]
    moved = np.column_stack([matrix[:, :2], matrix[:, 2] - offset])
    return warp(resized, moved, (side, side))  # type: ignore[arg-type]
