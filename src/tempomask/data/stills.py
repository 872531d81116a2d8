"""Images and video with masks for training: stills of one and of several objects, and sequences.

Expects a folder with `SET/{images,labels}` for the stills (those of one object in `stills-256`),
and `SET/{JPEGImages,Annotations}/SEQUENCE` for the video.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from tempomask.data.davis import Davis
from tempomask.data.motion import ImageArray, halved
from tempomask.data.opencv import cv2
from tempomask.data.sequences import MaskSequence
from tempomask.errors import InputError, warn
from tempomask.files import read_json
from tempomask.io.images import read_image, read_values

Choice = TypeVar("Choice")

# What the labels hold: 1 for the object; an id per nucleus; an id per region of the whole image.
OBJECTS = {"person-ccp": "person", "person-290": "person", "horse-weizmann": "horse"}
STILLS, NUCLEI = "stills-256", "nuclei-dsb2018"
REGIONS = "regions-bsds500"
# Shares of the image that a region must have to count as an object.
REGION_AREA = (0.01, 0.35)
# Stills of several objects with an id each; the second set is small and exact.
COCO, FIRST_FRAMES = "coco-mini", "davis17-challenge-first"
FIRST_FRAME_SHARE = 0.12
# Video, and how often each set is drawn from: regions that are not whole objects are rare.
DAVIS = "davis16-train-256"
VIDEO_SHARES = {DAVIS: 0.86, "davis17-schoolgirls": 0.08, "xiph8": 0.06}
# Every tenth image of `coco-mini` is kept for measuring, sixty in all.
HELD_OUT_EVERY, MOST_HELD_OUT = 10, 60
# Share of its image that an object of a scene must have to be shown elsewhere, enlarged or not.
LEAST_CUT_AREA = 0.006
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
        image, shrunk = halved(self.image, scale)
        mask, _ = halved(self.mask * np.uint8(255), scale)
        return Cutout(image, (mask > 127).astype(np.uint8), self.category), scale * shrunk


class Still(NamedTuple):
    """One labelled image on disk."""

    image: Path
    label: Path
    category: str


class ImageLibrary:
    """Lists the labelled images and video under a root, reads each once, and draws from them.

    Attributes:
        objects: Stills of one object.
        videos: Sequences by name, by their source.
    """

    def __init__(self, root: Path, held_out: Collection[str] = ()) -> None:
        """List what there is; of `coco-mini`, `held_out_images` are always left out.

        Args:
            root: Folder of all parts.
            held_out: Names of DAVIS 2016 sequences to leave out.

        Raises:
            InputError: A part is missing.
        """
        stills = root / STILLS
        self.objects = [s for name, k in OBJECTS.items() for s in labelled_images(stills / name, k)]
        self.nuclei = labelled_images(stills / NUCLEI, "nucleus")
        self.regions = labelled_images(stills / REGIONS, "region")
        coco = labelled_images(root / COCO, "object")
        apart = {still.image for still in _held_out(coco)}
        self.first_frames = labelled_images(root / FIRST_FRAMES, "object")
        self._categories: dict[str, dict[str, str]] = read_json(
            root / COCO / "categories.json", "the categories", {str: {str: str}}
        )
        named = {name for name, objects in self._categories.items() if objects}
        self.coco = [s for s in coco if s.image not in apart and s.image.name in named]
        self._by_category: dict[str, list[tuple[Still, int]]] = {}
        for still in self.coco:
            for number, category in self._categories[still.image.name].items():
                self._by_category.setdefault(category, []).append((still, int(number)))
        self.videos = {
            name: {s.name: s for s in Davis(root / name, "all", single_object=name == DAVIS)}
            for name in VIDEO_SHARES
        }
        for name in held_out:
            if self.videos[DAVIS].pop(name, None) is None:
                raise InputError(f"no sequence {name!r} at {root / DAVIS} to hold out")
        self._read: dict[Path, ImageArray] = {}

    def image(self, path: Path) -> ImageArray:
        """(H, W, 3) uint8 RGB."""
        return self._kept(path, read_image)

    def label(self, path: Path) -> ImageArray:
        """(H, W) label values."""
        return self._kept(path, read_values)

    def _kept(self, path: Path, read: Callable[[Path], ImageArray]) -> ImageArray:
        if path not in self._read:
            self._read[path] = read(path)
        return self._read[path]

    def video(self, rng: np.random.Generator) -> MaskSequence:
        """A sequence: of a source by its share, each sequence of it as likely as any other."""
        source = rng.choice(len(VIDEO_SHARES), p=list(VIDEO_SHARES.values()))
        return _any(rng, list(self.videos[list(VIDEO_SHARES)[source]].values()))

    def ids(self, video: MaskSequence, index: int) -> ImageArray:
        """(H, W) object ids of a frame, 0 for none."""
        label = self.label(video.annotations[index])
        return (label > 0).astype(np.uint8) if video.single_object else label

    def scene(self, rng: np.random.Generator) -> tuple[ImageArray, ImageArray]:
        """An image (h, w, 3) of several objects, and their ids (h, w), 0 for none.

        It is mostly of `coco-mini`; the others are few but exact.
        """
        still = _any(rng, self.first_frames if rng.random() < FIRST_FRAME_SHARE else self.coco)
        return self.image(still.image), self.label(still.label)

    def any_image(self, rng: np.random.Generator) -> ImageArray:
        """An image to move things over: BSDS most often, a DAVIS frame or another still."""
        choice = rng.random()
        if choice < 0.35:
            return self._davis_object(rng).image
        return self.image(_any(rng, self.regions if choice < 0.85 else self.objects).image)

    def object(self, rng: np.random.Generator) -> Cutout | None:
        """An object of a scene, of a DAVIS frame or of a still; None if it is too small."""
        choice = rng.random()
        if choice < 0.5:
            return self.scene_object(rng)
        if 0.7 <= choice < 0.76:
            return self.nucleus(rng)
        cutout = self._davis_object(rng) if choice < 0.7 else self._whole(_any(rng, self.objects))
        return cutout if cutout.mask.mean() > LEAST_AREA else None

    def scene_object(self, rng: np.random.Generator) -> Cutout | None:
        """One object of an image of several; None if it is too small to be cut out."""
        if rng.random() < FIRST_FRAME_SHARE:
            still = _any(rng, self.first_frames)
            numbers = np.setdiff1d(self.label(still.label), [0])
            return self._cut(still, _any(rng, numbers.tolist()))
        if rng.random() < 0.5:
            category = _any(rng, list(self._by_category))
            return self._cut(*_any(rng, self._by_category[category]), category)
        still = _any(rng, self.coco)
        number, category = _any(rng, list(self._categories[still.image.name].items()))
        return self._cut(still, int(number), category)

    def alike(self, rng: np.random.Generator, cutout: Cutout) -> Cutout | None:
        """Another object of the cut-out's category, or the same one where none is known."""
        if cutout.category in self._by_category:
            return self._cut(*_any(rng, self._by_category[cutout.category]), cutout.category)
        stills = [still for still in self.objects if still.category == cutout.category]
        if not stills:
            return cutout
        other = self._whole(_any(rng, stills))
        return other if other.mask.any() else None

    def _whole(self, still: Still) -> Cutout:
        mask = (self.label(still.label) > 0).astype(np.uint8)
        return Cutout(self.image(still.image), mask, still.category)

    def _cut(self, still: Still, number: int, category: str = "object") -> Cutout | None:
        mask = (self.label(still.label) == number).astype(np.uint8)
        if mask.mean() < LEAST_CUT_AREA:
            return None
        return Cutout(self.image(still.image), mask, category)

    def _davis_object(self, rng: np.random.Generator) -> Cutout:
        video = _any(rng, list(self.videos[DAVIS].values()))
        index = int(rng.integers(len(video.images)))
        return Cutout(self.image(video.images[index]), self.ids(video, index))

    def nucleus(self, rng: np.random.Generator) -> Cutout | None:
        """One nucleus, or one with its nearest neighbours."""
        still = _any(rng, self.nuclei)
        label = self.label(still.label)
        counts = np.bincount(label.ravel())
        counts[0] = 0
        ids = np.flatnonzero(counts > LEAST_AREA * label.size)
        if len(ids) == 0:
            return None
        mask = label == _any(rng, ids.tolist())
        if rng.random() < 0.3:
            reach = int(min(label.shape) * rng.uniform(0.03, 0.1)) * 2 + 1
            near = cv2.dilate(mask.astype(np.uint8), np.ones((reach, reach), np.uint8)) > 0
            mask = np.isin(label, np.setdiff1d(label[near], [0]))
        return Cutout(self.image(still.image), mask.astype(np.uint8), still.category)

    def region(self, rng: np.random.Generator) -> Cutout | None:
        """A connected region of a BSDS image, of `REGION_AREA`."""
        still = _any(rng, self.regions)
        label = self.label(still.label)
        share = np.bincount(label.ravel()) / label.size
        ids = np.flatnonzero((share > REGION_AREA[0]) & (share < REGION_AREA[1]))
        if len(ids) == 0:
            return None
        mask = largest_part((label == _any(rng, ids.tolist())).astype(np.uint8))
        if mask.mean() < REGION_AREA[0]:
            return None
        return Cutout(self.image(still.image), mask, still.category)


