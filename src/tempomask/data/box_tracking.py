"""Box tracking data as it is published: LaSOT, GOT-10k and OTB.

Boxes are (x, y, w, h) in pixels as they are written, which is how the usual Python toolkits read
them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tempomask.errors import InputError, unknown_name
from tempomask.frames import Size
from tempomask.io.folder import image_size, list_images, natural_key, read_image

Layout = Literal["lasot", "got10k", "otb"]
LAYOUTS: tuple[Layout, ...] = ("lasot", "got10k", "otb")

# OTB sequences of which only some images are annotated: first and last, counted from 1.
OTB_RANGES = {
    "david": (300, 770),
    "football1": (1, 74),
    "freeman3": (1, 460),
    "freeman4": (1, 283),
    "diving": (1, 215),
}
# The splits of GOT-10k; its test set is annotated on the first frame only.
GOT10K_SPLITS = ("val", "train", "test")


@dataclass(frozen=True, eq=False)
class BoxSequence:
    """One sequence: T images, boxes float64 (T, 4) as x, y, w, h, visible bool (T,)."""

    name: str
    images: tuple[Path, ...]
    boxes: NDArray[np.float64]
    visible: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def size(self) -> Size:
        """(H, W) of the frames."""
        return image_size(self.images[0])

    @property
    def first_box(self) -> tuple[float, float, float, float]:
        """The first box as a prompt: x0, y0, x1, y1, cut at the edge of the image.

        Raises InputError if nothing of it lies inside.
        """
        x, y, w, h = self.boxes[0].tolist()
        height, width = self.size
        box = max(x, 0.0), max(y, 0.0), min(x + w, width), min(y + h, height)
        if box[0] >= box[2] or box[1] >= box[3]:
            raise InputError(
                f"sequence {self.name}: the first box {x:g},{y:g},{w:g},{h:g} lies outside the"
                f" {width} x {height} image, so that there is nothing to track"
            )
        return box

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """Frames (H, W, 3), uint8 RGB, one after the other."""
        for path in self.images:
            yield read_image(path)


class BoxTrackingData:
    """The sequences under a root.

    layout: "lasot": [CLASS/]CLASS-N/img/*.jpg with groundtruth.txt, full_occlusion.txt,
        out_of_view.txt; "got10k": [SPLIT/]NAME/*.jpg with groundtruth.txt, absence.label,
        cover.label; "otb": NAME/img/*.jpg with groundtruth_rect.txt, of several objects
        groundtruth_rect.1.txt and so on, which become sequences NAME.1 and so on.
    split: of LaSOT a list of names, such as "testing_set" for ROOT/testing_set.txt, which is taken
        if it is there; of GOT-10k a folder, the first there of val, train, test.
    sequences: only these.

    Raises InputError for missing folders, unknown names and damaged files.
    """

    def __init__(
        self,
        root: str | Path,
        layout: Layout,
        split: str | None = None,
        sequences: Sequence[str] | None = None,
    ) -> None:
        self.root, self.layout = Path(root), layout
        if layout not in LAYOUTS:
            raise InputError(f"layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
        if not self.root.is_dir():
            raise InputError(f"no such folder: {root}; give the one that holds the sequences")
        found = _FINDERS[layout](self.root, split)
        if not found:
            raise InputError(
                f"no sequences of layout {layout} under {root}; they are folders of images with"
                f" {_TRUTH[layout]}"
            )
        if sequences is not None:
            found = {name: found[_known(name, found, self.root)] for name in sequences}
        self.sequences = [_READERS[layout](name, path) for name, path in found.items()]

    def __len__(self) -> int:
        return len(self.sequences)

    def __iter__(self) -> Iterator[BoxSequence]:
        return iter(self.sequences)


def read_boxes(path: Path) -> NDArray[np.float64]:
    """Boxes (T, 4) of a text file, one x,y,w,h a line, with commas, tabs or blanks between.

    Raises InputError, with the line, for anything else.
    """
    rows = []
    for number, line in enumerate(_lines(path), 1):
        parts = re.split(r"[,\s]+", line.strip().strip(","))
        try:
            row = [float(part) for part in parts]
        except ValueError:
            row = []
        if len(row) != 4:
            raise InputError(f"{path}, line {number}: expected x,y,w,h, got {line.strip()[:60]!r}")
        rows.append(row)
    return np.array(rows, dtype=np.float64).reshape(-1, 4)


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not a text file") from None
    return [line for line in text.splitlines() if line.strip()]


def _read_flags(path: Path, count: int) -> NDArray[np.float64] | None:
    """Numbers of a file, one for each frame, in a line or one a line; None without the file."""
    if not path.is_file():
        return None
    try:
        values = np.array(re.split(r"[,\s]+", ",".join(_lines(path)).strip(",")), dtype=np.float64)
    except ValueError:
        raise InputError(f"{path} must hold a number for each frame") from None
    if len(values) != count:
        raise InputError(f"{path} has {len(values)} numbers for {count} frames")
    return values


def _known(name: str, found: dict[str, Path], root: Path) -> str:
    if name not in found:
        raise unknown_name(f"no sequence {name!r} under {root}", name, sorted(found))
    return name


def _folders(root: Path) -> list[Path]:
    """Folders in natural order."""
    inside = (path for path in root.iterdir() if path.is_dir())
    return sorted(inside, key=lambda path: natural_key(path.name))


def _find_lasot(root: Path, split: str | None) -> dict[str, Path]:
    found = {
        folder.name: folder
        for parent in (root, *_folders(root))
        for folder in _folders(parent)
        if (folder / _TRUTH["lasot"]).is_file() and (folder / "img").is_dir()
    }
    listing = root / f"{split or 'testing_set'}.txt"
    if split is not None and not listing.is_file():
        raise InputError(f"no split {split!r}: there is no {listing}")
    if not listing.is_file():
        return found
    names = [line.strip() for line in _lines(listing)]
    return {name: found[_known(name, found, root)] for name in names}


def _find_got10k(root: Path, split: str | None) -> dict[str, Path]:
    there = [name for name in GOT10K_SPLITS if (root / name).is_dir()]
    if split is not None and split not in there:
        names = ", ".join(there) or "none"
        raise InputError(f"no split {split!r} under {root}; there are {names}")
    folder = root / (split or there[0]) if there else root
    return {p.name: p for p in _folders(folder) if (p / _TRUTH["got10k"]).is_file()}


def _find_otb(root: Path, split: str | None) -> dict[str, Path]:
    if split is not None:
        raise InputError(f"OTB has no splits, got {split!r}; name the sequences instead")
    found: dict[str, Path] = {}
    for folder in _folders(root):
        files = sorted(folder.glob("groundtruth_rect*.txt"), key=lambda p: natural_key(p.name))
        files = [path for path in files if _lines(path)]
        for number, path in enumerate(files, 1):
            found[folder.name if len(files) == 1 else f"{folder.name}.{number}"] = path
    return found


def _sequence(
    name: str,
    images: Sequence[Path],
    boxes: NDArray[np.float64],
    visible: NDArray[np.bool_] | None = None,
) -> BoxSequence:
    if len(boxes) == 1 < len(images):
        raise InputError(
            f"sequence {name} has a box on its first frame only, so that it cannot be scored; use"
            " `tempomask track --box ... --save boxes` for results to hand in"
        )
    if len(boxes) != len(images):
        raise InputError(f"sequence {name} has {len(images)} images but {len(boxes)} boxes")
    if visible is None:
        visible = np.ones(len(boxes), dtype=bool)
    return BoxSequence(name, tuple(images), boxes, visible)


def _read_lasot(name: str, folder: Path) -> BoxSequence:
    boxes = read_boxes(folder / _TRUTH["lasot"])
    visible = np.ones(len(boxes), dtype=bool)
    for file in ("full_occlusion.txt", "out_of_view.txt"):
        flags = _read_flags(folder / file, len(boxes))
        if flags is not None:
            visible &= flags == 0
    images = list_images(folder / "img")
    # Some sequences have one image more than boxes.
    extra = len(images) == len(boxes) + 1 > 2
    return _sequence(name, images[:-1] if extra else images, boxes, visible)


def _read_got10k(name: str, folder: Path) -> BoxSequence:
    images = list_images(folder)
    boxes = read_boxes(folder / _TRUTH["got10k"])
    visible = np.ones(len(boxes), dtype=bool)
    absent = _read_flags(folder / "absence.label", len(boxes)) if len(boxes) > 1 else None
    if absent is not None:
        visible &= absent == 0
    cover = _read_flags(folder / "cover.label", len(boxes)) if len(boxes) > 1 else None
    if cover is not None:
        visible &= cover > 0
    return _sequence(name, images, boxes, visible)


def _read_otb(name: str, truth: Path) -> BoxSequence:
    images = list_images(truth.parent / "img")
    boxes = read_boxes(truth)
    first, last = OTB_RANGES.get(truth.parent.name.lower(), (1, len(images)))
    if len(images) != len(boxes):
        images = images[first - 1 : last]
    return _sequence(name, images, boxes)


_TRUTH = {
    "lasot": "groundtruth.txt",
    "got10k": "groundtruth.txt",
    "otb": "groundtruth_rect.txt",
}
_FINDERS = {"lasot": _find_lasot, "got10k": _find_got10k, "otb": _find_otb}
_READERS = {"lasot": _read_lasot, "got10k": _read_got10k, "otb": _read_otb}
