"""COCO's instances as pseudo-video: one image under a moving camera, as T frames.

Used to train video instance segmentation with more images than videos have (VITA, DVIS++): each
frame is another affine view of the same image, and its instances keep their identity.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from tempomask.data import opencv as cv2
from tempomask.data.colour import ColourJitter, vary_colour
from tempomask.data.instance_clip import InstanceClip
from tempomask.data.motion import Matrix, Placement, Stage, affine_path, keep_inside, warp
from tempomask.data.segmentations import mask_of
from tempomask.data.youtube_vis_clips import instances_in_view
from tempomask.errors import InputError
from tempomask.frames import Size
from tempomask.io.folder import read_image

ATTEMPTS = 10

# Classes that YouTube-VIS and OVIS call by other names. What has no counterpart there is left out.
OTHER_NAMES = {
    "car": ("sedan", "vehicle"),
    "motorcycle": ("motorbike",),
    "tennis racket": ("tennis_racket",),
    "frisbee": ("flying_disc",),
    "bus": ("vehicle",),
}


@dataclass(frozen=True)
class CocoImage:
    """One image with what is annotated in it: segmentations and labels, equally many."""

    id: int
    file_name: str
    size: Size
    segmentations: tuple[Any, ...]
    labels: tuple[int, ...]


class CocoPseudoVideos(Dataset[InstanceClip]):
    """Clips of T frames from a COCO instances file; clip i depends on the seed and i alone.

    annotations: instances_train2017.json or alike. images: the folder of its images.
    classes: names that labels point to, such as those of YouTube-VIS: instances of other classes
        are left out, and images without any; None takes COCO's own.
    image_size: side S. num_frames: T. motion: strength of the camera's motion between frames.
    length: what len() says, None for one clip an image; larger indices give further clips.

    Raises InputError for a file in another format, and if no image has an instance of a class.
    """

    def __init__(
        self,
        annotations: str | Path,
        images: str | Path,
        *,
        classes: Sequence[str] | None = None,
        image_size: int = 480,
        num_frames: int = 2,
        motion: float = 0.7,
        seed: int = 1,
        length: int | None = None,
    ) -> None:
        content = _read(Path(annotations))
        names = {category["id"]: str(category["name"]) for category in content["categories"]}
        self.classes = tuple(classes) if classes is not None else tuple(names.values())
        self.labels = labels_of(names, self.classes)
        self.folder = Path(images)
        if not self.folder.is_dir():
            raise InputError(f"no such folder of images: {images}")
        self.images = _images(content, self.labels)
        if not self.images:
            raise InputError(
                f"no image of {annotations} has an instance of {', '.join(self.classes[:5])} ..."
            )
        self.side, self.num_frames, self.motion = image_size, num_frames, motion
        self.seed, self.length = seed, length or len(self.images)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> InstanceClip:
        cv2.setNumThreads(0)
        rng = np.random.default_rng((self.seed, index))
        entry = self.images[int(rng.integers(len(self.images)))]
        image = self._image(entry)
        masks = [self._mask(entry, segmentation) for segmentation in entry.segmentations]
        clip = self._clip(rng, image, masks, entry.labels)
        for _ in range(ATTEMPTS - 1):
            if clip.present.any():
                break
            clip = self._clip(rng, image, masks, entry.labels)
        return clip

    def _clip(
        self,
        rng: np.random.Generator,
        image: NDArray[np.uint8],
        masks: Sequence[NDArray[np.bool_]],
        labels: Sequence[int],
    ) -> InstanceClip:
        path = self._camera(rng, (image.shape[0], image.shape[1]))
        size = (self.side, self.side)
        frames = np.stack([warp(image, matrix, size) for matrix in path])
        frames = vary_colour(rng, frames, ColourJitter(drift=0.01, flicker=0.01))
        # Beyond the image it is continued by its mirror image, in which instances do not count.
        full = [mask.astype(np.uint8) * np.uint8(255) for mask in masks]
        shown = np.stack(
            [
                np.stack([warp(mask, matrix, size, empty_border=True) > 127 for mask in full])
                for matrix in path
            ]
        )
        return instances_in_view(frames, shown, labels)

    def _camera(self, rng: np.random.Generator, size: Size) -> list[Matrix]:
        """T views of an image (H, W) that stay inside it."""
        height, width = size
        stage = Stage.plain(self.side, self.side)
        place = Placement(
            anchor=(width * rng.uniform(0.3, 0.7), height * rng.uniform(0.3, 0.7)),
            target=(self.side / 2, self.side / 2),
            scale=self.side / min(size) * float(np.exp(rng.uniform(0, np.log(1.6)))),
            mirrored=bool(rng.random() < 0.5),
        )
        path = affine_path(rng, self.num_frames, stage, place, rng.uniform(0, self.motion))
        return keep_inside(path, size, stage)

    def _image(self, entry: CocoImage) -> NDArray[np.uint8]:
        path = self.folder / entry.file_name
        if not path.is_file():
            raise InputError(f"no image {path} of image {entry.id}; add it")
        image = read_image(path)
        if image.shape[:2] != entry.size:
            raise InputError(
                f"{path} has {image.shape[1]} x {image.shape[0]} pixels, image {entry.id} says"
                f" {entry.size[1]} x {entry.size[0]}; take the images that belong to the file"
            )
        return image

    def _mask(self, entry: CocoImage, segmentation: Any) -> NDArray[np.bool_]:
        try:
            return mask_of(segmentation, entry.size)
        except InputError as error:
            raise InputError(f"image {entry.id} ({entry.file_name}): {error}") from None


def labels_of(names: Mapping[int, str], classes: Sequence[str]) -> dict[int, int]:
    """The label of each COCO category that is among the classes; names differ in spelling too."""
    places = {_plain(name): label for label, name in enumerate(classes)}
    labels = {}
    for category, name in names.items():
        for candidate in (name, *OTHER_NAMES.get(name, ())):
            if _plain(candidate) in places:
                labels[category] = places[_plain(candidate)]
                break
    return labels


def _plain(name: str) -> str:
    return name.casefold().replace("_", " ").strip()


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read annotations {path}: {error.strerror or error}") from None
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}; the file may be cut off") from None
    for part in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(part), list):
            raise InputError(f"{path} has no list of {part}; it is no COCO instances file")
    return content


def _images(content: dict[str, Any], labels: Mapping[int, int]) -> list[CocoImage]:
    """The images that have an instance of a class, crowds left out."""
    segmentations: dict[int, list[Any]] = {}
    found: dict[int, list[int]] = {}
    try:
        for entry in content["annotations"]:
            if entry["category_id"] in labels and not entry.get("iscrowd", 0):
                segmentations.setdefault(entry["image_id"], []).append(entry["segmentation"])
                found.setdefault(entry["image_id"], []).append(labels[entry["category_id"]])
        return [
            CocoImage(
                id=image["id"],
                file_name=image["file_name"],
                size=(image["height"], image["width"]),
                segmentations=tuple(segmentations[image["id"]]),
                labels=tuple(found[image["id"]]),
            )
            for image in content["images"]
            if image["id"] in found
        ]
    except (KeyError, TypeError) as error:
        raise InputError(f"an entry of the COCO instances file lacks {error}") from None
