"""DAVIS 2016 and 2017: sequences of frames with ground-truth label maps.

Layouts: `JPEGImages/480p/SEQ/00000.jpg` with `Annotations/480p/SEQ/00000.png` (or another
resolution), or the same without resolution folders; `ImageSets/YEAR/SUBSET.txt` names the sequences
of a split. Other data laid out so can be read too; names and numbers of the frames are free.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tempomask.errors import InputError, unknown_name
from tempomask.frames import Size
from tempomask.io.folder import (
    PICTURE_SUFFIXES,
    image_size,
    list_images,
    natural_key,
    read_image,
    unreadable,
)
from tempomask.io.masks import read_mask

RESOLUTIONS = ("480p", "Full-Resolution", "1080p")
# Looked for in this order when no split is named. DAVIS 2016 came with its lists in 480p/.
DEFAULT_SPLITS = ("2017/val", "2016/val", "480p/val")
SINGLE_OBJECT_YEARS = ("2016", "480p", "1080p")
_COLOUR_MODES = ("RGB", "RGBA", "LA")


@dataclass(frozen=True)
class DavisSequence:
    """One sequence: images and annotations in order, equally many.

    single_object: every annotated pixel belongs to object 1 (the DAVIS 2016 protocol).
    """

    name: str
    images: tuple[Path, ...]
    annotations: tuple[Path, ...]
    single_object: bool = False

    def __len__(self) -> int:
        return len(self.images)

    def first(self, count: int | None) -> DavisSequence:
        """The sequence as if it ended after so many frames; None for all."""
        images, annotations = self.images[:count], self.annotations[:count]
        return replace(self, images=images, annotations=annotations)

    @cached_property
    def size(self) -> Size:
        """(H, W) of the frames."""
        return image_size(self.images[0])

    @cached_property
    def object_ids(self) -> tuple[int, ...]:
        """Ids in the first annotation, ascending: the objects of the semi-supervised protocol.

        Raises InputError if there are none.
        """
        ids = tuple(int(i) for i in np.unique(self.label_map(0)) if i)
        if not ids:
            raise InputError(
                f"sequence {self.name}: the first annotation {self.annotations[0]} is empty; an"
                " object must be marked there to be tracked"
            )
        return ids

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """Frames (H, W, 3), uint8 RGB, one after the other."""
        for path in self.images:
            yield read_image(path)

    def label_map(self, index: int) -> NDArray[np.int32]:
        """Ground truth of a frame, int32 (H, W): 0 for background, else the object's id.

        A grey or colour image of nothing but 0 and 255 is one object with id 1.
        Raises InputError for other colours, and for an annotation of another size than the frames.
        """
        path = self.annotations[index]
        labels = _read_annotation(path)
        if labels.shape != self.size:
            raise InputError(
                f"annotation {path} has {labels.shape[1]} x {labels.shape[0]} pixels, the frames of"
                f" {self.name} have {self.size[1]} x {self.size[0]}; take both of one resolution"
            )
        return (labels > 0).astype(np.int32) if self.single_object else labels


class Davis:
    """The sequences under a DAVIS root.

    split: a list in ImageSets, such as "2017/val" or "2016/train" ("2016" alone is its val), or
        "all" for every sequence. None takes the val list of 2017, or else that of 2016, or else,
        without lists, every sequence.
    sequences: only these, whether they are in the split or not.
    single_object: as of `DavisSequence`; lists of 2016 imply it.
    resolution: folder such as "480p"; None takes 480p if it is there, else what is.
    max_frames: of each sequence, only so many of its first frames.

    Raises InputError for missing folders, unknown splits and sequences (with the nearest names),
    and for frames and annotations that do not pair.
    """

    def __init__(
        self,
        root: str | Path,
        split: str | None = None,
        sequences: Sequence[str] | None = None,
        single_object: bool = False,
        resolution: str | None = None,
        max_frames: int | None = None,
    ) -> None:
        self.root = Path(root)
        self.max_frames = max_frames
        _check_root(self.root)
        images, annotations = _folders(self.root, resolution)
        present = sorted((p.name for p in images.iterdir() if p.is_dir()), key=natural_key)
        if not present:
            raise InputError(f"no sequences under {images}; it needs a folder of frames for each")
        self.split = _existing_split(self.root, split)
        if sequences is not None:
            names = _known(sequences, present, self.root)
        elif self.split is None:
            names = present
        else:
            names = _listed(self.root, self.split, present)
        year = None if self.split is None else self.split.split("/")[0]
        single_object = single_object or year in SINGLE_OBJECT_YEARS
        self.sequences = [
            _pair(name, images / name, annotations / name, single_object).first(max_frames)
            for name in names
        ]

    def __len__(self) -> int:
        return len(self.sequences)

    def __iter__(self) -> Iterator[DavisSequence]:
        return iter(self.sequences)


def _check_root(root: Path) -> None:
    """InputError unless a folder holds JPEGImages and Annotations; says where they may be."""
    if not root.is_dir():
        raise InputError(f"no such folder: {root}; give the one that holds JPEGImages/")
    for part in ("JPEGImages", "Annotations"):
        if (root / part).is_dir():
            continue
        near = (*(p for p in (root.parent, root.parent.parent)), *sorted(root.iterdir()))
        found = next((path for path in near if (path / "JPEGImages").is_dir()), None)
        hint = f"; did you mean {found}?" if found and part == "JPEGImages" else ""
        raise InputError(
            f"{root / part} is missing; a DAVIS root holds JPEGImages/ and Annotations/{hint}"
        )


def _folders(root: Path, resolution: str | None) -> tuple[Path, Path]:
    """The folders that hold the sequences' frames and annotations."""
    images, annotations = root / "JPEGImages", root / "Annotations"
    wanted = RESOLUTIONS if resolution is None else (resolution,)
    for name in wanted:
        if (images / name).is_dir() and (annotations / name).is_dir():
            return images / name, annotations / name
    for name in wanted:
        if resolution or (images / name).is_dir() or (annotations / name).is_dir():
            lacking = annotations if (images / name).is_dir() else images
            raise InputError(f"{lacking / name} is missing; frames and annotations must pair")
    return images, annotations


