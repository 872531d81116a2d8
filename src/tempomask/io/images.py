"""Images on disk: frames and masks read, label maps and masks written as PNG.

A label map is int32 (H, W): the object id of each pixel, 0 for none.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tempomask.errors import InputError
from tempomask.files import check_regular, given_path, replacing
from tempomask.frames import Frame, Size
from tempomask.limits import check_limit

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff")
    + (".ppm", ".pgm", ".pnm", ".tga", ".jp2", ".avif")
)

# Largest ids of a palette PNG and of a 16-bit PNG.
MAX_PALETTE_ID = 255
MAX_ID = 65535

# Beside white, a grey image has no more ids than this, or it is not a label map; shades above this
# without any flat part are soft edges.
_MOST_IDS_WITH_WHITE = 32

_COMPRESSION = 3  # fast, and within a few percent of the smallest file: maps have long runs

_ORIENTATION = 0x0112  # the tag of EXIF that says how an image is turned

# What reading damaged bytes can raise in PIL.
_DAMAGE = (
    *(OSError, SyntaxError, ValueError, EOFError, MemoryError, ArithmeticError, LookupError),
    *(TypeError, AttributeError, struct.error, zlib.error),
)


@cache
def _formats() -> tuple[str, ...]:
    """The formats of PIL that are read; others run programs (EPS) or are rare and little tried."""
    from PIL import Image

    Image.init()
    wanted = ("JPEG", "MPO", "PNG", "BMP", "WEBP", "TIFF", "PPM", "TGA", "JPEG2000", "AVIF", "GIF")
    return tuple(name for name in wanted if name in Image.OPEN)


@contextmanager
def opened(path: str | Path) -> Iterator[Image]:
    """The one way to open an image file; InputError if PIL cannot read it, also later on."""
    from PIL import Image

    check_regular(path, "the image")
    try:
        # By its name, Pillow 13 maps uncompressed TIFF into memory and turns it wrong.
        with open(path, "rb") as file, Image.open(file, formats=_formats()) as image:
            check_limit("pixels", image.width * image.height, f"the image {path}")
            yield image
    except InputError:
        raise
    except (*_DAMAGE, Image.DecompressionBombError) as error:
        raise unreadable(path, error) from None


def image_size(path: str | Path) -> Size:
    """(H, W) of an image as it is shown, from its header alone; InputError if it has none."""
    with opened(path) as image:
        width, height = image.size
        return (width, height) if _orientation(image, path) > 4 else (height, width)


def page_count(path: str | Path) -> int:
    """How many images a file holds."""
    with opened(path) as image:
        return _pages(image)


def bit_depth(paths: Sequence[str | Path]) -> int | None:
    """The least of 8, 10, 12, 14 and 16 bits that holds the grey values of all images and pages.

    One scale for a sequence: with one for each image, brightness would jump. None, and nothing is
    decoded, where the first image has no more than 8 bits.
    """
    highest = 0
    for path in paths:
        with opened(path) as image:
            if path == paths[0] and not image.mode.startswith("I"):
                return None
            for page in _turned_to(image, range(_pages(image)), path):
                highest = max(highest, int(np.max(np.asarray(page))))
    return _bits(highest)


def read_image(path: str | Path, bits: int | None = None) -> Frame:
    """An image as it is shown, RGB, uint8 (H, W, 3): turned, and black where it is transparent.

    Args:
        path: Of the image.
        bits: Of grey images of more than 8 bits, see `bit_depth`; default, what this one needs.

    Raises:
        InputError: For an unreadable image, one of several pages, and for values beyond 16 bits, of
            floats beyond 0 to 1.
    """
    with opened(path) as image:
        return _as_frame(_single(image, path), path, bits)


def read_pages(path: str | Path, pages: range, bits: int | None = None) -> Iterator[Frame]:
    """The pages of a TIFF stack or an animation, each as from `read_image`."""
    with opened(path) as image:
        for page in _turned_to(image, pages, path):
            yield _as_frame(page, path, bits)


def read_values(path: str | Path) -> NDArray[Any]:
    """Pixel values (H, W) of a label image as they are stored: palette indices, shades of grey.

    Raises:
        InputError: Same as of `read_mask`, but any shades will do.
    """
    with _opened_mask(path) as image:
        return _checked_ids(np.asarray(image), image.mode, path)


def is_white_mask(path: str | Path) -> bool:
    """Whether a mask image shows one object in white on black."""
    return _read_mask(path)[1]


def read_mask(path: str | Path) -> NDArray[np.int32]:
    """A label map from an image file; one object that is drawn in white has the id 1.

    Palette, grey and 16-bit images give their pixel values as ids. An image of nothing but black
    and white, of any mode and palette, is a plain mask: white becomes 1. So is one with soft edges
    between them, which are cut in the middle.

    Args:
        path: Of the image.

    Returns:
        int32 (H, W), turned as frames are.

    Raises:
        InputError: For a missing or unreadable file, one of several pages, for colours (ids cannot
            be told from them), for JPEG, and for shades that are neither ids nor edges.
    """
    return _read_mask(path)[0]


def _read_mask(path: str | Path) -> tuple[NDArray[np.int32], bool]:
    """A label map, and whether it is one object in white."""
    with _opened_mask(path) as image:
        shown, values, mode = _shown_grey(image, path), np.asarray(image), image.mode
    if shown is not None and not shown.any():
        return np.zeros(shown.shape, np.int32), False
    white = None if shown is None else _white_part(shown, path)
    if white is not None:
        return white.astype(np.int32), True
    return _checked_ids(values, mode, path).astype(np.int32), False


def _shown_grey(image: Image, path: str | Path) -> NDArray[Any] | None:
    """Shades of grey (H, W) that a mask shows; None for colours, whose indices may still be ids."""
    if image.mode == "P":
        return _palette_grey(image, path)
    if image.mode == "L" or image.mode[0] in "IF":
        return shades if np.isfinite(shades := np.asarray(image)).all() else None
    shown = _over_black(image)
    grey = shown[..., 0]
    # Black on nothing cannot be told from nothing.
    blank = image.has_transparency_data and not grey.any()
    return None if blank or (shown != grey[..., None]).any() else grey


def _palette_grey(image: Image, path: str | Path) -> NDArray[Any] | None:
    """The shades that a palette image shows, if they are white and greys.

    InputError where index 0 is in use in another colour than black, and black as another index.
    """
    indices = np.asarray(image)
    palette = image.getpalette("RGB") or []
    colours = np.array(palette + [0] * (768 - len(palette)), np.uint8).reshape(256, 3)
    used = np.flatnonzero(np.bincount(indices.ravel(), minlength=256))
    shown = colours[used]
    if (shown == shown[:, :1]).all() and shown.max() == 255:
        return colours[indices, 0]
    black = used[~shown.any(axis=1)]
    if colours[0].any() and len(black) and used[0] == 0:
        raise InputError(
            f"the mask {path} shows black, the background, as index {black[0]} of its palette, and"
            f" index 0 in the colour {','.join(map(str, colours[0].tolist()))}; save it with black"
            " as index 0"
        )
    return None


def _white_part(values: NDArray[Any], path: str | Path) -> NDArray[np.bool_] | None:
    """Where a grey image (H, W) shows its one object in white; None for a map of ids."""
    from scipy import ndimage

    deep = values.dtype.itemsize > 1
    white = int(values.max(initial=0))
    if white != 255 and not (deep and white == MAX_ID):
        return None
    core, between = values == white, (values > 0) & (values < white)
    if not between.any():
        return core
    flat = ndimage.maximum_filter(values, 3) == ndimage.minimum_filter(values, 3)
    shades = np.unique(values[between])
    thin = not (between & flat).any() and shades[-1] > _MOST_IDS_WITH_WHITE
    if thin and np.count_nonzero(between) <= 2 * np.count_nonzero(core):
        return values > white // 2
    if not deep and (thin or len(shades) > _MOST_IDS_WITH_WHITE):
        raise InputError(
            f"the mask {path} has soft edges ({len(shades)} shades between black and white), which"
            " would be as many objects; save it in black and white alone"
        )
    return None


def _over_black(image: Image) -> Frame:
    """RGB (H, W, 3) of an image of 8 bits a channel, black where it is transparent."""
    from PIL import Image

    if image.has_transparency_data:
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image.convert("RGBA"))
    return np.array(image.convert("RGB"))


def _as_frame(image: Image, path: str | Path, bits: int | None) -> Frame:
    image = _upright(image, path)
    if image.mode != "F" and not image.mode.startswith("I"):
        return _over_black(image)
    # Grey of more than 8 bits, which PIL itself would clip at 255.
    grey = np.asarray(image)
    low, high = grey.min(initial=0), grey.max(initial=0)
    most = 1 if image.mode == "F" else MAX_ID
    if not (low >= 0 and high <= most):  # also refuses NaN
        raise InputError(
            f"the image {path} has values from {low:g} to {high:g}; grey images of its kind are"
            f" read from 0 to {most}: scale it to that"
        )
    if image.mode == "F":
        grey = np.rint(255 * grey)
    else:
        grey = np.minimum(grey >> ((bits or _bits(int(high))) - 8), 255)
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)


def _bits(highest: int) -> int:
    """The least of 8, 10, 12, 14 and 16 bits that holds a value; 16 for greater ones too."""
    return next((bits for bits in (8, 10, 12, 14) if highest < 1 << bits), 16)


def _pages(image: Image) -> int:
    """Of a file; what phones put behind the image in a JPEG are not frames."""
    return 1 if image.format == "MPO" else getattr(image, "n_frames", 1)


def _turned_to(image: Image, pages: range, path: str | Path) -> Iterator[Image]:
    for page in pages:
        image.seek(page)
        check_limit("pixels", image.width * image.height, f"page {page} of {path}")
        yield image


def _single(image: Image, path: str | Path) -> Image:
    """The image; InputError if there are more in its file."""
    if _pages(image) > 1:
        raise InputError(
            f"{path} holds {_pages(image)} images, where one is needed; save them one by one, or"
            " open the file by itself as a video"
        )
    return image


def _orientation(image: Image, path: str | Path) -> int:
    """How an image is turned, 1 to 8 as in EXIF; 1 of TIFF, which PIL turns by itself."""
    if image.format == "TIFF":
        return 1
    if image.format == "PNG" and not any("exif" in key or "xmp" in key for key in image.info):
        # The data may come after the pixels; only then are they decoded for it.
        if b"eXIf" not in Path(path).read_bytes():
            return 1
        image.load()
    turned = image.getexif().get(_ORIENTATION, 1)
    return turned if turned in range(1, 9) else 1


def _upright(image: Image, path: str | Path) -> Image:
    from PIL import ImageOps

    return ImageOps.exif_transpose(image) if _orientation(image, path) > 1 else image


@contextmanager
def _opened_mask(path: str | Path) -> Iterator[Image]:
    """A mask image, upright; InputError for what cannot be one."""
    if not given_path(path).exists():
        raise InputError(f"no such mask: {path}; check the path")
    with opened(path) as image:
        if image.format in ("JPEG", "MPO"):
            raise InputError(f"the mask {path} is a JPEG, which blurs ids; save it as PNG")
        yield _upright(_single(image, path), path)


def _checked_ids(values: NDArray[Any], mode: str, path: str | Path) -> NDArray[Any]:
    """Pixel values as whole numbers from 0; InputError, with the mode, for any others."""
    if values.ndim == 2 and values.dtype.kind == "f" and (values == np.floor(values)).all():
        # No id either way, and whole numbers that int64 holds.
        values = np.clip(values, -1, 2**31).astype(np.int64)
    if values.ndim != 2 or values.dtype.kind not in "biu":
        raise InputError(
            f"the mask {path} is an image of kind {mode}; ids cannot be read from colours: save it"
            " in black and white alone, or as a palette or grey PNG whose pixel values are the"
            " object ids"
        )
    if values.min(initial=0) < 0 or values.max(initial=0) >= 2**31:
        odd = min(values.min(), 0) or values.max()
        raise InputError(f"the mask {path} has the id {odd}; ids are from 0 to {2**31 - 1}")
    return values


def unreadable(path: str | Path, error: BaseException) -> InputError:
    """The error for an image that PIL cannot read."""
    reason = (getattr(error, "strerror", None) or str(error)).split("\n")[0]
    if Path(path).is_file() and not Path(path).stat().st_size:
        reason = "it is empty"
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
    image = Image.fromarray(labels.astype(np.uint8 if high <= MAX_PALETTE_ID else np.uint16))
    if high <= MAX_PALETTE_ID:
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
    bits, channels = np.arange(8), np.arange(3)
    ones = np.arange(256)[:, None, None] >> (3 * bits + channels[:, None]) & 1  # (256, 3, 8)
    palette = (ones << (7 - bits)).sum(-1).astype(np.uint8)
    palette.setflags(write=False)
    return palette
