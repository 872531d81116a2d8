"""Masks on disk: label maps as PNG in the DAVIS layout, and COCO run-length encoding (`rle.py`).

A label map is int32 (H, W): the object id of each pixel, 0 for none.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tempomask.errors import InputError
from tempomask.files import replacing
from tempomask.io.folder import unreadable
from tempomask.rle import RLE, decode_rle, encode_rle

__all__ = [
    "RLE",
    "davis_palette",
    "decode_rle",
    "encode_rle",
    "read_mask",
    "save_png",
    "write_label_png",
    "write_mask_png",
]

# Largest ids of a palette PNG and of a 16-bit PNG.
MAX_PALETTE_ID = 255
MAX_ID = 65535

# White among the ids of a grey image is usual for pixels that count for nothing; with more shades
# than this beside it, the image is one mask with soft edges.
_MOST_IDS_WITH_WHITE = 32

# Fast to write, and within a few percent of the smallest file: label maps have long runs.
_COMPRESSION = 3


def read_mask(path: str | Path) -> NDArray[np.int32]:
    """A label map from an image file; one object that is drawn in white has the id 1.

    Palette, grey, black-and-white and 16-bit images give their pixel values as ids. An image of
    nothing but black and white, of any mode, is a plain mask: white becomes 1.

    Raises InputError for a missing or unreadable file, for colours (ids cannot be told from them),
    and for JPEG and masks with soft edges (their shades of grey would be ids).
    """
    from PIL import Image

    path = Path(path)
    if not path.is_file():
        raise InputError(f"no such mask: {path}; check the path")
    try:
        with Image.open(path) as image:
            kind, mode = image.format, image.mode
            values = np.asarray(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise unreadable(path, error) from None
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


def _black_and_white(values: NDArray[Any], mode: str) -> NDArray[Any]:
    """Ones where an opaque image of black and white alone is white; others as they are."""
    colours = values if mode == "RGB" else values[..., :-1]
    grey = colours[..., 0]
    opaque = mode == "RGB" or (values[..., -1] == 255).all()
    if opaque and (colours == grey[..., None]).all() and np.isin(grey, (0, 255)).all():
        return (grey == 255).astype(np.uint8)
    return values


def write_label_png(path: str | Path, labels: NDArray[np.integer[Any]]) -> None:
    """Write a label map (H, W) as PNG: with DAVIS's palette, or 16-bit grey for ids above 255.

    Raises InputError for ids below 0 or above 65535, and for other shapes.
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
    from PIL import Image

    save_png(path, Image.fromarray(np.where(mask, np.uint8(255), np.uint8(0))))


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
    for place in range(8):
        for channel in range(3):
            bit = ids >> (3 * place + channel) & 1
            palette[:, channel] |= (bit << (7 - place)).astype(np.uint8)
    palette.setflags(write=False)
    return palette
