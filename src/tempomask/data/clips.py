"""Training clips: real video, moving stills, and composed video, in one endless seeded mixture.

T frames, S side of the square frames, K objects of a clip, B clips, N objects of all clips. Clip i
depends on the seed and i alone: training can stop and go on, and processes can share the work.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import NamedTuple

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
    halved,
    keep_inside,
    warp,
)
from tempomask.data.opencv import cv2
from tempomask.data.sequences import MaskSequence
from tempomask.data.shapes import drawn_shape
from tempomask.data.stills import Cutout, ImageLibrary
from tempomask.data.synthetic import LabelledVideo, Motion, blur_along, compose, paste
from tempomask.errors import InputError

# Least and greatest share of the first frame that an object covers, for something to follow.
AREA = (0.003, 0.85)
ATTEMPTS = 40
EPOCH = 100_000
# Width / height of the videos that people have, which the network sees squeezed to a square.
ASPECTS = (16 / 9, 16 / 9, 16 / 9, 4 / 3, 4 / 3, 1.0, 3 / 4, 9 / 16)
LONGEST_STRIDE = 5
LEAST_CROP = 0.4
# Of what is pasted: much leaves, and some of it comes back.
MOTION = Motion(outside=0.15, returning=0.12)


class Clip(NamedTuple):
    """frames (T, S, S, 3) uint8 RGB; masks (K, T, S, S) of zeros and ones, disjoint; its source."""

    frames: ImageArray
    masks: ImageArray
    source: str


# One try at a clip, from a generator of its own.
Draw = Callable[[np.random.Generator], LabelledVideo | None]


class ClipBatch(NamedTuple):
    """frames (B, T, S, S, 3) and masks (N, T, S, S), uint8; clip (N,) long: whose each mask is."""

    frames: Tensor
    masks: Tensor
    clip: Tensor


@dataclass(frozen=True)
class Mixture:
    """Shares of the sources of `ClipMixture`, each in proportion to their sum; 0 leaves one out."""

    video: float = 0.36
    stills: float = 0.25
    paste: float = 0.30
    regions: float = 0.05
    drawn: float = 0.05

    def __post_init__(self) -> None:
        shares = astuple(self)
        if min(shares) < 0 or sum(shares) == 0:
            raise InputError(f"shares of the mixture must be positive or 0, not all 0: {shares}")


# Of single frames, for clicks and boxes: mostly those that show several objects.
FRAME_MIXTURE = Mixture(video=0.07, stills=0.5, paste=0.33, regions=0.05, drawn=0.05)


def collate(clips: list[Clip]) -> ClipBatch:
    """A batch of clips with all their objects."""
    counts = torch.tensor([len(clip.masks) for clip in clips])
    return ClipBatch(
        torch.from_numpy(np.stack([clip.frames for clip in clips])),
        torch.from_numpy(np.concatenate([clip.masks for clip in clips])),
        torch.repeat_interleave(torch.arange(len(clips)), counts),
    )


class SeededClips(Dataset[Clip]):
    """Clips of T frames of one to most_objects objects that are visible in the first frame."""

    def __init__(self, image_size: int, num_frames: int, seed: int, most_objects: int) -> None:
        self.side, self.num_frames, self.seed = image_size, num_frames, seed
        self.most_objects = most_objects

    def __len__(self) -> int:
        """One epoch of a plain loader; larger indices give further clips."""
        return EPOCH

    def _first_fit(self, index: int, draw: Draw, source: str, remedy: str) -> Clip:
        """Clip `index`: the first of some tries whose first frame shows an object of a fit size."""
        for attempt in range(1, ATTEMPTS + 1):
            rng = np.random.default_rng((self.seed, index, attempt))
            drawn = draw(rng)
            masks = None if drawn is None else chosen_objects(rng, drawn.ids, self.most_objects)
            if drawn is not None and masks is not None:
                return Clip(vary_colour(rng, drawn.frames), masks, source)
        raise InputError(
            f"no object covers {AREA[0]:.1%} to {AREA[1]:.0%} of the frame in {ATTEMPTS} tries at"
            f" clip {index}, {source}; {remedy}"
        )

    def _filmed(
        self,
        rng: np.random.Generator,
        video: MaskSequence,
        image: Callable[[Path], ImageArray],
        ids: Callable[[MaskSequence, int], ImageArray],
    ) -> LabelledVideo | None:
        """Real video at a random stride and direction, one random crop for the whole clip.

        image, ids: read a frame (H, W, 3) and its object ids (H, W), uint8.
        """
        gaps = self.num_frames - 1
        if len(video) <= gaps:
            return None
        longest = max(1, (len(video) - 1) // max(1, gaps))
        stride = min(int(rng.integers(1, LONGEST_STRIDE + 1)), longest)
        start = int(rng.integers(len(video) - stride * gaps))
        chosen = [start + stride * step for step in range(self.num_frames)]
        if rng.random() < 0.5:
            chosen.reverse()
        labels = [ids(video, index) for index in chosen]
        numbers = np.setdiff1d(labels[0], [0])
        if not len(numbers):
            return None
        crop = crop_around(rng, (labels[0] == rng.choice(numbers)).astype(np.uint8))
        mirrored, shake = rng.random() < 0.5, float(rng.random() < 0.5)
        frames, shown = [], []
        for index, label in zip(chosen, labels, strict=True):
            matrix = shaken(rng, self.side, shake, mirrored)
            frames.append(view(image(video.images[index]), crop, matrix, self.side))
            shown.append(view(label, crop, matrix, self.side, labels=True))
        return LabelledVideo(np.stack(frames), np.stack(shown))

    def _stage(self, rng: np.random.Generator, image: ImageArray | None = None) -> Stage:
        """A random aspect; if an image is given, nearer to its own, to show more of it."""
        aspect = np.log(ASPECTS[rng.integers(len(ASPECTS))]) + rng.normal() * 0.1
        if image is not None:
            own = np.log(image.shape[1] / image.shape[0])
            aspect += (own - aspect) * rng.uniform(0.2, 1.0)
        return Stage.squeezed(self.side, float(np.exp(aspect)))

    def _moved(
        self,
        rng: np.random.Generator,
        scene: tuple[ImageArray, ImageArray],
        strength: tuple[float, float],
        amplitude: float,
    ) -> LabelledVideo | None:
        """A camera that moves over an image (h, w, 3), about one of its objects' ids (h, w)."""
        image, objects = scene
        numbers = np.setdiff1d(objects, [0])
        if not len(numbers):
            return None
        mask = (objects == rng.choice(numbers)).astype(np.uint8)
        stage, size = self._stage(rng, image), (self.side, self.side)
        height, width = mask.shape
        x, y, columns, rows = cv2.boundingRect(mask)
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
        path = keep_inside(path, mask.shape, stage)
        fields = [None] * self.num_frames
        if amplitude and rng.random() < 0.7:
            fields = deformation(rng, self.num_frames, size, rng.uniform(0, amplitude))
        steps = [(stage.show(m), f) for m, f in zip(path, fields, strict=True)]
        image, grown = halved(image, place.scale)
        frames = np.stack([warp(image, _after(m, grown), size, f) for m, f in steps])
        # Where the image is continued by its mirror image, the object is too.
        ids = np.stack([warp(objects, m, size, f, labels=True) for m, f in steps])
        if rng.random() < 0.2:
            middle = np.array([*place.anchor, 1.0])
            blur_along(frames, [matrix @ middle for matrix, _ in steps])
        return LabelledVideo(frames, ids)


