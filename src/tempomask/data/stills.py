"""Images and video with masks for training: stills of one and of several objects, and sequences.

Expects a folder with `SET/{images,labels}` for the stills (those of one object in `stills-256`),
and `SET/{JPEGImages,Annotations}/SEQUENCE` for the video.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tempomask.errors import InputError
from tempomask.io.images import read_image, read_values

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
# Stills of several objects with an id each; the second set is small and exact.
COCO, FIRST_FRAMES = "coco-mini", "davis17-challenge-first"
FIRST_FRAME_SHARE = 0.12
# Video, and how often each set is drawn from: regions that are no clean objects are rare.
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


class Scene(NamedTuple):
    """An image (h, w, 3) uint8 RGB and the ids (h, w) of its objects, 0 for none."""

    image: ImageArray
    ids: ImageArray


class Video(NamedTuple):
    """Frames and label maps of one sequence, in order; single: every label is object 1."""

    images: list[Path]
    labels: list[Path]
    single: bool


class ImageLibrary:
    """Lists the labelled images and video under a root, reads each once, and draws from them.

    held_out: names of DAVIS 2016 sequences to leave out; of `coco-mini`, `held_out_images` are left
    out always. InputError when a part is missing.

    objects: stills of one object; scenes: of several, each with an id.
    """

    def __init__(self, root: Path, held_out: Collection[str] = ()) -> None:
        self.objects = [s for name, kind in OBJECTS.items() for s in list_stills(root, name, kind)]
        self.nuclei = list_stills(root, NUCLEI, "nucleus")
        self.regions = list_stills(root, REGIONS, "region")
        coco = labelled_images(root / COCO, "object")
        apart = {still.image for still in held_out_images(root)}
        self.first_frames = labelled_images(root / FIRST_FRAMES, "object")
        self._categories: dict[str, dict[str, str]] = json.loads(
            (root / COCO / "categories.json").read_text()
        )
        named = {name for name, objects in self._categories.items() if objects}
        self.coco = [s for s in coco if s.image not in apart and s.image.name in named]
        self._by_category = self._objects_by_category()
        self.videos = {
            name: list_videos(root / name, single=name == DAVIS, held_out=held_out)
            for name in VIDEO_SHARES
        }
        self._read: dict[Path, ImageArray] = {}

    def image(self, path: Path) -> ImageArray:
        """(H, W, 3) uint8 RGB."""
        if path not in self._read:
            self._read[path] = read_image(path)
        return self._read[path]

    def label(self, path: Path) -> ImageArray:
        """(H, W) label values."""
        if path not in self._read:
            self._read[path] = read_values(path)
        return self._read[path]

    def video(self, rng: np.random.Generator) -> Video:
        """A sequence: of a source by its share, each sequence of it as likely as any other."""
        source = rng.choice(len(VIDEO_SHARES), p=list(VIDEO_SHARES.values()))
        videos = list(self.videos[list(VIDEO_SHARES)[source]].values())
        return videos[rng.integers(len(videos))]

    def ids(self, video: Video, index: int) -> ImageArray:
        """(H, W) object ids of a frame, 0 for none."""
        label = self.label(video.labels[index])
        return (label > 0).astype(np.uint8) if video.single else label

    def scene(self, rng: np.random.Generator) -> Scene:
        """An image of several objects: mostly of `coco-mini`, the others are few but exact."""
        stills = self.first_frames if rng.random() < FIRST_FRAME_SHARE else self.coco
        still = stills[rng.integers(len(stills))]
        return Scene(self.image(still.image), self.label(still.label))

    def any_image(self, rng: np.random.Generator) -> ImageArray:
        """An image to move things over: BSDS most often, a DAVIS frame or another still."""
        choice = rng.random()
        if choice < 0.35:
            return self._davis_object(rng).image
        stills = self.regions if choice < 0.85 else self.objects
        return self.image(stills[rng.integers(len(stills))].image)

    def object(self, rng: np.random.Generator) -> Cutout | None:
        """An object of a scene, of a DAVIS frame or of a still; None if it is too small."""
        choice = rng.random()
        if choice < 0.5:
            return self.scene_object(rng)
        if choice < 0.7:
            cutout = self._davis_object(rng)
        elif choice < 0.76:
            return self.nucleus(rng)
        else:
            still = self.objects[rng.integers(len(self.objects))]
            mask = (self.label(still.label) > 0).astype(np.uint8)
            cutout = Cutout(self.image(still.image), mask, still.category)
        return cutout if cutout.mask.mean() > LEAST_AREA else None

    def scene_object(self, rng: np.random.Generator) -> Cutout | None:
        """One object of an image of several; None if it is too small to be cut out."""
        if rng.random() < FIRST_FRAME_SHARE:
            still = self.first_frames[rng.integers(len(self.first_frames))]
            numbers = np.setdiff1d(self.label(still.label), [0])
            return self._cut(still, int(numbers[rng.integers(len(numbers))]), "object")
        names = list(self._by_category)
        category = names[rng.integers(len(names))] if rng.random() < 0.5 else None
        if category is None:
            still = self.coco[rng.integers(len(self.coco))]
            known = list(self._categories[still.image.name].items())
            number, category = known[rng.integers(len(known))]
            return self._cut(still, int(number), category)
        return self._of_category(rng, category)

    def alike(self, rng: np.random.Generator, cutout: Cutout) -> Cutout | None:
        """Another object of the cut-out's category, or the same one where none is known."""
        if cutout.category in self._by_category:
            return self._of_category(rng, cutout.category)
        stills = [still for still in self.objects if still.category == cutout.category]
        if not stills:
            return cutout
        still = stills[rng.integers(len(stills))]
        mask = (self.label(still.label) > 0).astype(np.uint8)
        return Cutout(self.image(still.image), mask, still.category) if mask.any() else None

    def _objects_by_category(self) -> dict[str, list[tuple[Still, int]]]:
        found: dict[str, list[tuple[Still, int]]] = {}
        for still in self.coco:
            for number, category in self._categories[still.image.name].items():
                found.setdefault(category, []).append((still, int(number)))
        return found

    def _of_category(self, rng: np.random.Generator, category: str) -> Cutout | None:
        choices = self._by_category[category]
        still, number = choices[rng.integers(len(choices))]
        return self._cut(still, number, category)

    def _cut(self, still: Still, number: int, category: str) -> Cutout | None:
        mask = (self.label(still.label) == number).astype(np.uint8)
        if mask.mean() < LEAST_CUT_AREA:
            return None
        return Cutout(self.image(still.image), mask, category)

    def _davis_object(self, rng: np.random.Generator) -> Cutout:
        videos = list(self.videos[DAVIS].values())
        video = videos[rng.integers(len(videos))]
        index = int(rng.integers(len(video.images)))
        return Cutout(self.image(video.images[index]), self.ids(video, index))

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
    return labelled_images(root / "stills-256" / name, category)


