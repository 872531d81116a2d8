"""Look through a data set of masks or boxes, and say what is wrong with it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from tempomask.data.box_tracking import LAYOUTS, BoxSequence, BoxTrackingData
from tempomask.data.davis import Davis
from tempomask.data.footage import LAYOUTS as FOOTAGE
from tempomask.data.footage import check_set, layout_of
from tempomask.data.sequences import FrameSequence, MaskSequence
from tempomask.data.vos_sets import VosSet, mose, youtube_vos
from tempomask.errors import InputError, InputWarning
from tempomask.io.images import image_size, read_image


def check_folder(root: Path, layout: str | None = None, *, decode: bool = False) -> Iterator[str]:
    """Every problem as one line that names the sequence or the file; none if all fits.

    Args:
        root: Of the data set.
        layout: One of `footage.LAYOUTS` or `box_tracking.LAYOUTS`; default, the one that fits.
        decode: Read all images to the end, which finds those that are cut off; masks always are.

    Raises:
        InputError: No layout fits, or no sequence can be read at all.
    """
    if layout is None:
        with suppress(InputError):  # boxes, or nothing that is known
            layout = layout_of(root)
    if layout in ("sav", "coco", "sa1b"):
        yield from check_set(root, layout, decode)
        return
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", InputWarning)
        data = _open(root, layout)
    yield from (str(each.message) for each in told if issubclass(each.category, InputWarning))
    yield from data.flaws.values()
    for sequence in data:
        yield from _image_problems(sequence, decode)
        if isinstance(sequence, MaskSequence):
            yield from _mask_problems(sequence, late=layout != "davis")
        elif isinstance(sequence, BoxSequence):
            yield from _box_problems(sequence)


def _open(root: Path, layout: str | None) -> Davis | VosSet | BoxTrackingData:
    if layout == "davis":
        return Davis(root, "all")
    if layout in ("youtube-vos", "mose"):
        return youtube_vos(root, "train") if layout == "youtube-vos" else mose(root, "train")
    for name in LAYOUTS:
        if layout == name:
            return BoxTrackingData(root, name, first_only=True)
    for name in LAYOUTS if root.is_dir() else ():
        try:
            return BoxTrackingData(root, name, first_only=True)
        except InputError as error:
            if "no sequences of layout" not in str(error):
                raise
    raise InputError(
        f"{root} is laid out as none of {', '.join((*FOOTAGE, *LAYOUTS))}; give the folder that"
        " holds JPEGImages/ or the sequences, or a file in YouTube-VIS format"
    )


def _image_problems(sequence: FrameSequence, decode: bool) -> Iterator[str]:
    for path in sequence.images:
        try:
            size = image_size(path)
            if size != sequence.size:
                yield (
                    f"sequence {sequence.name}: {path} has {size[1]} x {size[0]} pixels, the first"
                    f" frame {sequence.size[1]} x {sequence.size[0]}"
                )
            if decode:
                read_image(path)
        except InputError as error:
            yield f"sequence {sequence.name}: {error}"


def _mask_problems(sequence: MaskSequence, late: bool) -> Iterator[str]:
    """Label maps that cannot be read; objects not on the first one, unless `late` allows them."""
    known: set[int] = set()
    first, *_ = sequence.labels
    for index, path in sequence.labels.items():
        try:
            if index == first and not late:
                known.update(sequence.object_ids)
            found = set(np.unique(sequence.label_map(index)).tolist()) - {0}
        except InputError as error:
            yield f"sequence {sequence.name}: {error}"
            continue
        for new in () if late else sorted(found - known):
            yield (
                f"sequence {sequence.name}: object {new} is first marked in {path}; scores leave"
                " out what is not marked on the first frame"
            )
        known |= found


def _box_problems(sequence: BoxSequence) -> Iterator[str]:
    """A first box that cannot be tracked, and boxes outside the image that count as visible."""
    try:
        _ = sequence.first_box
    except InputError as error:
        yield str(error)
    height, width = sequence.size
    x, y, w, h = sequence.boxes.T
    there = sequence.visible & (w > 0) & (h > 0)
    outside = there & ((x >= width) | (y >= height) | (x + w <= 0) | (y + h <= 0))
    outside[0] = False
    if outside.any():
        yield (
            f"sequence {sequence.name}: {np.count_nonzero(outside)} boxes lie outside the image,"
            f" the first on frame {int(outside.argmax())}"
        )
