"""Images with the masks of their objects: COCO-style JSON, SA-1B, or folders of label maps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tempomask.data.segmentations import mask_of
from tempomask.errors import InputError, place
from tempomask.files import read_json
from tempomask.frames import Size
from tempomask.io.images import image_size, read_values
from tempomask.io.sources import list_images
from tempomask.schema import inner_path

# Folders of images, and of a label map of the same name for each.
LAYOUTS = (("images", "labels"), ("JPEGImages", "Annotations"))
_COCO = {
    "images": [{"id": object, "file_name?": inner_path, "coco_url?": str}],
    "annotations": [{"image_id": object, "segmentation": object, "iscrowd?": object}],
}


@dataclass(frozen=True)
class LabelledImage:
    """An image and how to read its masks.

    Attributes:
        name: Of the image in its set.
        path: To the image.
        read: Gives the masks of its objects, by their ids, at its size; empty ones are left out.
    """

    name: str
    path: Path
    read: Callable[[], dict[int, NDArray[np.bool_]]]


@dataclass(frozen=True)
class ImageSet:
    """A set of labelled images."""

    name: str
    images: tuple[LabelledImage, ...]


def image_sets(root: str | Path) -> list[ImageSet]:
    """The sets that a path holds: a JSON file, a folder of one set, or a folder of several.

    Args:
        root: A COCO or LVIS JSON file, whose images lie beside it or in images/; or a folder with
            images/ and labels/, or JPEGImages/ and Annotations/, or of SA-1B's images with a JSON
            file beside each; or a folder of such.

    Raises:
        InputError: There is none, a file is missing, or a JSON file is of another kind.
    """
    root = Path(root)
    if root.is_file():
        return [_coco(root)]
    own = _of_folder(root)
    if own is not None:
        return [own]
    inside = sorted(root.iterdir()) if root.is_dir() else []
    sets = [one for path in inside if path.is_dir() and (one := _of_folder(path)) is not None]
    sets += [_coco(path) for path in inside if path.suffix == ".json"]
    if not sets:
        raise InputError(
            f"no labelled images at {root}; give a COCO JSON file, or a folder with images/ and"
            " labels/, or of such folders"
        )
    return sets


def _of_folder(folder: Path) -> ImageSet | None:
    """The set of a folder of label maps, or of SA-1B; None if it is laid out otherwise."""
    if is_sa1b(folder):
        return _sa1b(folder)
    for images, labels in LAYOUTS:
        if not (folder / images).is_dir() or not (folder / labels).is_dir():
            continue
        listed = []
        for path in list_images(folder / images):
            truth = folder / labels / f"{path.stem}.png"
            if not truth.is_file():
                raise InputError(f"the image {path} has no label map {truth}")
            found, size = image_size(truth), image_size(path)
            if found != size:
                raise InputError(
                    f"{truth} has {found[1]} x {found[0]} pixels, its image {size[1]} x {size[0]}"
                )
            listed.append(LabelledImage(path.stem, path, _label_map(truth)))
        return ImageSet(folder.name, tuple(listed))
    return None


def is_sa1b(folder: Path) -> bool:
    """Whether a folder holds images of SA-1B, `sa_ID.jpg`, or their annotations."""
    return any(folder.glob("sa_*.jpg")) or any(folder.glob("sa_*.json"))


def _sa1b(folder: Path) -> ImageSet:
    images = {path.stem: path for path in sorted(folder.glob("sa_*.jpg"))}
    annotations = {path.stem: path for path in folder.glob("sa_*.json")}
    for name in sorted(images.keys() ^ annotations.keys()):
        lacking = "json" if name in images else "jpg"
        raise InputError(f"{folder}: there is no {name}.{lacking}; images and masks must pair")
    listed = (
        LabelledImage(n, path, _run_lengths(path, annotations[n])) for n, path in images.items()
    )
    return ImageSet(folder.name, tuple(listed))


def _run_lengths(image: Path, annotations: Path) -> Callable[[], dict[int, NDArray[np.bool_]]]:
    def read() -> dict[int, NDArray[np.bool_]]:
        content = read_json(annotations, "the masks", {"annotations": [{"segmentation": object}]})
        rows = [(k, row["segmentation"]) for k, row in enumerate(content["annotations"], 1)]
        return dict(_masks(rows, image_size(image), str(annotations)))

    return read


def _label_map(truth: Path) -> Callable[[], dict[int, NDArray[np.bool_]]]:
    def read() -> dict[int, NDArray[np.bool_]]:
        labels = read_values(truth)
        return {int(i): labels == i for i in np.unique(labels) if i}

    return read


def _coco(path: Path) -> ImageSet:
    content = read_json(path, "the annotations", _COCO)
    by_image: dict[Any, list[tuple[int, Any]]] = {image["id"]: [] for image in content["images"]}
    for number, annotation in enumerate(content["annotations"], 1):
        if annotation["image_id"] not in by_image:
            raise InputError(f"{path}: annotation {number} is of no image in the list")
        if not annotation.get("iscrowd"):
            by_image[annotation["image_id"]].append((number, annotation["segmentation"]))
    listed = []
    for image in content["images"]:
        name = image.get("file_name") or image.get("coco_url", "").rpartition("/")[2]
        places = [folder / name for folder in (path.parent, path.parent / "images")]
        found = next((one for one in places if one.is_file()), None)
        if found is None:
            raise InputError(f"{path}: no image {name!r} beside it or in images/")
        listed.append(LabelledImage(name, found, _drawn(found, by_image[image["id"]])))
    return ImageSet(path.stem, tuple(listed))


def _drawn(
    image: Path, segmentations: list[tuple[int, Any]]
) -> Callable[[], dict[int, NDArray[np.bool_]]]:
    def read() -> dict[int, NDArray[np.bool_]]:
        size = image_size(image)
        return dict(_masks(segmentations, size, str(image)))

    return read


def _masks(
    segmentations: list[tuple[int, Any]], size: Size, name: str
) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    for number, segmentation in segmentations:
        with place(f"{name}, annotation {number}"):
            polygons = isinstance(segmentation, list) and bool(segmentation)
            mask = _filled(segmentation, size) if polygons else mask_of(segmentation, size)
        if mask.any():
            yield number, mask


def _filled(polygons: list[Any], size: Size) -> NDArray[np.bool_]:
    """Polygons, drawn as COCO draws them."""
    try:
        from pycocotools import mask as coco
    except ImportError:
        raise InputError("polygons need `pip install pycocotools`, or run lengths") from None
    try:
        parts: Any = coco.frPyObjects(polygons, *size)
        return coco.decode(coco.merge(parts)).astype(bool)
    except Exception as error:
        raise InputError(f"not a list of polygons x0, y0, x1, y1 ...: {error}") from None