def labelled_images(folder: Path, category: str) -> list[Still]:
    """The images of a folder that have a label, by name; InputError if there are none."""
    labels = {path.stem: path for path in (folder / "labels").glob("*.png")}
    stills = [
        Still(path, labels[path.stem], category)
        for path in sorted((folder / "images").glob("*"))
        if path.stem in labels
    ]
    if not stills:
        raise InputError(f"no labelled images at {folder}; it needs images/ and labels/")
    return stills


def held_out_images(root: Path) -> list[Still]:
    """The images of `coco-mini` that are for measuring: every tenth by name, at most sixty."""
    return labelled_images(root / COCO, "object")[::HELD_OUT_EVERY][:MOST_HELD_OUT]


def list_videos(root: Path, single: bool, held_out: Collection[str] = ()) -> dict[str, Video]:
    """The sequences of `root/{JPEGImages,Annotations}/NAME`, but for those held out.

    single: every label is object 1, and the names held out must be there. InputError without frames
    and for a frame without labels.
    """
    images = root / "JPEGImages"
    if not images.is_dir():
        raise InputError(f"no frames at {images}; give the folder that holds them")
    folders = [folder for folder in sorted(images.iterdir()) if folder.is_dir()]
    unknown = sorted(set(held_out) - {folder.name for folder in folders}) if single else ()
    if unknown:
        raise InputError(f"no sequence {unknown[0]!r} at {images} to hold out")
    videos = {}
    for folder in folders:
        if folder.name not in held_out:
            frames = sorted(folder.glob("*.jpg"))
            labels = [root / "Annotations" / folder.name / f"{path.stem}.png" for path in frames]
            videos[folder.name] = Video(frames, labels, single)
    return videos