def _any(rng: np.random.Generator, choices: Sequence[Choice]) -> Choice:
    """One of a sequence, each as likely as any other."""
    return choices[int(rng.integers(len(choices)))]


def largest_part(mask: ImageArray) -> ImageArray:
    """The largest connected part of a binary mask that is not empty."""
    _, parts, stats, _ = cv2.connectedComponentsWithStats(mask)
    return (parts == 1 + stats[1:, cv2.CC_STAT_AREA].argmax()).astype(np.uint8)


def labelled_images(folder: Path, category: str) -> list[Still]:
    """The images of a folder that have a label, by name; InputError if there are none."""
    labels = {path.stem: path for path in (folder / "labels").glob("*.png")}
    images = sorted((folder / "images").glob("*"))
    stills = [Still(path, labels[path.stem], category) for path in images if path.stem in labels]
    if not stills:
        raise InputError(f"no labelled images at {folder}; it needs images/ and labels/")
    if lacking := [path.name for path in images if path.stem not in labels]:
        warn(f"{folder}: {len(lacking)} images without a label are left out, such as {lacking[0]}")
    return stills


def held_out_images(root: Path) -> list[Still]:
    """The images of `coco-mini` that are for measuring: every tenth by name, at most sixty."""
    return _held_out(labelled_images(root / COCO, "object"))


def _held_out(coco: list[Still]) -> list[Still]:
    return coco[::HELD_OUT_EVERY][:MOST_HELD_OUT]
