"""YouTube-VOS, MOSE, LVOS, SA-V and VOST: sequences of frames with the masks that are public.

Layouts are those that the data sets are handed out in. A list (meta.json) says which objects there
are and where each of them counts; without one, objects are those of the first label map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from tempomask.data.davis import paired, started
from tempomask.data.sequences import (
    FolderSequence,
    MaskSequence,
    ObjectSequence,
    SequenceSet,
    VideoObject,
    choose,
    folders,
    listed_once,
)
from tempomask.errors import InputError, place
from tempomask.files import read_json, read_text
from tempomask.io.sources import list_images

# LVOS annotates and ships every so many frames.
LVOS_STEP = 5


class VosSet(SequenceSet[ObjectSequence]):
    """The sequences of one of these data sets."""

    def __init__(
        self,
        root: Path,
        names: Iterable[str],
        read: Callable[[str], ObjectSequence],
        settings: dict[str, Any],
        notes: tuple[str, ...] = (),
    ) -> None:
        """Read each sequence; those with a flaw are noted, unless all have one."""
        self.root, self.notes, self._settings = root, notes, settings
        self._read_each(names, read)

    def settings(self) -> dict[str, Any]:
        """See `SequenceSet`."""
        return {**super().settings(), **self._settings}


def youtube_vos(
    root: str | Path,
    split: str = "valid",
    sequences: Sequence[str] | None = None,
    all_frames: bool = False,
) -> VosSet:
    """YouTube-VOS 2018 or 2019: each object from the first frame of its list in meta.json.

    Masks are asked for on the listed frames only. Where all of them are annotated, as in training
    data, they are scored. Unseen are classes that train/meta.json, beside the split, does not have.

    Args:
        root: Folder that holds the splits, or a split's own.
        split: train, valid or test.
        sequences: Only these.
        all_frames: Take the frames of SPLIT_all_frames/, of which every fifth is listed.

    Raises:
        InputError: A folder or list is missing or of another data set, or a sequence unknown.
    """
    base = _split_folder(Path(root), split)
    schema = {"videos": {str: {"objects": {str: {"category?": str, "frames": [str]}}}}}
    videos = _videos(base / "meta.json", "YouTube-VOS", schema)
    known = _training_classes(base.parent / "train" / "meta.json", schema)
    images = base / "JPEGImages"
    if all_frames:
        images = base.parent / f"{base.name}_all_frames" / "JPEGImages"
    _needs(images, base / "Annotations")

    def read(name: str) -> ObjectSequence:
        labelled = _paired(name, images, base / "Annotations")
        at = {path.stem: index for index, path in enumerate(labelled.images)}
        objects, written = [], set[int]()
        for key, entry in videos[name]["objects"].items():
            frames = [_index(at, frame, name) for frame in entry["frames"]]
            if not frames:
                raise InputError(f"sequence {name}: meta.json lists no frame of object {key}")
            complete = all(frame in labelled.labels for frame in frames)
            group = "" if known is None else "seen" if entry.get("category") in known else "unseen"
            scored = tuple(frames[1:]) if complete else ()
            objects.append(VideoObject(_number(key, name), frames[0], scored, group))
            written |= set(frames)
        return replace(labelled, listed=tuple(objects), written=tuple(sorted(written)))

    notes = ("frames: all, scored and written where listed",) if all_frames else ()
    settings = {"split": split, "all_frames": all_frames}
    return VosSet(base, _chosen(sequences, videos, base), read, settings, notes)


def mose(
    root: str | Path,
    split: str = "valid",
    sequences: Sequence[str] | None = None,
    version: Literal[1, 2] = 1,
) -> VosSet:
    """MOSE: label maps of all frames in training data, of the first one in the others.

    Args:
        root: Folder that holds the splits, or a split's own.
        split: train, valid or test.
        sequences: Only these.
        version: 2 takes the objects and the number of frames from meta.json.

    Raises:
        InputError: Same as in `youtube_vos`.
    """
    base = _split_folder(Path(root), split)
    images, annotations = base / "JPEGImages", base / "Annotations"
    _needs(images, annotations)
    present = [path.name for path in folders(images)]
    if version == 1:
        names = _chosen(sequences, present, base)
        settings = {"split": split, "version": 1}
        return VosSet(
            base, names, lambda name: started(_paired(name, images, annotations)), settings
        )
    schema = {"videos": {str: {"length": int, "objects": [(int, str)]}}}
    videos = _videos(base / "meta.json", "MOSEv2", schema)

    def read(name: str) -> ObjectSequence:
        labelled, length = _paired(name, images, annotations), videos[name]["length"]
        if length != len(labelled):
            raise InputError(
                f"sequence {name} has {len(labelled)} frames, meta.json says {length}; take those"
                " that belong together"
            )
        scored = tuple(range(1, length - 1)) if len(labelled.labels) == length else ()
        ids = [_number(key, name) for key in videos[name]["objects"]]
        return replace(
            labelled, listed=tuple(VideoObject(i, _first_mask(labelled, i), scored) for i in ids)
        )

    settings = {"split": split, "version": 2}
    return VosSet(base, _chosen(sequences, videos, base), read, settings)


def lvos(
    root: str | Path,
    split: str = "valid",
    sequences: Sequence[str] | None = None,
    unseen: str | Path | None = None,
) -> VosSet:
    """LVOS, version 1 or 2: each object within its own range of frames in SPLIT_meta.json.

    Args:
        root: Folder that holds the splits, or a split's own.
        split: valid or test.
        sequences: Only these.
        unseen: List of the videos of unseen classes, a name a line; by default unseen_videos.txt
            beside the split, if it is there.

    Raises:
        InputError: Same as in `youtube_vos`.
    """
    base = _split_folder(Path(root), split)
    images, annotations = base / "JPEGImages", base / "Annotations"
    _needs(images, annotations)
    number = (str, int)
    span = {"start": number, "end": number, "frame_nums": number}
    schema = {"videos": {str: {"objects": {str: {"frame_range": span}}}}}
    inside, above = (folder / f"{split}_meta.json" for folder in (base, base.parent))
    videos = _videos(above if above.is_file() and not inside.is_file() else inside, "LVOS", schema)
    beside = base.parent / "unseen_videos.txt"
    listed = Path(unseen) if unseen else beside if beside.is_file() else None
    names = None if listed is None else set(read_text(listed, "the list").split())

    def read(name: str) -> ObjectSequence:
        labelled = _paired(name, images, annotations)
        at = {_number(frame.stem, name): k for k, frame in enumerate(labelled.images)}
        group = "" if names is None else "unseen" if name in names else "seen"
        entries = videos[name]["objects"]
        with place(f"sequence {name}"):
            objects = [_ranged(key, e["frame_range"], at, labelled) for key, e in entries.items()]
        return replace(labelled, listed=tuple(replace(item, group=group) for item in objects))

    notes = ()
    if names is None:
        notes = ("without unseen_videos.txt there are no means over seen and unseen videos",)
    return VosSet(base, _chosen(sequences, videos, base), read, {"split": split}, notes)


def sav(root: str | Path, split: str = "val", sequences: Sequence[str] | None = None) -> VosSet:
    """SA-V: frames at 24 a second, for each object a folder of masks of every fourth frame.

    Args:
        root: Folder that holds JPEGImages_24fps/ and Annotations_6fps/, or sav_SPLIT/ with them.
        split: val or test.
        sequences: Only these.

    Raises:
        InputError: Same as in `youtube_vos`.
    """
    base = Path(root)
    base = base / f"sav_{split}" if (base / f"sav_{split}").is_dir() else base
    images, annotations = base / "JPEGImages_24fps", base / "Annotations_6fps"
    _needs(images, annotations)
    present = [path.name for path in folders(images)]
    names = sequences or _listed_names(base / f"sav_{split}.txt", present) or present

    def read(name: str) -> ObjectSequence:
        if not (annotations / name).is_dir():
            raise InputError(f"sequence {name} has frames but no annotations at {annotations}")
        frames = tuple(list_images(images / name))
        at = {path.stem: index for index, path in enumerate(frames)}
        inside = folders(annotations / name)
        if not inside or not all(path.name.isdecimal() for path in inside):
            raise InputError(
                f"{annotations / name} must hold a folder for each object, 000, 001 ...; is it of"
                " another data set?"
            )
        files = {
            path.name: {_index(at, m.stem, name): m for m in list_images(path)} for path in inside
        }
        return FolderSequence(name, frames, files)

    return VosSet(base, _chosen(names, present, base), read, {"split": split})


def vost(root: str | Path, split: str = "val", sequences: Sequence[str] | None = None) -> VosSet:
    """VOST: label maps of some frames, all of which are scored but the first and the last.

    Args:
        root: Folder that holds JPEGImages/, Annotations/ and ImageSets/.
        split: A list in ImageSets/: train, val or test.
        sequences: Only these.

    Raises:
        InputError: Same as in `youtube_vos`.
    """
    base = Path(root)
    images, annotations = base / "JPEGImages", base / "Annotations"
    _needs(images, annotations)
    present = [path.name for path in folders(images)]
    names = sequences or _listed_names(base / "ImageSets" / f"{split}.txt", present) or present
    names = _chosen(names, present, base)
    return VosSet(base, names, lambda name: _paired(name, images, annotations), {"split": split})


def _split_folder(root: Path, split: str) -> Path:
    if not root.is_dir():
        raise InputError(f"no such folder: {root}; give the one that holds {split}/")
    return root / split if (root / split).is_dir() else root


def _needs(images: Path, annotations: Path) -> None:
    for path in (images, annotations):
        if not path.is_dir():
            raise InputError(
                f"{path} is missing; the data set's folder holds {images.name}/ and"
                f" {annotations.name}/"
            )


def _videos(path: Path, owner: str, schema: Any) -> dict[str, Any]:
    """The videos of a list; InputError, which says whose it should be, if it is another's."""
    try:
        return read_json(path, "the list", schema)["videos"]
    except InputError as error:
        raise InputError(f"{error}; it must be the one that {owner} comes with") from None


