"""Synthetic video of several instances of known classes, from stills with masks.

People, horses, nuclei and drawn shapes are cut out of images and move over scenery without any of
them: they deform, occlude each other, come in and leave. T frames of H x W pixels, N instances.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from recipes.nano_vis.scenery import PEOPLE_AND_HORSES
from tempomask.data.colour import ColourJitter, vary_colour
from tempomask.data.motion import ImageArray, Stage
from tempomask.data.shapes import drawn_shape
from tempomask.data.stills import (
    LEAST_AREA,
    NUCLEI,
    OBJECTS,
    REGIONS,
    STILLS,
    Cutout,
    Still,
    labelled_images,
    largest_part,
)
from tempomask.data.synthetic import LabelledVideo, Motion, compose
from tempomask.errors import InputError

Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = ("train", "validation")
CLASSES = ("person", "horse", "nucleus", "shape")
# Every fourth image of each source is kept for validation.
VALIDATION_EVERY = 4
# An instance counts as seen on a frame from so many pixels on, at least.
LEAST_PIXELS = 16
ATTEMPTS = 40


@dataclass(frozen=True)
class SceneConfig:
    """What is put into a scene.

    Attributes:
        instances: Least and greatest number of cut-outs.
        shares: Of the classes, in their order.
        twins: Share of scenes in which a cut-out comes twice, so that looks alone do not tell which
            is which.
        motion: How things move, with more coming, going and crossing than a tracker's clips have.
        full_length: Frames over which its deformation adds up; shorter clips have less.
        colour: How colours vary.
    """

    instances: tuple[int, int] = (2, 7)
    shares: tuple[float, ...] = (0.32, 0.26, 0.18, 0.24)
    twins: float = 0.15
    motion: Motion = Motion(  # noqa: RUF009
        background=(0.0, 0.6), objects=(0.2, 1.0), size=(0.18, 0.8), crossing=0.4, outside=0.25
    )
    full_length: int = 14
    colour: ColourJitter = ColourJitter(  # noqa: RUF009
        brightness=0.1, saturation=0.2, hue=0.06, drift=0.01, flicker=0.01, grey=0.03
    )

    def motion_of(self, length: int) -> Motion:
        """The motion of a clip of so many frames."""
        part = min(1.0, max(1, length - 1) / (self.full_length - 1))
        values = {**vars(self.motion), "deformation": self.motion.deformation * part}
        return Motion(**values)


class InstanceImages:
    """The stills of one split; no image is in both splits. Each is read once and kept."""

    def __init__(self, root: str | Path, split: Split) -> None:
        """List the stills.

        Args:
            root: Folder with `stills-256/SET/{images,labels}`, see `stills`.
            split: Of the set.

        Raises:
            InputError: A part is missing, or is too small to be split.
        """
        if split not in SPLITS:
            raise InputError(f"unknown split {split!r}; choose from {', '.join(SPLITS)}")
        root = Path(root)
        self.things: dict[str, list[Still]] = {"nucleus": _part(root, NUCLEI, "nucleus", split)}
        for name, category in OBJECTS.items():
            self.things.setdefault(category, []).extend(_part(root, name, category, split))
        scenery = _part(root, REGIONS, "region", split)
        self.scenery = [still for still in scenery if still.image.stem not in PEOPLE_AND_HORSES]
        self._read: dict[Path, ImageArray] = {}

    def background(self, rng: np.random.Generator) -> ImageArray:
        """An image (h, w, 3) without people and horses."""
        return self._image(self.scenery[rng.integers(len(self.scenery))].image)

    def cutout(self, rng: np.random.Generator, category: str) -> Cutout | None:
        """One instance of a class; None if the one that was drawn is too small."""
        if category == "shape":
            return drawn_shape(rng, self.background(rng))
        stills = self.things[category]
        still = stills[rng.integers(len(stills))]
        label = self._image(still.label)
        counts = np.bincount(label.ravel())
        counts[0] = 0
        ids = np.flatnonzero(counts > LEAST_AREA * label.size)
        if len(ids) == 0:
            return None
        chosen = label == ids[rng.integers(len(ids))] if category == "nucleus" else label > 0
        # What another object cuts off would make two things of one.
        return Cutout(self._image(still.image), largest_part(chosen.astype(np.uint8)), category)

    def _image(self, path: Path) -> ImageArray:
        if path not in self._read:
            with Image.open(path) as image:
                chosen = image.convert("RGB") if path.parent.name == "images" else image
                pixels = np.asarray(chosen)
            nuclei = path.parent.parent.name == NUCLEI and pixels.ndim == 3
            self._read[path] = _stretched(pixels) if nuclei else pixels
        return self._read[path]


def compose_scene(
    rng: np.random.Generator,
    images: InstanceImages,
    length: int,
    stage: Stage,
    config: SceneConfig | None = None,
) -> LabelledVideo:
    """T frames of instances over scenery, with the ids of what is seen; at least one is."""
    config = config or SceneConfig()
    shares = np.array(config.shares) / sum(config.shares)
    for _ in range(ATTEMPTS):
        count = int(rng.integers(config.instances[0], config.instances[1] + 1))
        drawn = [images.cutout(rng, str(name)) for name in rng.choice(CLASSES, count, p=shares)]
        cutouts = [cutout for cutout in drawn if cutout is not None]
        if cutouts and rng.random() < config.twins:
            cutouts.insert(int(rng.integers(len(cutouts) + 1)), cutouts[0])
        if not cutouts:
            continue
        background = images.background(rng)
        video = compose(rng, background, cutouts, length, stage, config.motion_of(length))
        if seen_ids(video.ids).any():
            return video._replace(frames=vary_colour(rng, video.frames, config.colour))
    raise InputError(f"no instance is seen in {ATTEMPTS} tries; the stills hold nothing to cut out")


def seen_ids(ids: ImageArray) -> NDArray[np.bool_]:
    """bool (T, 256): which ids of an id map (T, H, W) are seen, on `LEAST_PIXELS` or more."""
    counts = np.stack([np.bincount(frame.ravel(), minlength=256) for frame in ids])
    counts[:, 0] = 0
    return counts >= LEAST_PIXELS


def _stretched(image: ImageArray) -> ImageArray:
    """The whole range of brightness: some fluorescence images are too dim to see a thing."""
    low, high = np.percentile(image, (1, 99.5))
    return (np.clip((image - low) / max(1.0, high - low), 0, 1) * 255).astype(np.uint8)


def _part(root: Path, name: str, category: str, split: Split) -> list[Still]:
    """The images of a source that belong to a split."""
    stills = labelled_images(root / STILLS / name, category)
    held_out = split == "validation"
    kept = [
        still
        for place, still in enumerate(stills)
        if (place % VALIDATION_EVERY == VALIDATION_EVERY - 1) == held_out
    ]
    if not kept:
        raise InputError(
            f"{len(stills)} images in {root / STILLS / name} are too few to be split;"
            f" {VALIDATION_EVERY} or more are needed"
        )
    return kept
