"""DAVIS 2016 and 2017: sequences of frames with ground-truth label maps.

Layouts: `JPEGImages/480p/SEQ/00000.jpg` with `Annotations/480p/SEQ/00000.png`, or the same without
the resolution folder; `ImageSets/YEAR/SPLIT.txt` names the sequences of a split.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tempomask.errors import InputError

PICTURES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class DavisSequence:
    """One sequence: pictures and annotations in order, equally many.

    single_object: every annotated pixel belongs to object 1 (the DAVIS 2016 protocol).
    """

    name: str
    pictures: tuple[Path, ...]
    annotations: tuple[Path, ...]
    single_object: bool = False

    def __len__(self) -> int:
        return len(self.pictures)

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """Frames (H, W, 3), uint8 RGB, one after the other."""
        for path in self.pictures:
            yield np.asarray(Image.open(path).convert("RGB"))

    def label_map(self, index: int) -> NDArray[np.uint8]:
        """Ground truth (H, W) of a frame: 0 for background, else the object's id.

        A grey mask of 0 and 255 is one object with id 1. InputError for a colour picture.
        """
        path = self.annotations[index]
        with Image.open(path) as image:
            if image.mode not in ("P", "L", "1", "I", "I;16"):
                raise InputError(
                    f"annotation {path} is a {image.mode} picture; it must hold ids or grey values"
                )
            labels = np.asarray(image)
        binary = labels.dtype == bool or (labels.max(initial=0) == 255 and _is_binary(labels))
        if binary or self.single_object:
            return (labels > 0).astype(np.uint8)
        return labels.astype(np.uint8, copy=False)


def _is_binary(labels: NDArray[np.integer]) -> bool:
    return bool(np.isin(labels, (0, 255)).all())


class Davis:
    """The sequences under a DAVIS root.

    split: name of a list in ImageSets, for instance "2017/val"; None takes every sequence with
        annotations. sequences: only these. single_object: as of `DavisSequence`.

    Raises InputError for missing folders, unknown sequences and frames without annotation.
    """

    def __init__(
        self,
        root: str | Path,
        split: str | None = None,
        sequences: Sequence[str] | None = None,
        single_object: bool = False,
    ) -> None:
        self.root = Path(root)
        pictures = _with_resolution(self.root / "JPEGImages")
        annotations = _with_resolution(self.root / "Annotations")
        present = sorted(folder.name for folder in annotations.iterdir() if folder.is_dir())
        names = _read_split(self.root, split) if split else present
        if sequences is not None:
            _refuse_unknown(sequences, names, self.root)
            names = list(sequences)
        if not names:
            raise InputError(f"no sequences under {annotations}; it needs a folder for each")
        self.sequences = [
            _pair(name, pictures / name, annotations / name, single_object) for name in names
        ]

    def __len__(self) -> int:
        return len(self.sequences)

    def __iter__(self) -> Iterator[DavisSequence]:
        return iter(self.sequences)


def _with_resolution(folder: Path) -> Path:
    """The folder of the sequences: the one resolution folder inside, else the folder itself."""
    if not folder.is_dir():
        raise InputError(
            f"{folder} is missing; a DAVIS root holds JPEGImages/480p and Annotations/480p"
        )
    for name in ("480p", "Full-Resolution"):
        if (folder / name).is_dir():
            return folder / name
    return folder


def _read_split(root: Path, split: str) -> list[str]:
    path = root / "ImageSets" / f"{split}.txt"
    if not path.is_file():
        raise InputError(f"{path} is missing; leave the split out to take every sequence")
    # DAVIS 2016 lists pairs of paths, one a frame; 2017 lists sequence names.
    names = [line.split()[0] for line in path.read_text().splitlines() if line.strip()]
    return list(dict.fromkeys(n.strip("/").split("/")[-2] if "/" in n else n for n in names))


def _refuse_unknown(wanted: Sequence[str], known: Sequence[str], root: Path) -> None:
    for name in wanted:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.3) or list(known)[:3]
            raise InputError(f"no sequence {name!r} under {root}; near: {', '.join(near)}")


def _pair(name: str, pictures: Path, annotations: Path, single_object: bool) -> DavisSequence:
    """Pair frames with annotations by their stems; every frame needs one."""
    if not pictures.is_dir():
        raise InputError(f"sequence {name} has annotations but no frames at {pictures}")
    frames = sorted(p for p in pictures.iterdir() if p.suffix.lower() in PICTURES)
    labels = {path.stem: path for path in annotations.glob("*.png")}
    lacking = [frame.name for frame in frames if frame.stem not in labels]
    if lacking or not frames:
        missing = f"frame {lacking[0]} has no annotation" if lacking else "there are no frames"
        raise InputError(f"sequence {name}: {missing} ({len(frames)} frames, {len(labels)} masks)")
    extra = sorted(set(labels) - {frame.stem for frame in frames})
    if extra:
        raise InputError(f"sequence {name}: annotation {extra[0]}.png has no frame at {pictures}")
    return DavisSequence(
        name, tuple(frames), tuple(labels[frame.stem] for frame in frames), single_object
    )