class ClipMixture(SeededClips):
    """Clips of every source of an `ImageLibrary`.

    Images are decoded once and kept, about 1.5 GB when all have been seen.
    """

    def __init__(
        self,
        root: Path | ImageLibrary,
        image_size: int = 256,
        num_frames: int = 4,
        seed: int = 1,
        held_out: Collection[str] = (),
        mixture: Mixture | None = None,
        most_objects: int = 1,
    ) -> None:
        """See `ImageLibrary` for root, which may be one, to be shared, and held_out."""
        if image_size < 16 or num_frames < 1:
            raise InputError(f"clips need 16 pixels and a frame: {image_size=}, {num_frames=}")
        super().__init__(image_size, num_frames, seed, most_objects)
        self.library = (
            root if isinstance(root, ImageLibrary) else ImageLibrary(Path(root), held_out)
        )
        self.makers = self.video, self.stills, self.paste, self.regions, self.drawn
        shares = np.array(astuple(mixture or Mixture()))
        self.shares = shares / shares.sum()

    def __getitem__(self, index: int) -> Clip:
        # Each loader process works alone; more threads would only contend.
        cv2.setNumThreads(0)
        choice = np.random.default_rng((self.seed, index)).choice(len(self.makers), p=self.shares)
        maker = self.makers[choice]
        remedy = "leave that source out of the mixture"
        return self._first_fit(index, maker, maker.__name__, remedy)

    def video(self, rng: np.random.Generator) -> LabelledVideo | None:
        """Real video."""
        library = self.library
        return self._filmed(rng, library.video(rng), library.image, library.ids)

    def stills(self, rng: np.random.Generator) -> LabelledVideo | None:
        """One still under a moving camera, deforming: of several objects, or of one."""
        if rng.random() < 0.7:
            return self._moved(rng, self.library.scene(rng), (0.3, 1.3), 0.03)
        cutout = self.library.object(rng)
        if cutout is None:
            return None
        return self._moved(rng, (cutout.image, cutout.mask), (0.3, 1.3), 0.03)

    def paste(self, rng: np.random.Generator) -> LabelledVideo | None:
        """One to four objects over a moving image, a moving scene or real video."""
        cutouts = self._cast(rng)
        if not cutouts:
            return None
        choice = rng.random()
        if choice < 0.35:
            return self._composed(rng, self.library.any_image(rng), cutouts)
        if choice < 0.65:
            below = self.video(rng)
        else:
            below = self._moved(rng, self.library.scene(rng), (0.0, 0.8), 0.0)
        if below is None:
            return None
        # What lies below counts too, and is to be seen.
        motion = replace(MOTION, size=(0.15, 0.5))
        video = paste(rng, below.frames, cutouts[:3], self._stage(rng), motion)
        first = int(below.ids.max()) + 1
        ids = np.where(video.ids > 0, video.ids + np.uint8(first), below.ids)
        return LabelledVideo(video.frames, ids.astype(np.uint8))

    def _cast(self, rng: np.random.Generator) -> list[Cutout]:
        """One to four cut-outs: any, the same one several times, or several of a category."""
        count = int(rng.integers(1, 5))
        first = self.library.object(rng)
        if first is None:
            return []
        choice = rng.random()
        if choice < 0.25:
            return [first] * count
        if choice < 0.55:
            others = [self.library.alike(rng, first) for _ in range(count - 1)]
        elif choice < 0.65:
            others = [drawn_shape(rng, self.library.any_image(rng))]
        else:
            others = [self.library.object(rng) for _ in range(count - 1)]
        return [first, *(other for other in others if other is not None)]

    def regions(self, rng: np.random.Generator) -> LabelledVideo | None:
        """A region of an image, moved with the image, or cut out and pasted on another one."""
        region = self.library.region(rng)
        if region is None:
            return None
        if rng.random() < 0.6:
            return self._moved(rng, (region.image, region.mask), (0.5, 1.8), 0.05)
        others = [self.library.region(rng) for _ in range(rng.integers(3))]
        present = [region, *(other for other in others if other is not None)]
        return self._composed(rng, self.library.any_image(rng), present)

    def drawn(self, rng: np.random.Generator) -> LabelledVideo | None:
        """One to four drawn shapes over a moving image."""
        count = int(rng.integers(1, 5))
        shapes = [drawn_shape(rng, self.library.any_image(rng)) for _ in range(count)]
        return self._composed(rng, self.library.any_image(rng), shapes)

    def _composed(
        self, rng: np.random.Generator, background: ImageArray, cutouts: list[Cutout]
    ) -> LabelledVideo:
        return compose(rng, background, cutouts, self.num_frames, self._stage(rng), MOTION)


