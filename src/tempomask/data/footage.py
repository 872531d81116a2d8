"""What fine-tuning learns from: annotated frames of videos, and images, of sets in any layout.

A set is named as LAYOUT:ROOT@WEIGHT; layout and weight may be left out.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tempomask.data.davis import Davis
from tempomask.data.image_sets import LabelledImage, image_sets, is_sa1b
from tempomask.data.motion import ImageArray
from tempomask.data.segmentations import mask_of
from tempomask.data.sequences import MaskSequence, SequenceSet
from tempomask.data.vos_sets import mose, youtube_vos
from tempomask.errors import InputError, place, unknown_name
from tempomask.files import read_json
from tempomask.io.images import read_image
from tempomask.io.video import open_video

# SA-V annotates every so many frames of its videos.
SAV_STEP = 4
# Lists of DAVIS sequences to train on, the first that is there; the validation lists never are.
TRAINING_SPLITS = ("2017/train", "2016/train", "480p/train")
MASKLETS = "_manual.json"


class Annotated(NamedTuple):
    """A frame (H, W, 3), uint8 RGB, and the masks bool (H, W) of what it shows, by object id."""

    image: ImageArray
    masks: dict[int, NDArray[np.bool_]]


@dataclass(frozen=True)
class Footage(ABC):
    """A video or an image of which some frames, or the only one, are annotated.

    Attributes:
        name: Unique within its set.
    """

    name: str

    @property
    def count(self) -> int:
        """How many frames are annotated."""
        return 1

    @abstractmethod
    def read(self, indices: Sequence[int]) -> list[Annotated]:
        """Annotated frames by their ascending numbers, from 0 to count - 1.

        Raises:
            InputError: Frames or masks cannot be read, or do not pair.
        """

    def problems(self, decode: bool) -> Iterator[str]:
        """What is wrong with the files, one line; decode: read all frames, not the last alone."""
        try:
            if not self.count:
                raise InputError("no frame is annotated")
            self.read(range(self.count) if decode else [self.count - 1])
        except InputError as error:
            yield f"{self.name}: {error}"


@dataclass(frozen=True)
class LabelMaps(Footage):
    """A sequence of frames with label maps."""

    sequence: MaskSequence

    @property
    def count(self) -> int:
        """See `Footage`."""
        return len(self.sequence.labels)

    def read(self, indices: Sequence[int]) -> list[Annotated]:
        """See `Footage`."""
        frames, found = list(self.sequence.labels), []
        for index in indices:
            labels = self.sequence.label_map(frames[index])
            masks = {int(i): labels == i for i in np.unique(labels) if i}
            found.append(Annotated(self.sequence.frame(frames[index]), masks))
        return found


@dataclass(frozen=True)
class Masklets(Footage):
    """A video of SA-V's training data: an mp4 file, and run lengths of every fourth frame."""

    video: Path

    @property
    def annotations(self) -> Path:
        """The JSON file beside the video."""
        return self.video.with_name(f"{self.name}{MASKLETS}")

    @property
    def count(self) -> int:
        """See `Footage`."""
        return len(_masklets(self.annotations))

    def read(self, indices: Sequence[int]) -> list[Annotated]:
        """See `Footage`."""
        shown = [_masklets(self.annotations)[index] for index in indices]
        wanted, found = dict(shown), []
        with open_video(self.video, prefetch=0) as video:
            for number, image in video.frames(shown[0][0], shown[-1][0] + 1):
                if number in wanted:
                    with place(f"{self.annotations}, frame {number}"):
                        masks = [mask_of(rle, image.shape[:2]) for rle in wanted.pop(number)]
                    seen = {i: mask for i, mask in enumerate(masks) if mask.any()}
                    found.append(Annotated(image, seen))
        if wanted:
            raise InputError(f"{self.video} has no frame {min(wanted)}, which has annotations")
        return found


# Files are of some megabytes; a clip asks for the same one a few times.
@lru_cache(maxsize=4)
def _masklets(path: Path) -> list[tuple[int, list[Any]]]:
    """Number of each frame of which all objects are annotated, and their run lengths."""
    content = read_json(path, "the masklets", {"masklet": [[object]]})
    rows = enumerate(content["masklet"])
    return [(SAV_STEP * k, row) for k, row in rows if row and None not in row]


@dataclass(frozen=True)
class Photo(Footage):
    """A labelled image."""

    image: LabelledImage

    def read(self, indices: Sequence[int]) -> list[Annotated]:
        """See `Footage`."""
        return [Annotated(read_image(self.image.path), self.image.read()) for _ in indices]


@dataclass(frozen=True)
class FootageSet:
    """A set to learn from.

    Attributes:
        layout: As in `LAYOUTS`.
        root: Where it lies.
        items: Its videos or images.
        weight: How often it is drawn from, beside other sets.
    """

    layout: str
    root: Path
    items: tuple[Footage, ...]
    weight: float = 1.0

    @property
    def moves(self) -> bool:
        """Whether it holds videos."""
        return not isinstance(self.items[0], Photo)


def _label_maps(found: SequenceSet[Any]) -> list[Footage]:
    # A training should leave no sequence out unasked.
    found.flaws.check(())
    return [LabelMaps(sequence.name, sequence) for sequence in found]


