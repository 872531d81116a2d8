"""Box tracking data as it is published: LaSOT, GOT-10k, OTB, TrackingNet, NfS and UAV123.

Boxes are (x, y, w, h) in pixels as they are written, which is how the usual Python toolkits read
them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tempomask.data.box_ranges import OTB_RANGES, UAV123_PARTS
from tempomask.data.sequences import FrameSequence, SequenceSet, choose, folders, listed_once
from tempomask.errors import InputError, warn
from tempomask.files import read_text
from tempomask.io.sources import list_images, natural_key

Layout = Literal["lasot", "got10k", "otb", "trackingnet", "nfs", "uav123", "lasot-ext"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)

# The splits of GOT-10k; its test set is annotated on the first frame only.
GOT10K_SPLITS = ("val", "train", "test")


@dataclass(frozen=True, eq=False)
class BoxSequence(FrameSequence):
    """T frames with the box of one object.

    Attributes:
        boxes: float64 (T, 4) as x, y, w, h in pixels; zeros in place of boxes with a negative side
            or numbers that are not finite. (1, 4) where the others are a server's.
        visible: bool, as many, the object is there to be seen.
    """

    boxes: NDArray[np.float64]
    visible: NDArray[np.bool_]

    def __post_init__(self) -> None:
        sides = self.boxes[:, 2:]
        flawed = np.asarray(~np.isfinite(self.boxes).all(axis=1) | (sides < 0).any(axis=1))
        if flawed.any():
            first = int(flawed.argmax())
            warn(
                f"sequence {self.name}: {np.count_nonzero(flawed)} boxes are none and count as"
                f" absent, such as {box_text(self.boxes[first])} of frame {first}"
            )
            object.__setattr__(self, "boxes", np.where(flawed[:, None], 0.0, self.boxes))
            object.__setattr__(self, "visible", self.visible & ~flawed)

    @property
    def scored(self) -> bool:
        """Whether every frame has its box."""
        return len(self.boxes) == len(self)

    @property
    def first_box(self) -> tuple[float, float, float, float]:
        """The first box as a prompt: x0, y0, x1, y1, cut at the edge of the image.

        Raises:
            InputError: Nothing of it lies inside.
        """
        x, y, w, h = self.boxes[0].tolist()
        height, width = self.size
        box = max(x, 0.0), max(y, 0.0), min(x + w, width), min(y + h, height)
        if box[0] >= box[2] or box[1] >= box[3]:
            raise InputError(
                f"sequence {self.name}: the first box {box_text(self.boxes[0])} lies outside the"
                f" {width} x {height} image, so that there is nothing to track"
            )
        return box


class BoxTrackingData(SequenceSet[BoxSequence]):
    """The sequences under a root."""

    def __init__(
        self,
        root: str | Path,
        layout: Layout,
        split: str | None = None,
        sequences: Sequence[str] | None = None,
        *,
        first_only: bool = False,
    ) -> None:
        """Read the boxes of all sequences.

        Args:
            root: Folder of the sequences.
            layout: "lasot": [CLASS/]CLASS-N/img/*.jpg with groundtruth.txt, full_occlusion.txt,
                out_of_view.txt; "got10k": [SPLIT/]NAME/*.jpg with groundtruth.txt, absence.label,
                cover.label; "otb": NAME/img/*.jpg with groundtruth_rect.txt, of several objects
                groundtruth_rect.1.txt and so on, which become sequences NAME.1 and so on;
                "trackingnet": TEST/frames/NAME/0.jpg with TEST/anno/NAME.txt; "nfs":
                NAME/30/NAME/*.jpg with NAME/30/NAME.txt; "uav123": data_seq/UAV123/NAME/*.jpg with
                anno/UAV123/NAME.txt; "lasot-ext": as "lasot".
            split: Of LaSOT a list of names, such as "testing_set" for ROOT/testing_set.txt, which
                is taken if it is there; of GOT-10k a folder, the first there of val, train, test;
                of TrackingNet TEST, TRAIN_0 and so on, or TRAIN for all of these; of NfS 30 or 240
                frames a second; of UAV123 UAV123 or UAV20L.
            sequences: Only these.
            first_only: Take sequences too of which the first frame alone has a box.

        Raises:
            InputError: A folder is missing, a name is unknown, or a file is damaged.
        """
        self.root, self.layout, self.chosen = Path(root), layout, sequences
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
            found = {name: found[name] for name in choose(sequences, found, self.root)}

        def read(name: str) -> BoxSequence:
            sequence = _READERS[layout](name, found[name])
            if not (sequence.scored or first_only):
                raise InputError(
                    f"sequence {name} has a box on its first frame only, so that it cannot be"
                    " scored; --submission tracks it for results to hand in"
                )
            return sequence

        self._read_each(found, read)

    def settings(self) -> dict[str, Any]:
        """See `SequenceSet`."""
        return {**super().settings(), "layout": self.layout}


def read_boxes(path: Path) -> NDArray[np.float64]:
    """Boxes (T, 4) of a text file, one x,y,w,h a line, with commas, tabs or blanks between.

    Raises:
        InputError: There is anything else, with the number of the line.
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


def box_text(box: NDArray[np.float64]) -> str:
    """A box as in a file, x,y,w,h."""
    return ",".join(f"{value:g}" for value in box)


def _lines(path: Path) -> list[str]:
    return [line for line in read_text(path, "the file").splitlines() if line.strip()]


def _read_flags(path: Path, count: int, missing: bool = False) -> NDArray[np.bool_]:
    """Which frames have a number above 0 in a file; `missing` for all of them without the file.

    The numbers, one for each frame, stand in a line or one a line.
    """
    if not path.is_file():
        return np.full(count, missing)
    try:
        values = np.array(re.split(r"[,\s]+", ",".join(_lines(path)).strip(",")), dtype=np.float64)
    except ValueError:
        raise InputError(f"{path} must hold a number for each frame") from None
    if abs(len(values) - count) > 1:
        raise InputError(f"{path} has {len(values)} numbers for {count} frames")
    # A number too few or too many is common in published files.
    return np.append(values > 0, missing)[:count]


def _find_lasot(root: Path, split: str | None) -> dict[str, Path]:
    found = {
        folder.name: folder
        for parent in (root, *folders(root))
        for folder in folders(parent)
        if (folder / _TRUTH["lasot"]).is_file() and (folder / "img").is_dir()
    }
    listing = root / f"{split or 'testing_set'}.txt"
    if split is not None and not listing.is_file():
        raise InputError(f"no split {split!r}: there is no {listing}")
    if not listing.is_file():
        return found
    names = listed_once([line.strip() for line in _lines(listing)], listing)
    return {name: found[name] for name in choose(names, found, root)}


def _find_got10k(root: Path, split: str | None) -> dict[str, Path]:
    there = [name for name in GOT10K_SPLITS if (root / name).is_dir()]
    if split is not None and split not in there:
        names = ", ".join(there) or "none"
        raise InputError(f"no split {split!r} under {root}; there are {names}")
    folder = root / (split or there[0]) if there else root
    listing = folder / "list.txt"
    if listing.is_file():
        return {line.strip(): folder / line.strip() for line in _lines(listing)}
    return {p.name: p for p in folders(folder) if (p / _TRUTH["got10k"]).is_file()}


def _find_otb(root: Path, split: str | None) -> dict[str, Path]:
    if split is not None:
        raise InputError(f"OTB has no splits, got {split!r}; name the sequences instead")
    found: dict[str, Path] = {}
    for folder in folders(root):
        files = sorted(folder.glob("groundtruth_rect*.txt"), key=lambda p: natural_key(p.name))
        files = [path for path in files if _lines(path)]
        for number, path in enumerate(files, 1):
            found[folder.name if len(files) == 1 else f"{folder.name}.{number}"] = path
    return found


def _find_trackingnet(root: Path, split: str | None) -> dict[str, Path]:
    there = {folder.name: folder for folder in folders(root) if (folder / "anno").is_dir()}
    if not there and (root / "anno").is_dir() and (root / "frames").is_dir():
        there = {root.name: root}
    wanted = split or ("TEST" if "TEST" in there else next(iter(there), ""))
    taken = [f for name, f in there.items() if name == wanted or name.startswith(f"{wanted}_")]
    if split is not None and not taken:
        raise InputError(f"no split {split!r} under {root}; there are {', '.join(there) or 'none'}")
    return {path.stem: path for folder in taken for path in _texts(folder / "anno")}


def _find_nfs(root: Path, split: str | None) -> dict[str, Path]:
    rate = _one_of(split or "30", ("30", "240"))
    paths = [folder / rate / f"{folder.name}.txt" for folder in folders(root)]
    return {path.stem: path for path in paths if path.is_file()}


def _find_uav123(root: Path, split: str | None) -> dict[str, Path]:
    folder = root / "anno" / _one_of(split or "UAV123", ("UAV123", "UAV20L"))
    return {path.stem: path for path in _texts(folder)}


def _texts(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.txt"), key=lambda path: natural_key(path.name))


def _one_of(split: str, known: Sequence[str]) -> str:
    if split not in known:
        raise InputError(f"no split {split!r}; there are {' and '.join(known)}")
    return split


def _images(folder: Path, name: str) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"sequence {name} has no images: there is no folder {folder}")
    return list_images(folder)


def _sequence(
    name: str, images: Sequence[Path], boxes: NDArray[np.float64], visible: NDArray[np.bool_]
) -> BoxSequence:
    if len(boxes) == 1 < len(images):
        return BoxSequence(name, tuple(images), boxes, visible)
    count = min(len(boxes), len(images))
    if abs(len(boxes) - len(images)) > 1 or not count:
        raise InputError(f"sequence {name} has {len(images)} images but {len(boxes)} boxes")
    if len(boxes) != len(images):
        # Of published files some are one longer.
        warn(f"sequence {name} has {len(images)} images and {len(boxes)} boxes; {count} are used")
    return BoxSequence(name, tuple(images[:count]), boxes[:count], visible[:count])


def _read_lasot(name: str, folder: Path) -> BoxSequence:
    boxes = read_boxes(folder / _TRUTH["lasot"])
    hidden = [
        _read_flags(folder / f"{x}.txt", len(boxes)) for x in ("full_occlusion", "out_of_view")
    ]
    return _sequence(name, list_images(folder / "img"), boxes, ~np.any(hidden, axis=0))


def _read_got10k(name: str, folder: Path) -> BoxSequence:
    boxes = read_boxes(folder / _TRUTH["got10k"])
    visible = np.ones(len(boxes), dtype=bool)
    if len(boxes) > 1:
        absent = _read_flags(folder / "absence.label", len(boxes))
        visible = ~absent & _read_flags(folder / "cover.label", len(boxes), missing=True)
    return _sequence(name, _images(folder, name), boxes, visible)


def _read_trackingnet(name: str, truth: Path) -> BoxSequence:
    boxes = read_boxes(truth)
    images = _images(truth.parent.parent / "frames" / name, name)
    return _sequence(name, images, boxes, np.ones(len(boxes), dtype=bool))


def _read_nfs(name: str, truth: Path) -> BoxSequence:
    images = _images(truth.with_suffix(""), name)
    corners = []
    for number, line in enumerate(_lines(truth), 1):
        try:
            corners.append([float(part) for part in line.split()[1:5]])
        except ValueError:
            corners.append([])
        if len(corners[-1]) != 4:
            raise InputError(
                f"{truth}, line {number}: expected a number and left, top, right and bottom, got"
                f" {line.strip()[:60]!r}"
            )
    boxes = np.array(corners).reshape(-1, 4)
    boxes[:, 2:] -= boxes[:, :2]
    every = boxes[::8]  # of 240 frames a second, for images of 30
    if abs(len(boxes) - len(images)) > 1 >= abs(len(every) - len(images)):
        boxes = every
    return _sequence(name, images, boxes, np.ones(len(boxes), dtype=bool))


def _read_uav123(name: str, truth: Path) -> BoxSequence:
    boxes = read_boxes(truth)
    video, _, part = name.rpartition("_")
    starts = UAV123_PARTS.get(video, ()) if part.isdecimal() else ()
    whole = not starts
    folder = truth.parent.parent.parent / "data_seq" / "UAV123" / (name if whole else video)
    images = _images(folder, name)
    if not whole:
        if not 1 <= int(part) <= len(starts):
            raise InputError(f"{truth}: {video} has the parts 1 to {len(starts)}")
        images = images[starts[int(part) - 1] - 1 :][: len(boxes)]
    present = np.asarray(~np.isnan(boxes).any(axis=1))
    boxes = np.where(present[:, None], boxes, 0.0)
    return _sequence(name, images, boxes, present)


def _read_otb(name: str, truth: Path) -> BoxSequence:
    images = list_images(truth.parent / "img")
    boxes = read_boxes(truth)
    first, last = OTB_RANGES.get(truth.parent.name.lower(), (1, len(images)))
    if len(images) != len(boxes):
        images = images[first - 1 : last]
    return _sequence(name, images, boxes, np.ones(len(boxes), dtype=bool))


_TRUTH = {
    "lasot": "groundtruth.txt",
    "got10k": "groundtruth.txt",
    "otb": "groundtruth_rect.txt",
    "trackingnet": "anno/NAME.txt beside frames/",
    "nfs": "30/NAME.txt",
    "uav123": "anno/UAV123/NAME.txt beside data_seq/",
    "lasot-ext": "groundtruth.txt",
}
_FINDERS: dict[Layout, Callable[[Path, str | None], dict[str, Path]]] = {
    "lasot": _find_lasot,
    "got10k": _find_got10k,
    "otb": _find_otb,
    "trackingnet": _find_trackingnet,
    "nfs": _find_nfs,
    "uav123": _find_uav123,
    "lasot-ext": _find_lasot,
}
_READERS: dict[Layout, Callable[[str, Path], BoxSequence]] = {
    "lasot": _read_lasot,
    "got10k": _read_got10k,
    "otb": _read_otb,
    "trackingnet": _read_trackingnet,
    "nfs": _read_nfs,
    "uav123": _read_uav123,
    "lasot-ext": _read_lasot,
}
