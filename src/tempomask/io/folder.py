"""A folder of images (or one image) as a video: any names, in natural order."""

from __future__ import annotations

import re
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import numpy as np

from tempomask.errors import InputError
from tempomask.frames import Size
from tempomask.io.sources import Frame, IndexedFrames

PICTURE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff")
    + (".ppm", ".pgm", ".pnm", ".tga", ".jp2", ".avif")
)
VIDEO_SUFFIXES = frozenset(
    (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".gif")
)

AnyPath = str | PathLike[str]

_ORIENTATION = 0x0112


class ImageFolder:
    """Images of one size, read in natural order. See `sources.Source`.

    path: a folder, one image, or a list of images, which is taken in the order given.

    Raises InputError if there are no images, if one has no readable header, if two have different
    sizes, or if one name comes with two suffixes (frames and masks in one folder).
    """

    fps = None
    seekable = True
    live = False
    decodes = True

    def __init__(self, path: AnyPath | Sequence[AnyPath]) -> None:
        if isinstance(path, str | PathLike):
            self.name = str(path)
            self.paths = [Path(path)] if Path(path).is_file() else list_images(Path(path))
        else:
            self.name = "the list of images"
            self.paths = [Path(each) for each in path]
            for each in self.paths:
                if not each.is_file():
                    raise InputError(f"no such image: {each}; check the path")
        self.size = image_size(self.paths[0])
        for other in self.paths[1:]:
            self._check_size(other, image_size(other))

    @property
    def num_frames(self) -> int:
        return len(self.paths)

    def read(self, start: int, end: int | None) -> IndexedFrames:
        """Frames from `start` to before `end`; InputError for an image that cannot be decoded."""
        for index in range(start, len(self.paths) if end is None else min(end, len(self.paths))):
            yield index, self._read(index)

    def read_reversed(self, start: int | None, end: int) -> IndexedFrames:
        """Frames from `start` down to `end`."""
        for index in range(len(self.paths) - 1 if start is None else start, end - 1, -1):
            yield index, self._read(index)

    def close(self) -> None:
        """Nothing to do: no file stays open."""

    def _read(self, index: int) -> Frame:
        image = read_image(self.paths[index])
        self._check_size(self.paths[index], (image.shape[0], image.shape[1]))
        return image

    def _check_size(self, path: Path, size: Size) -> None:
        if size != self.size:
            raise InputError(
                f"frames of different sizes in {self.name}: {self.paths[0].name} has"
                f" {self.size[1]} x {self.size[0]} pixels, {path.name} has {size[1]} x {size[0]};"
                " bring them to one size, or take out those that do not belong"
            )


def list_images(folder: str | Path) -> list[Path]:
    """The images of a folder in natural order; InputError if there are none."""
    entries = sorted(Path(folder).iterdir(), key=lambda path: natural_key(path.name))
    visible = [path for path in entries if not path.name.startswith(".")]
    images = [p for p in visible if p.suffix.lower() in PICTURE_SUFFIXES and p.is_file()]
    if not images:
        raise InputError(f"no images (JPEG, PNG ...) in the folder {folder}{_hint(visible)}")
    by_stem: dict[str, Path] = {}
    for path in images:
        other = by_stem.setdefault(path.stem, path)
        if other is not path:
            raise InputError(
                f"{folder} holds both {other.name} and {path.name}; which one is the frame is not"
                " clear: keep frames in a folder of their own"
            )
    return images


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Key that sorts numbers inside names by value: frame2 before frame10."""
    parts = re.split(r"(\d+)", name.casefold())
    return [int(part) if part.isdecimal() else part for part in parts], name


def image_size(path: Path) -> Size:
    """(H, W) of an image as it is shown, from its header alone."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            width, height = image.size
            # Reading EXIF data that comes after the pixels would decode the whole image.
            turned = "exif" in image.info and image.getexif().get(_ORIENTATION, 1) > 4
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise unreadable(path, error) from None
    return (width, height) if turned else (height, width)


def read_image(path: str | Path) -> Frame:
    """An image as RGB, uint8 (H, W, 3), turned as its EXIF data says; transparency is dropped."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            if "exif" in image.info:
                image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I"):
                return _from_16_bit(np.asarray(image))
            return np.array(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise unreadable(path, error) from None


def unreadable(path: str | Path, error: BaseException) -> InputError:
    """The error for an image that PIL cannot read."""
    reason = "it is empty" if Path(path).stat().st_size == 0 else str(error).split("\n")[0]
    if "cannot identify" in reason:
        reason = "unknown format or damaged header"
    return InputError(f"cannot read the image {path}: {reason}; replace or remove the file")


def _from_16_bit(grey: np.ndarray) -> Frame:
    """Grey values of up to 16 bits as RGB; PIL itself would clip them at 255."""
    scaled = grey >> 8 if grey.max(initial=0) > 255 else grey
    return np.repeat(scaled.astype(np.uint8)[..., None], 3, axis=2)


def _hint(visible: list[Path]) -> str:
    videos = [path.name for path in visible if path.suffix.lower() in VIDEO_SUFFIXES]
    if videos:
        return f"; it holds videos, give one of them: {videos[0]}"
    for path in visible:
        if path.is_dir() and any(p.suffix.lower() in PICTURE_SUFFIXES for p in path.iterdir()):
            return f"; its folder {path.name} holds some, give that one"
    return "; it holds other files only" if visible else "; it is empty"
