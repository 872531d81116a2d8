"""COCO's instances as pseudo-video: one image under a moving camera, as T frames.

Used to train video instance segmentation with more images than videos have (VITA, DVIS++): each
frame is another affine view of the same image, and its instances keep their identity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from tempomask.data import opencv as cv2
from tempomask.data.colour import ColourJitter, vary_colour
from tempomask.data.instance_clip import InstanceClip, clip_with_an_instance, instances_in_view
from tempomask.data.motion import Matrix, Placement, Stage, affine_path, keep_inside, warp
from tempomask.data.segmentations import mask_of
from tempomask.data.sequences import read_sized
from tempomask.data.youtube_vis import plain_name, read_content
from tempomask.errors import InputError, place
from tempomask.frames import Size

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

    Attributes:
        classes: Names that labels point to.
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
    ) -> None:
        """Choose the images that have an instance of a class.

        Args:
            annotations: instances_train2017.json or alike.
            images: The folder of its images.
            classes: Such as those of YouTube-VIS: instances of others are left out; None takes
                COCO's own.
            image_size: Side S of the frames.
            num_frames: T.
            motion: Strength of the camera's motion between frames.
            seed: Of all random choices.

        Raises:
            InputError: The file has another format, or no image has an instance of a class.
        """
        parts = ("images", "annotations", "categories")
        content = read_content(Path(annotations), parts, "the format of COCO's instances")
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
        self.seed = seed

    def __len__(self) -> int:
        """One clip an image; larger indices give further clips."""
        return len(self.images)

    def __getitem__(self, index: int) -> InstanceClip:
        cv2.setNumThreads(0)
        rng = np.random.default_rng((self.seed, index))
        entry = self.images[int(rng.integers(len(self.images)))]
        image = read_sized(self.folder / entry.file_name, entry.size, f"image {entry.id}")
        with place(f"image {entry.id} ({entry.file_name})"):
            masks = [mask_of(segmentation, entry.size) for segmentation in entry.segmentations]
        return clip_with_an_instance(lambda: self._clip(rng, image, masks, entry.labels))

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
        placement = Placement(
            anchor=(width * rng.uniform(0.3, 0.7), height * rng.uniform(0.3, 0.7)),
            target=(self.side / 2, self.side / 2),
            scale=self.side / min(size) * float(np.exp(rng.uniform(0, np.log(1.6)))),
            mirrored=bool(rng.random() < 0.5),
        )
        path = affine_path(rng, self.num_frames, stage, placement, rng.uniform(0, self.motion))
        return keep_inside(path, size, stage)


def labels_of(names: Mapping[int, str], classes: Sequence[str]) -> dict[int, int]:
    """The label of each COCO category that is among the classes; names differ in spelling too."""
    places = {plain_name(name): label for label, name in enumerate(classes)}
    labels = {}
    for category, name in names.items():
        for candidate in (name, *OTHER_NAMES.get(name, ())):
            if plain_name(candidate) in places:
                labels[category] = places[plain_name(candidate)]
                break
    return labels


def _images(content: dict[str, Any], labels: Mapping[int, int]) -> list[CocoImage]:
    """The images that have an instance of a class, crowds left out."""
    found: dict[int, list[tuple[Any, int]]] = {}
    try:
        for entry in content["annotations"]:
            if entry["category_id"] in labels and not entry.get("iscrowd", 0):
                known = entry["segmentation"], labels[entry["category_id"]]
                found.setdefault(entry["image_id"], []).append(known)
        return [
            CocoImage(
                image["id"],
                image["file_name"],
                (image["height"], image["width"]),
                *zip(*found[image["id"]], strict=True),
            )
            for image in content["images"]
            if image["id"] in found
        ]
    except (KeyError, TypeError) as error:
        raise InputError(f"an entry of the COCO instances file lacks {error}") from None
