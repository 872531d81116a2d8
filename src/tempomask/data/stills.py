"""Pictures with masks for training: stills by category, and the frames of DAVIS 2016 train.

Expects a folder with `stills-256/SET/{images,labels}` and
`davis16-train-256/{JPEGImages,Annotations}/SEQUENCE`.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tempomask.errors import InputError

# What a label value means: any non-zero pixel is the object; an id per instance; an id per region.
LabelKind = Literal["object", "instances", "regions"]
SETS: dict[str, tuple[str, LabelKind]] = {
    "person-ccp": ("person", "object"),
    "person-290": ("person", "object"),
    "horse-weizmann": ("horse", "object"),
    "nuclei-dsb2018": ("nucleus", "instances"),
    "regions-bsds500": ("region", "regions"),
}


class Still(NamedTuple):
    """One labelled picture on disk."""

    picture: Path
    label: Path
    category: str
    kind: LabelKind


class PictureLibrary:
    """Lists the labelled pictures under a root and reads them, each once.

    held_out: names of DAVIS sequences to leave out. InputError when a part is missing.
    """

    def __init__(self, root: Path, held_out: Collection[str] = ()) -> None:
        self.stills = {name: _list_stills(root, name) for name in SETS}
        davis = root / "davis16-train-256"
        pictures = davis / "JPEGImages"
        if not pictures.is_dir():
            raise InputError(f"no DAVIS frames at {pictures}; give the folder that holds them")
        self._annotations = davis / "Annotations"
        self.sequences = {
            folder.name: sorted(folder.glob("*.jpg"))
            for folder in sorted(pictures.iterdir())
            if folder.name not in held_out
        }
        self._read: dict[Path, NDArray[np.uint8]] = {}

    def picture(self, path: Path) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB."""
        if path not in self._read:
            self._read[path] = np.asarray(Image.open(path).convert("RGB"))
        return self._read[path]

    def label(self, path: Path) -> NDArray[np.uint8]:
        """(H, W) label values."""
        if path not in self._read:
            self._read[path] = np.asarray(Image.open(path))
        return self._read[path]

    def davis_mask(self, picture: Path) -> NDArray[np.uint8]:
        """(H, W) of zeros and ones for a frame of `sequences`."""
        path = self._annotations / picture.parent.name / f"{picture.stem}.png"
        return (self.label(path) > 0).astype(np.uint8)


def _list_stills(root: Path, name: str) -> list[Still]:
    folder = root / "stills-256" / name
    category, kind = SETS[name]
    labels = {path.stem: path for path in (folder / "labels").glob("*.png")}
    stills = [
        Still(path, labels[path.stem], category, kind)
        for path in sorted((folder / "images").glob("*"))
        if path.stem in labels
    ]
    if not stills:
        raise InputError(f"no labelled pictures at {folder}; it needs images/ and labels/")
    return stills
