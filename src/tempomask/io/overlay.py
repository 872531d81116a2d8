"""Masks drawn over frames, for looking at: translucent fill, contour and a tag per object.

PIL blends solid colours through a mask several times faster than NumPy; all work is done inside
the objects' boxes.
"""

from __future__ import annotations

import colorsys
from collections.abc import Collection, Mapping, Sequence
from functools import cache, lru_cache
from math import ceil
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from tempomask.errors import InputError
from tempomask.frames import Frame, Size
from tempomask.io.records import FrameRecord, Result, ids_of
from tempomask.results import FrameResult

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont, ImageFont

Color = tuple[int, int, int]
# left, top, right, bottom; right and bottom are past the last pixel.
Box = tuple[int, int, int, int]

# Bright and far apart in hue, in the order of DAVIS's palette: red, green, yellow, blue, ...
_FIRST_COLORS: tuple[Color, ...] = (
    (239, 71, 74),
    (54, 179, 92),
    (250, 190, 40),
    (52, 120, 246),
    (186, 85, 211),
    (28, 184, 196),
    (255, 127, 42),
    (236, 92, 160),
    (140, 198, 63),
    (121, 100, 230),
)
_GOLDEN_ANGLE = 0.381966
# A colour stands out from others at this distance in RGB.
_FAR = 90

_BACKGROUND = (24, 26, 30)


class DrawnMasks(NamedTuple):
    """Masks (N, H, W) of objects in a frame of size (H, W), that come from elsewhere."""

    size: Size
    ids: Sequence[int]
    masks: NDArray[np.bool_]


def draw_overlay(
    frame: Frame,
    result: Result | FrameRecord | DrawnMasks,
    *,
    names: Mapping[int, str] | None = None,
    colors: dict[int, Color] | None = None,
    opacity: float = 0.42,
    contour: int | None = None,
    tags: bool = True,
) -> Frame:
    """A copy of a frame with the masks of a result drawn over it; the colour of an id stays.

    Args:
        frame: uint8 (H, W, 3), RGB; not changed.
        result: Of objects or instances. The tag of an instance has its class and score.
        names: Text of the tag by object id; the id where there is none.
        colors: By object id; objects that lack one get it here, so that it stands out from the
            frame and from the others. Default: always the same for the same id.
        opacity: Of the fill, 0 to 1.
        contour: Width in pixels, 0 for none; default 1 to 2 by size.
        tags: Whether to draw them.

    Raises:
        InputError: If masks and frame differ in size.
    """
    from PIL import Image

    ids = result.ids if isinstance(result, DrawnMasks) else ids_of(result)
    if not ids:
        return frame.copy()
    height, width = frame.shape[:2]
    if result.size != (height, width):
        raise InputError(
            f"masks of {result.size[1]} x {result.size[0]} pixels cannot be drawn over a frame of"
            f" {width} x {height}; give the frame that was tracked"
        )
    thickness = 1 + (min(height, width) >= 360) if contour is None else contour
    image = Image.fromarray(frame)
    tagged = []

    def color_of(object_id: int) -> Color:
        return object_color(object_id) if colors is None else colors[object_id]

    for object_id, mask in zip(ids, result.masks, strict=True):
        box = _box(mask)
        if box is None:
            continue
        if colors is not None and object_id not in colors:
            colors[object_id] = _standing_out(frame, box, object_id, colors.values())
        _draw_mask(image, mask, box, color_of(object_id), opacity, thickness)
        if tags:
            tagged.append((object_id, _box_of_largest_part(mask, box)))
    texts = {**_tags(result, ids), **(names or {})}
    taken: list[Box] = []
    for object_id, box in tagged:
        text = texts.get(object_id, str(object_id))
        taken.append(_draw_tag(image, box, text, color_of(object_id), taken))
    return np.asarray(image).copy()


def _tags(result: Result | FrameRecord | DrawnMasks, ids: Sequence[int]) -> dict[int, str]:
    """Id, class and score of each instance; nothing for tracked objects."""
    if isinstance(result, FrameResult | DrawnMasks) or not result.names:
        return {}
    rows = zip(ids, result.names, result.scores.tolist(), strict=True)
    return {track_id: f"{track_id} {name} {score:.2f}" for track_id, name, score in rows}


