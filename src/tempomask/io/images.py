"""Images on disk: frames and masks read, label maps and masks written as PNG.

A label map is int32 (H, W): the object id of each pixel, 0 for none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tempomask.errors import InputError
from tempomask.files import replacing
from tempomask.frames import Frame, Size

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff")
    + (".ppm", ".pgm", ".pnm", ".tga", ".jp2", ".avif")
)

# Largest ids of a palette PNG and of a 16-bit PNG.
MAX_PALETTE_ID = 255
MAX_ID = 65535

# White among the ids of a grey image is usual for pixels that count for nothing; with more shades
# than this beside it, the image is one mask with soft edges.
_MOST_IDS_WITH_WHITE = 32

# Fast to write, and within a few percent of the smallest file: label maps have long runs.
_COMPRESSION = 3

# The tag of EXIF that says how an image is turned.
_ORIENTATION = 0x0112


@contextmanager
def opened(path: str | Path) -> Iterator[Image]:
    """The one way to open an image file; InputError if PIL cannot read it, also later on."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            yield image
    except InputError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise unreadable(path, error) from None


def image_size(path: str | Path) -> Size:
    """(H, W) of an image as it is shown, from its header alone; InputError if it has none."""
    with opened(path) as image:
        width, height = image.size
        # Reading EXIF data that comes after the pixels would decode the whole image.
        turned = "exif" in image.info and image.getexif().get(_ORIENTATION, 1) > 4
    return (width, height) if turned else (height, width)


def read_image(path: str | Path) -> Frame:
    """An image as RGB, uint8 (H, W, 3), turned as its EXIF data says; transparency is dropped."""
    from PIL import ImageOps

    with opened(path) as image:
        if "exif" in image.info:
            image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):
            # Grey values of up to 16 bits; PIL itself would clip them at 255.
            grey = np.asarray(image)
            scaled = grey >> 8 if grey.max(initial=0) > 255 else grey
            return np.repeat(scaled.astype(np.uint8)[..., None], 3, axis=2)
        return np.array(image.convert("RGB"))


def read_mask(path: str | Path) -> NDArray[np.int32]:
    """A label map from an image file; one object that is drawn in white has the id 1.

    Palette, grey, black-and-white and 16-bit images give their pixel values as ids. An image of
    nothing but black and white, of any mode, is a plain mask: white becomes 1.

    Args:
        path: Of the image.

    Returns:
        int32 (H, W).

    Raises:
        InputError: For a missing or unreadable file, for colours (ids cannot be told from them),
            and for JPEG and masks with soft edges (their shades of grey would be ids).
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no such mask: {path}; check the path")
    with opened(path) as image:
        kind, mode = image.format, image.mode
        values: NDArray[Any] = np.asarray(image)
    if kind in ("JPEG", "MPO"):
        raise InputError(f"the mask {path} is a JPEG, which blurs ids; save it as PNG")
    if mode in ("LA", "RGB", "RGBA"):
        values = _black_and_white(values, mode)
    if values.ndim != 2 or values.dtype.kind not in "biu":
        raise InputError(
            f"the mask {path} is an image of kind {mode}; ids cannot be read from colours: save it"
            " in black and white alone, or as a palette or grey PNG whose pixel values are the"
            " object ids"
        )
    labels = values.astype(np.int32)
    if mode == "L" and labels.max(initial=0) == 255:
        shades = np.count_nonzero(np.bincount(labels.ravel(), minlength=256)[1:255])
        if shades > _MOST_IDS_WITH_WHITE:
            raise InputError(
                f"the mask {path} has soft edges ({shades} shades between black and white), which"
                " would be as many objects; save it in black and white alone"
            )
        if not shades:
            labels[labels == 255] = 1
    return labels


def unreadable(path: str | Path, error: BaseException) -> InputError:
    """The error for an image that PIL cannot read."""
    reason = "it is empty" if Path(path).stat().st_size == 0 else str(error).split("\n")[0]
    if "cannot identify" in reason:
        reason = "unknown format or damaged header"
    return InputError(f"cannot read the image {path}: {reason}; replace or remove the file")


def write_label_png(path: str | Path, labels: NDArray[np.integer[Any]]) -> None:
    """Write a label map as PNG: with DAVIS's palette, or 16-bit grey for ids above 255.

    Args:
        path: Of the file, which appears whole or not at all.
        labels: (H, W) integers from 0 to 65535.

    Raises:
        InputError: For ids out of range, and for other shapes.
    """
    from PIL import Image

    labels = np.asarray(labels)
    if labels.ndim != 2 or labels.dtype.kind not in "biu" or not labels.size:
        raise InputError(
            f"a label map is (H, W) integers, got shape {labels.shape} and type {labels.dtype}"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high > MAX_ID:
        raise InputError(
            f"object id {low if low < 0 else high} does not fit a mask image (0 to {MAX_ID});"
            ' use ids in that range, or the format "objects" with one folder per object'
        )
    if high > MAX_PALETTE_ID:
        image = Image.fromarray(labels.astype(np.uint16))
    else:
        image = Image.fromarray(labels.astype(np.uint8))
        image.putpalette(davis_palette().tobytes())
    save_png(path, image)


def write_mask_png(path: str | Path, mask: NDArray[np.bool_]) -> None:
    """Write one object's mask bool (H, W) as a grey PNG of 0 and 255."""
    save_png(path, np.where(mask, np.uint8(255), np.uint8(0)))


def save_png(path: str | Path, image: Any) -> None:
    """Write a PIL image, or an array that PIL takes, as PNG, whole or not at all."""
    from PIL import Image

    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    with replacing(path) as part:
        image.save(part, format="PNG", compress_level=_COMPRESSION)


@cache
def davis_palette() -> NDArray[np.uint8]:
    """The palette of DAVIS and PASCAL VOC, uint8 (256, 3): bits of the id dealt to R, G, B."""
    ids = np.arange(256)
    palette = np.zeros((256, 3), dtype=np.uint8)
    for bit in range(8):
        for channel in range(3):
            ones = ids >> (3 * bit + channel) & 1
            palette[:, channel] |= (ones << (7 - bit)).astype(np.uint8)
    palette.setflags(write=False)
    return palette


def _black_and_white(values: NDArray[Any], mode: str) -> NDArray[Any]:
    """Ones where an opaque image of black and white alone is white; others as they are."""
    colours = values if mode == "RGB" else values[..., :-1]
    grey = colours[..., 0]
    opaque = mode == "RGB" or (values[..., -1] == 255).all()
    if opaque and (colours == grey[..., None]).all() and np.isin(grey, (0, 255)).all():
        return (grey == 255).astype(np.uint8)
    return values