def training_davis(root: Path) -> Davis:
    """The training list of a DAVIS folder, or all its sequences where it has no such list."""
    lists = [n for n in TRAINING_SPLITS if (root / "ImageSets" / f"{n}.txt").is_file()]
    return Davis(root, lists[0] if lists else "all")


def _sav(root: Path) -> list[Footage]:
    if not root.is_dir():
        raise InputError(f"no such folder: {root}; give the one that holds ID.mp4 and ID{MASKLETS}")
    videos = [Masklets(path.stem, path) for path in sorted(root.rglob("*.mp4"))]
    annotated = set(root.rglob(f"*{MASKLETS}"))
    for video in videos:
        if video.annotations not in annotated:
            raise InputError(f"{video.video} has no {video.annotations.name} beside it; add it")
    for path in sorted(annotated - {video.annotations for video in videos}):
        raise InputError(f"{path} has no video {path.name.removesuffix(MASKLETS)}.mp4 beside it")
    return list(videos)


def _photos(root: Path) -> list[Footage]:
    return [Photo(image.name, image) for one in image_sets(root) for image in one.images]


LAYOUTS: dict[str, Callable[[Path], list[Footage]]] = {
    "davis": lambda root: _label_maps(training_davis(root)),
    "youtube-vos": lambda root: _label_maps(youtube_vos(root, "train")),
    "mose": lambda root: _label_maps(mose(root, "train")),
    "sav": _sav,
    "coco": _photos,
    "sa1b": _photos,
}


def open_set(text: str) -> FootageSet:
    """The set that a text names, such as "davis:DAVIS@2", "mose:MOSE" or "coco.json".

    Raises:
        InputError: The layout is unknown or cannot be told, nothing is there, or frames and masks
            of a video do not pair.
    """
    layout, root, weight = _parts(text)
    layout = layout or layout_of(root)
    with place(text):
        items = LAYOUTS[layout](root)
        if not items:
            raise InputError(f"there is nothing in layout {layout} at {root}; check the path")
    return FootageSet(layout, root, tuple(items), weight)


def _parts(text: str) -> tuple[str | None, Path, float]:
    named = re.fullmatch(rf"(?:({'|'.join(LAYOUTS)}):)?(.*?)(?:@(-?\d+\.?\d*|-?\.\d+))?", text)
    assert named is not None, "the path may be anything"
    layout, path, weight = named[1], Path(named[2]), float(named[3] or 1)
    if weight <= 0:
        raise InputError(f"the weight of {text} must be a number above 0, such as 2 or 0.1")
    head, colon, _ = named[2].partition(":")
    if colon and layout is None and head.replace("-", "").isalnum() and not path.exists():
        raise unknown_name(f"unknown layout {head!r}", head, LAYOUTS)
    return layout, path, weight


def layout_of(root: Path) -> str:
    """The layout of a file or folder; InputError if it is in none."""
    if root.is_file():
        return "coco"
    if not root.is_dir():
        raise InputError(f"no such file or folder: {root}; check the path")
    if any(root.glob("*.mp4")) or any(root.glob("*/*.mp4")):
        return "sav"
    if is_sa1b(root):
        return "sa1b"
    base = root / "train" if (root / "train" / "JPEGImages").is_dir() else root
    if (base / "JPEGImages").is_dir():
        if (base / "meta.json").is_file():
            schema = {"videos": {str: {"objects": object}}}
            videos = read_json(base / "meta.json", "the list", schema)["videos"].values()
            named = any(isinstance(video["objects"], dict) for video in videos)
            return "youtube-vos" if named else "mose"
        return "davis" if base is root else "mose"
    if (root / "images").is_dir() or any(root.glob("*.json")) or any(root.glob("*/labels")):
        return "coco"
    raise InputError(
        f"cannot tell the layout of {root}; say it, as in davis:{root}: one of {', '.join(LAYOUTS)}"
    )


def hold_out(
    sets: Sequence[FootageSet], names: Sequence[str] | None
) -> tuple[list[FootageSet], list[Footage]]:
    """Sets without what is held out for validation, and that.

    Args:
        sets: To learn from.
        names: Of videos or images; None holds out one in eight, at most four, of the videos, or
            of the images if there are no videos.

    Raises:
        InputError: A name is not there, or nothing is left of a set.
    """
    moving = [one for one in sets if one.moves] or sets
    if names is None:
        items = [item for one in moving for item in one.items]
        count = min(4, len(items) // 8)
        held = {items[(2 * i + 1) * len(items) // (2 * count)] for i in range(count)}
    else:
        known = {item.name: item for one in sets for item in one.items}
        for name in names:
            if name not in known:
                raise unknown_name(f"there is nothing called {name!r} to hold out", name, known)
        held = {known[name] for name in names}
    rest = [replace(one, items=tuple(i for i in one.items if i not in held)) for one in sets]
    for one in rest:
        if not one.items:
            raise InputError(f"all of {one.root} is held out; nothing is left to train on")
    return rest, [item for one in sets for item in one.items if item in held]


def check_set(root: Path, layout: str, decode: bool = False) -> Iterator[str]:
    """Every problem of a set's videos and images as one line; InputError if it cannot be listed."""
    for item in LAYOUTS[layout](root):
        yield from item.problems(decode)