def contact_sheet(
    frames: Sequence[Frame],
    captions: Sequence[str],
    *,
    columns: int | None = None,
    cell_width: int = 320,
) -> Frame:
    """Frames in a grid with a caption under each, read row by row.

    Args:
        frames: uint8 (h, w, 3) each.
        captions: One for each.
        columns: Of the grid; default, about as wide as a page.
        cell_width: Width of each image in pixels.

    Returns:
        uint8 (H, W, 3).

    Raises:
        InputError: Without frames, or unless there is one caption for each.
    """
    from PIL import Image, ImageDraw

    if not frames or len(frames) != len(captions):
        raise InputError(
            f"a contact sheet needs frames and as many captions, got {len(frames)} frames and"
            f" {len(captions)} captions"
        )
    columns = max(1, min(len(frames), columns or ceil((len(frames) * 1.4) ** 0.5)))
    rows = ceil(len(frames) / columns)
    cell_height = max(round(frame.shape[0] * cell_width / frame.shape[1]) for frame in frames)
    size = max(11, cell_width // 20)
    gap, line = max(4, cell_width // 40), size + size // 2
    sheet = Image.new(
        "RGB",
        (columns * (cell_width + gap) + gap, rows * (cell_height + line + gap) + gap),
        _BACKGROUND,
    )
    draw = ImageDraw.Draw(sheet)
    for index, (frame, caption) in enumerate(zip(frames, captions, strict=True)):
        left = gap + index % columns * (cell_width + gap)
        top = gap + index // columns * (cell_height + line + gap)
        height = max(1, round(frame.shape[0] * cell_width / frame.shape[1]))
        cell = Image.fromarray(frame).resize((cell_width, height), Image.Resampling.BOX)
        sheet.paste(cell, (left, top))
        middle = (left + cell_width // 2, top + cell_height + line // 2)
        draw.text(middle, caption, fill=(225, 228, 232), font=_font(size), anchor="mm")
    return np.asarray(sheet).copy()


def evenly_spaced(count: int, cells: int) -> list[int]:
    """Up to `cells` frame indices of a video of `count` frames: first, last, and even steps."""
    if count <= cells:
        return list(range(count))
    return [int(i) for i in np.linspace(0, count - 1, max(1, cells)).round()]


@cache
def object_color(object_id: int) -> Color:
    """The colour of an object, always the same for the same id."""
    index = (object_id - 1) % 10_000
    if index < len(_FIRST_COLORS):
        return _FIRST_COLORS[index]
    hue = index * _GOLDEN_ANGLE % 1.0
    red, green, blue = colorsys.hls_to_rgb(hue, 0.5 + 0.12 * (index % 3 - 1), 0.75)
    return round(255 * red), round(255 * green), round(255 * blue)


def _standing_out(frame: Frame, box: Box, object_id: int, taken: Collection[Color]) -> Color:
    """A colour far from those in a box of the frame and around it: the object's own if that is.

    The farthest of the first colours that are not taken, if none is far enough.
    """
    left, top, right, bottom = box
    rim_x, rim_y = (right - left) // 4 + 2, (bottom - top) // 4 + 2
    around = frame[max(0, top - rim_y) : bottom + rim_y, max(0, left - rim_x) : right + rim_x]
    pixels = around[:: 1 + len(around) // 32, :: 1 + around.shape[1] // 32].reshape(-1, 1, 3)
    own = object_color(object_id)
    free = [color for color in (own, *_FIRST_COLORS) if color not in taken] or [own]
    distances = np.linalg.norm(pixels.astype(np.float32) - np.array(free, np.float32), axis=2)
    # Of the tenth of pixels that are most alike: a small part may have the colour, not more.
    least = np.quantile(distances, 0.1, axis=0)
    return free[0] if least[0] >= _FAR and free[0] == own else free[int(least.argmax())]


def _box(mask: NDArray[np.bool_]) -> Box | None:
    """left, top, right, bottom of the mask; None if it is empty."""
    rows = np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return None
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    columns = np.flatnonzero(mask[top:bottom].any(axis=0))
    return int(columns[0]), top, int(columns[-1]) + 1, bottom


def _box_of_largest_part(mask: NDArray[np.bool_], box: Box) -> Box:
    """The box of the mask's largest connected part; box: of all of it.

    A few stray pixels would put the tag far away from the object.
    """
    from scipy import ndimage

    left, top, right, bottom = box
    found = ndimage.label(mask[top:bottom, left:right])
    parts, count = cast("tuple[NDArray[np.int32], int]", found)
    if count == 1:
        return box
    largest = int(np.bincount(parts.ravel())[1:].argmax())
    rows, columns = ndimage.find_objects(parts)[largest]
    return left + columns.start, top + rows.start, left + columns.stop, top + rows.stop


def _draw_mask(
    image: Image,
    mask: NDArray[np.bool_],
    box: Box,
    color: Color,
    opacity: float,
    contour: int,
) -> None:
    from PIL import Image

    left, top, right, bottom = box
    inside = mask[top:bottom, left:right]
    alpha = inside.view(np.uint8) * np.uint8(round(255 * opacity))
    if contour:
        alpha[inside & ~_eroded(inside, contour)] = 255
    image.paste(color, box, Image.fromarray(alpha))


def _eroded(mask: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """The mask without a rim of `width` pixels; what lies outside the array counts as outside."""
    height, length = mask.shape
    padded = np.zeros((height + 2, length + 2), dtype=bool)
    inner = padded[1:-1, 1:-1]
    inner[:] = mask
    for _ in range(width):
        inner[:] = (
            inner & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
        )
    return inner


def _draw_tag(image: Image, box: Box, text: str, color: Color, taken: Sequence[Box]) -> Box:
    """The text on a patch of the object's colour, just above its box, or inside at the top edge.

    taken: where tags are already. Returns where this one is.
    """
    tag, cutout = _tag(text, color, max(11, min(image.size) // 32))
    left = (box[0] + box[2] - tag.width) // 2
    left = min(max(left, 0), max(0, image.width - tag.width))
    top = box[1] - tag.height - 3
    if top < 0:
        top = box[1] + 3
    top = _free_top(left, top, tag.size, image.height, taken)
    image.paste(tag, (left, top), cutout)
    return left, top, left + tag.width, top + tag.height


def _free_top(left: int, top: int, size: tuple[int, int], height: int, taken: Sequence[Box]) -> int:
    """The top nearest to the one wished for where no other tag is covered; that one if none is."""
    beside = [box for box in taken if box[0] < left + size[0] and left < box[2]]
    edges = [edge for box in beside for edge in (box[1] - size[1] - 1, box[3] + 1)]
    inside = [edge for edge in edges if 0 <= edge <= height - size[1]]
    for edge in (top, *sorted(inside, key=lambda edge: abs(edge - top))):
        if all(edge >= box[3] or edge + size[1] <= box[1] for box in beside):
            return edge
    return top


@lru_cache(maxsize=1024)
def _tag(text: str, color: Color, size: int) -> tuple[Image, Image]:
    """A tag and its shape, drawn once for each text, colour and size."""
    from PIL import Image, ImageDraw

    font = _font(size)
    left, _, right, _ = font.getbbox(text)
    width = max(round(right - left) + size, round(1.5 * size))
    tag = Image.new("RGB", (width, round(1.5 * size)), color)
    shape = Image.new("L", tag.size, 0)
    ImageDraw.Draw(shape).rounded_rectangle(
        (0, 0, tag.width - 1, tag.height - 1), radius=size // 3, fill=235
    )
    bright = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] > 150
    fill = (20, 20, 20) if bright else (255, 255, 255)
    ImageDraw.Draw(tag).text(
        (tag.width / 2, tag.height / 2), text, fill=fill, font=font, anchor="mm"
    )
    return tag, shape


@cache
def _font(size: int) -> FreeTypeFont | ImageFont:
    from PIL import ImageFont

    return ImageFont.load_default(size)
