"""Images with masks for training: stills by category, and the frames of DAVIS 2016 train.

Expects a folder with `stills-256/SET/{images,labels}` and
`davis16-train-256/{JPEGImages,Annotations}/SEQUENCE`.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tempomask.errors import InputError

if TYPE_CHECKING:
    import cv2
else:
    from tempomask.data import opencv as cv2

ImageArray = NDArray[np.uint8]

# What the labels hold: 1 for the object; an id per nucleus; an id per region of the whole image.
OBJECTS = {"person-ccp": "person", "person-290": "person", "horse-weizmann": "horse"}
NUCLEI = "nuclei-dsb2018"
REGIONS = "regions-bsds500"
# Shares of the image that a region must have to count as an object.
REGION_AREA = (0.01, 0.35)
# Shares at which a nucleus or a DAVIS object is too small to be cut out.
LEAST_AREA = 0.0005


class Cutout(NamedTuple):
    """An image (h, w, 3) uint8 RGB and the mask (h, w) of zeros and ones of one object in it."""

    image: ImageArray
    mask: ImageArray
    category: str = "object"

    def cropped(self) -> Cutout:
        """The cut-out within the mask's bounding box."""
        x, y, width, height = cv2.boundingRect(self.mask)
        rows, columns = slice(y, y + height), slice(x, x + width)
        return Cutout(self.image[rows, columns], self.mask[rows, columns], self.category)

    def reduced(self, scale: float) -> tuple[Cutout, float]:
        """Halved until shown at `scale` without aliasing, and the scale that is left."""
        image, mask = self.image, self.mask * np.uint8(255)
        while scale < 0.5 and min(mask.shape) >= 4:
            half = (mask.shape[1] // 2, mask.shape[0] // 2)
            image = cv2.resize(image, half, interpolation=cv2.INTER_AREA)
            mask = cv2.resize(mask, half, interpolation=cv2.INTER_AREA)
            scale *= 2
        return Cutout(image, (mask > 127).astype(np.uint8), self.category), scale  # type: ignore


class Still(NamedTuple):
    """One labelled image on disk."""

    image: Path
    label: Path
    category: str


class ImageLibrary:
    """Lists the labelled images under a root, reads each once, and draws objects from them.

    held_out: names of DAVIS sequences to leave out. InputError when a part is missing.
    """

    def __init__(self, root: Path, held_out: Collection[str] = ()) -> None:
        self.objects = [s for name, kind in OBJECTS.items() for s in list_stills(root, name, kind)]
        self.nuclei = list_stills(root, NUCLEI, "nucleus")
        self.regions = list_stills(root, REGIONS, "region")
        davis = root / "davis16-train-256"
        self._annotations = davis / "Annotations"
        self.sequences = _list_sequences(davis / "JPEGImages", held_out)
        self.names = list(self.sequences)
        self._read: dict[Path, ImageArray] = {}

    def image(self, path: Path) -> ImageArray:
        """(H, W, 3) uint8 RGB."""
        if path not in self._read:
            with Image.open(path) as image:
                self._read[path] = np.asarray(image.convert("RGB"))
        return self._read[path]

    def label(self, path: Path) -> ImageArray:
        """(H, W) label values."""
        if path not in self._read:
            with Image.open(path) as image:
                self._read[path] = np.asarray(image)
        return self._read[path]

    def davis_mask(self, image: Path) -> ImageArray:
        """(H, W) of zeros and ones for a frame of `sequences`."""
        path = self._annotations / image.parent.name / f"{image.stem}.png"
        return (self.label(path) > 0).astype(np.uint8)

    def davis_frame(self, rng: np.random.Generator) -> Path:
        """A frame of a sequence, each sequence as likely as any other."""
        images = self.sequences[self.names[rng.integers(len(self.names))]]
        return images[rng.integers(len(images))]

    def any_image(self, rng: np.random.Generator) -> ImageArray:
        """An image to move things over: BSDS most often, a DAVIS frame or another still."""
        choice = rng.random()
        if choice < 0.35:
            return self.image(self.davis_frame(rng))
        stills = self.regions if choice < 0.85 else self.objects
        return self.image(stills[rng.integers(len(stills))].image)

    def object(self, rng: np.random.Generator) -> Cutout | None:
        """A person, a horse, nuclei or the object of a DAVIS frame; None if it is too small."""
        choice = rng.random()
        if choice < 0.3:
            path = self.davis_frame(rng)
            cutout = Cutout(self.image(path), self.davis_mask(path))
        elif choice < 0.4:
            return self.nucleus(rng)
        else:
            still = self.objects[rng.integers(len(self.objects))]
            mask = (self.label(still.label) > 0).astype(np.uint8)
            cutout = Cutout(self.image(still.image), mask, still.category)
        return cutout if cutout.mask.mean() > LEAST_AREA else None

    def nucleus(self, rng: np.random.Generator) -> Cutout | None:
        """One nucleus, or one with its nearest neighbours."""
        still = self.nuclei[rng.integers(len(self.nuclei))]
        label = self.label(still.label)
        counts = np.bincount(label.ravel())
        counts[0] = 0
        ids = np.flatnonzero(counts > LEAST_AREA * label.size)
        if len(ids) == 0:
            return None
        mask = label == ids[rng.integers(len(ids))]
        if rng.random() < 0.3:
            reach = int(min(label.shape) * rng.uniform(0.03, 0.1)) * 2 + 1
            near = cv2.dilate(mask.astype(np.uint8), np.ones((reach, reach), np.uint8)) > 0
            mask = np.isin(label, np.setdiff1d(label[near], [0]))
        return Cutout(self.image(still.image), mask.astype(np.uint8), still.category)

    def region(self, rng: np.random.Generator) -> Cutout | None:
        """A connected region of a BSDS image, of `REGION_AREA`."""
        still = self.regions[rng.integers(len(self.regions))]
        label = self.label(still.label)
        share = np.bincount(label.ravel()) / label.size
        ids = np.flatnonzero((share > REGION_AREA[0]) & (share < REGION_AREA[1]))
        if len(ids) == 0:
            return None
        mask = largest_part((label == ids[rng.integers(len(ids))]).astype(np.uint8))
        if mask.mean() < REGION_AREA[0]:
            return None
        return Cutout(self.image(still.image), mask, still.category)


def largest_part(mask: ImageArray) -> ImageArray:
    """The largest connected part of a binary mask that is not empty."""
    _, parts, stats, _ = cv2.connectedComponentsWithStats(mask)
    return (parts == 1 + stats[1:, cv2.CC_STAT_AREA].argmax()).astype(np.uint8)


def list_stills(root: Path, name: str, category: str) -> list[Still]:
    """The labelled images of `stills-256/NAME`, by name; InputError if there are none."""
    folder = root / "stills-256" / name
    labels = {path.stem: path for path in (folder / "labels").glob("*.png")}
    stills = [
        Still(path, labels[path.stem], category)
        for path in sorted((folder / "images").glob("*"))
        if path.stem in labels
    ]
    if not stills:
        raise InputError(f"no labelled images at {folder}; it needs images/ and labels/")
    return stills


def _list_sequences(images: Path, held_out: Collection[str]) -> dict[str, list[Path]]:
    if not images.is_dir():
        raise InputError(f"no DAVIS frames at {images}; give the folder that holds them")
    folders = [folder for folder in sorted(images.iterdir()) if folder.is_dir()]
    unknown = sorted(set(held_out) - {folder.name for folder in folders})
    if unknown:
        raise InputError(f"no sequence {unknown[0]!r} at {images} to hold out")
    return {f.name: sorted(f.glob("*.jpg")) for f in folders if f.name not in held_out}