def _training_classes(path: Path, schema: Any) -> set[str] | None:
    """The classes of the training data, None if its list is not there."""
    if not path.is_file():
        return None
    videos = _videos(path, "YouTube-VOS", schema).values()
    return {o["category"] for v in videos for o in v["objects"].values() if "category" in o}


def _chosen(wanted: Sequence[str] | None, present: Iterable[str], root: Path) -> list[str]:
    there = list(present)
    if not there:
        raise InputError(f"no sequences under {root}; it needs a folder of frames for each")
    return there if wanted is None else choose(wanted, there, root)


def _listed_names(path: Path, present: Sequence[str]) -> list[str] | None:
    """The names in a list, all of which must be there; None without the list."""
    if not path.is_file():
        return None
    names = read_text(path, "the list").split()
    lacking = [name for name in names if name not in present]
    if lacking or not names:
        what = f"names {lacking[0]}, which has no frames" if lacking else "is empty"
        raise InputError(f"the list {path} {what}; complete the data, or name the sequences wanted")
    return listed_once(names, path)


def _paired(name: str, images: Path, annotations: Path) -> MaskSequence:
    return paired(name, images / name, annotations / name, sparse=True)


def _number(text: str | int, name: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InputError(
            f"sequence {name}: {text!r} is not a number of an object or frame"
        ) from None


def _index(at: dict[str, int], frame: str, name: str) -> int:
    if frame not in at:
        raise InputError(
            f"sequence {name}: there is no frame {frame}, which the annotations name; take frames"
            " and annotations that belong together"
        )
    return at[frame]


def _first_mask(sequence: MaskSequence, object_id: int) -> int:
    """The first frame that shows an object; later ones are not read."""
    for index in sequence.labels:
        if (sequence.label_map(index) == object_id).any():
            return index
    raise InputError(f"sequence {sequence.name}: object {object_id} of meta.json has no mask")


def _ranged(
    key: str, span: dict[str, Any], at: dict[int, int], sequence: MaskSequence
) -> VideoObject:
    """An object of LVOS; its frames are start, start + 5 ... below end, without first and last."""
    try:
        start, end, count = (int(span[name]) for name in ("start", "end", "frame_nums"))
    except ValueError:
        raise InputError(f"object {key} has a frame_range that is not a number: {span}") from None
    numbers = range(start, end, LVOS_STEP)
    if len(numbers) not in (count, count - 1) or count < 3:
        raise InputError(
            f"object {key} has frame_nums {count}, but its range has {len(numbers)} frames"
        )
    lacking = [number for number in numbers if number not in at]
    if lacking:
        raise InputError(f"object {key} has no frame {lacking[0]:08d}, which is in its range")
    inner = tuple(at[number] for number in numbers[1 : count - 1])
    known = all(index in sequence.labels for index in inner)
    return VideoObject(_number(key, sequence.name), at[start], inner if known else ())