def _existing_split(root: Path, split: str | None) -> str | None:
    """The name of the list to use, None for every sequence. InputError if it is not there."""
    if split == "all":
        return None
    if split is None:
        return next((name for name in DEFAULT_SPLITS if _list_path(root, name).is_file()), None)
    split = split.removesuffix(".txt")
    candidates = [split] if "/" in split else [f"{split}/val"]
    if split == "2016":
        candidates.append("480p/val")
    for name in candidates:
        if _list_path(root, name).is_file():
            return name
    lists = sorted((root / "ImageSets").glob("*/*.txt"))
    names = ", ".join(f"{path.parent.name}/{path.stem}" for path in lists)
    raise InputError(
        f"no list {_list_path(root, candidates[0])}; "
        + (f"there are {names}" if names else 'leave the split out, or use "all"')
    )


def _list_path(root: Path, split: str) -> Path:
    return root / "ImageSets" / f"{split}.txt"


def _listed(root: Path, split: str, present: Sequence[str]) -> list[str]:
    """Names in a split's list, all of which must be there."""
    path = _list_path(root, split)
    # DAVIS 2016 lists pairs of paths, one a frame; 2017 lists sequence names.
    words = [line.split()[0] for line in path.read_text().splitlines() if line.strip()]
    names = dict.fromkeys(Path(word).parent.name if "/" in word else word for word in words)
    if not names:
        raise InputError(f"{path} is empty; it must name one sequence a line")
    lacking = [name for name in names if name not in present]
    if lacking:
        raise InputError(
            f"{len(lacking)} of the {len(names)} sequences in {path} have no frames, such as"
            f' {lacking[0]}; name the sequences wanted, or use the split "all"'
        )
    return list(names)


def _known(wanted: Sequence[str], present: Sequence[str], root: Path) -> list[str]:
    """The wanted names, each once; InputError with near ones for a name that is not there."""
    if not wanted:
        raise InputError("no sequence named; leave sequences out for all of the split")
    for name in wanted:
        if name not in present:
            raise unknown_name(f"no sequence {name!r} under {root}", name, present)
    return list(dict.fromkeys(wanted))


def _pair(name: str, images: Path, annotations: Path, single_object: bool) -> DavisSequence:
    """A sequence whose frames and annotations have the same names."""
    if not annotations.is_dir():
        raise InputError(f"sequence {name} has frames but no annotations at {annotations}")
    frames = list_images(images)
    labels = {
        path.stem: path
        for path in annotations.iterdir()
        if path.suffix.lower() in PICTURE_SUFFIXES and not path.name.startswith(".")
    }
    counts = f"({len(frames)} frames, {len(labels)} annotations)"
    lacking = next((frame for frame in frames if frame.stem not in labels), None)
    if lacking is not None:
        hint = "; without the ground truth of all frames it cannot be scored"
        raise InputError(
            f"sequence {name}: frame {lacking.name} has no annotation {counts}"
            + (hint if len(labels) == 1 else "")
        )
    extra = sorted(set(labels) - {frame.stem for frame in frames}, key=natural_key)
    if extra:
        raise InputError(
            f"sequence {name}: annotation {labels[extra[0]].name} has no frame {counts}"
        )
    return DavisSequence(
        name, tuple(frames), tuple(labels[frame.stem] for frame in frames), single_object
    )


def _read_annotation(path: Path) -> NDArray[np.int32]:
    """A label map; also from a colour image of nothing but black and white."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            if image.format != "PNG" or image.mode not in _COLOUR_MODES:
                return read_mask(path)
            values = np.asarray(image)[..., : 1 if image.mode == "LA" else 3]
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise unreadable(path, error) from None
    white = (values == 255).all(axis=-1)
    if not (white | (values == 0).all(axis=-1)).all():
        raise InputError(
            f"annotation {path} is in colour; ids cannot be read from colours: save it as a palette"
            " or grey PNG whose pixel values are the object ids"
        )
    return white.astype(np.int32)
