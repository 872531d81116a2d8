"""DAVIS 2016 and 2017: sequences of frames with ground-truth label maps.

Layouts: `JPEGImages/480p/SEQ/00000.jpg` with `Annotations/480p/SEQ/00000.png` (or another
resolution), or the same without resolution folders; `ImageSets/YEAR/SUBSET.txt` names the sequences
of a split. Other data laid out so can be read too; names and numbers of the frames are free.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tempomask.data.sequences import MaskSequence, SequenceSet, choose, folders, listed_once
from tempomask.errors import InputError
from tempomask.files import read_text
from tempomask.io.sources import list_images, natural_key

RESOLUTIONS = ("480p", "Full-Resolution", "1080p")
# Looked for in this order when no split is named. DAVIS 2016 came with its lists in 480p/.
DEFAULT_SPLITS = ("2017/val", "2016/val", "480p/val")
SINGLE_OBJECT_YEARS = ("2016", "480p", "1080p")


class Davis(SequenceSet[MaskSequence]):
    """The sequences under a DAVIS root."""

    def __init__(
        self,
        root: str | Path,
        split: str | None = None,
        sequences: Sequence[str] | None = None,
        single_object: bool = False,
        resolution: str | None = None,
        max_frames: int | None = None,
        sparse: bool = False,
    ) -> None:
        """Find the files of all sequences.

        Args:
            root: Folder that holds JPEGImages/ and Annotations/.
            split: A list in ImageSets, such as "2017/val" or "2016/train" ("2016" alone is its
                val), or "all" for every sequence. None takes the val list of 2017, or else that of
                2016, or else, without lists, every sequence.
            sequences: Only these, whether they are in the split or not.
            single_object: Same as in `MaskSequence`; lists of 2016 imply it.
            resolution: Folder such as "480p"; None takes 480p if it is there, else what is.
            max_frames: Of each sequence, only so many of its first frames.
            sparse: Frames may lack an annotation; those with one are scored.

        Raises:
            InputError: A folder is missing, a split or sequence is unknown (with the nearest
                names), or frames and annotations do not pair.
        """
        self.root = Path(root)
        self.max_frames = max_frames
        _check_root(self.root)
        images, annotations = _parts(self.root, resolution)
        present = [path.name for path in folders(images)]
        if not present:
            raise InputError(f"no sequences under {images}; it needs a folder of frames for each")
        self.split = _existing_split(self.root, split)
        if sequences is not None:
            names = choose(sequences, present, self.root)
        elif self.split is None:
            names = present
        else:
            names = _listed(self.root, self.split, present)
        year = None if self.split is None else self.split.split("/")[0]
        single_object = single_object or year in SINGLE_OBJECT_YEARS
        self._read_each(
            names,
            lambda name: started(
                paired(name, images / name, annotations / name, single_object, sparse)
            ).first(max_frames),
        )
        if max_frames is not None:
            self.notes = (
                f"only the first {max_frames} frames of each sequence: no scores to compare with"
                " others",
            )

        partly = [s.name for s in self if s.annotated is not None and len(s.annotations) > 1]
        if partly:
            more = ", ..." if len(partly) > 5 else ""
            shown = f"{', '.join(partly[:5])}{more}"
            self.notes = (*self.notes, f"only some frames are annotated, and scored, of {shown}")

    def settings(self) -> dict[str, Any]:
        """See `SequenceSet`."""
        return {
            **super().settings(),
            "split": self.split,
            "single_object": all(sequence.single_object for sequence in self),
            **({} if self.max_frames is None else {"max_frames": self.max_frames}),
        }


def _check_root(root: Path) -> None:
    """InputError unless a folder holds JPEGImages and Annotations; says where they may be."""
    if not root.is_dir():
        raise InputError(f"no such folder: {root}; give the one that holds JPEGImages/")
    for part in ("JPEGImages", "Annotations"):
        if (root / part).is_dir():
            continue
        near = (root.parent, root.parent.parent, *sorted(root.iterdir()))
        found = next((path for path in near if (path / "JPEGImages").is_dir()), None)
        hint = f"; did you mean {found}?" if found and part == "JPEGImages" else ""
        raise InputError(
            f"{root / part} is missing; a DAVIS root holds JPEGImages/ and Annotations/{hint}"
        )


def _parts(root: Path, resolution: str | None) -> tuple[Path, Path]:
    """The folders that hold the sequences' frames and annotations."""
    images, annotations = root / "JPEGImages", root / "Annotations"
    wanted = RESOLUTIONS if resolution is None else (resolution,)
    there = [[(part / name).is_dir() for part in (images, annotations)] for name in wanted]
    for name, both in zip(wanted, there, strict=True):
        if all(both):
            return images / name, annotations / name
    for name, both in zip(wanted, there, strict=True):
        if resolution or any(both):
            lacking = annotations if both[0] else images
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
    remedy = f"there are {names}" if names else 'leave the split out, or use "all"'
    raise InputError(f"no list {_list_path(root, candidates[0])}; {remedy}")


def _list_path(root: Path, split: str) -> Path:
    return root / "ImageSets" / f"{split}.txt"


def _listed(root: Path, split: str, present: Sequence[str]) -> list[str]:
    """Names in a split's list, all of which must be there."""
    path = _list_path(root, split)
    # DAVIS 2016 lists pairs of paths, one a frame; 2017 lists sequence names.
    words = [line.split()[0] for line in read_text(path, "the list").splitlines() if line.strip()]
    words = listed_once(words, path)
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


def paired(
    name: str, images: Path, annotations: Path, single_object: bool = False, sparse: bool = False
) -> MaskSequence:
    """A sequence whose frames and annotations have the same names.

    Args:
        name: Of the sequence.
        images: Folder of its frames.
        annotations: Folder of its label maps.
        single_object: Same as in `MaskSequence`.
        sparse: Frames may lack an annotation.

    Raises:
        InputError: Frames and annotations do not pair.
    """
    if not annotations.is_dir():
        raise InputError(f"sequence {name} has frames but no annotations at {annotations}")
    frames = list_images(images)
    labels = {path.stem: path for path in list_images(annotations)}
    counts = f"({len(frames)} frames, {len(labels)} annotations)"
    lacking = next((frame for frame in frames if frame.stem not in labels), None)
    if lacking is not None and not sparse:
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
    at = tuple(k for k, frame in enumerate(frames) if frame.stem in labels)
    return MaskSequence(
        name,
        tuple(frames),
        tuple(labels[frames[k].stem] for k in at),
        single_object,
        annotated=None if lacking is None else at,
    )


def started(sequence: MaskSequence) -> MaskSequence:
    """The sequence; InputError if its first frame, with which objects are given, has no mask."""
    if 0 not in sequence.labels:
        raise InputError(
            f"sequence {sequence.name} has no mask for its first frame"
            f" {sequence.images[0].name}; its objects are given there"
        )
    return sequence