def chosen_objects(rng: np.random.Generator, ids: ImageArray, most: int) -> ImageArray | None:
    """Masks (K, T, S, S) of up to `most` objects of ids (T, S, S), in random order.

    Those that the first frame shows at a fit size; None if there is none.
    """
    shares = np.bincount(ids[0].ravel()) / ids[0].size
    shares[0] = 0
    numbers = np.flatnonzero((shares > AREA[0]) & (shares < AREA[1]))
    if not len(numbers):
        return None
    return np.stack([ids == i for i in rng.permutation(numbers)[:most]]).astype(np.uint8)


def _after(matrix: Matrix, grown: int) -> Matrix:
    """The map of an image as that of the image shrunk so many times; pixel centres are whole."""
    shift = matrix[:, :2] @ np.full(2, (grown - 1) / 2)
    return np.column_stack([matrix[:, :2] * grown, matrix[:, 2] + shift])


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
    image: ImageArray,
    crop: tuple[int, int, int, int],
    matrix: Matrix,
    side: int,
    labels: bool = False,
) -> ImageArray:
    """The crop of a frame, resized to a square without aliasing and moved by the matrix.

    labels: of ids, which are not mixed.
    """
    x, y, width, height = crop
    filters = cv2.INTER_AREA if max(width, height) > side else cv2.INTER_LINEAR
    filters = cv2.INTER_NEAREST_EXACT if labels else filters
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
    return warp(resized, moved, (side, side), labels=labels)  # type: ignore[arg-type]
