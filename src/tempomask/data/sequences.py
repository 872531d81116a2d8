"""Sequences of frames on disk, with or without masks: what the readers of data sets have in common.

A reader finds the files of its layout and makes sequences of them; evaluation and training know
sequences alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from tempomask.errors import Flaws, InputError, unknown_name, warn
from tempomask.frames import Size
from tempomask.io.images import (
    bit_depth,
    image_size,
    is_white_mask,
    read_image,
    read_mask,
    read_values,
)
from tempomask.io.sources import natural_key

# Pixels of an annotation that count for nothing.
VOID = 255


@dataclass(frozen=True, eq=False)
class FrameSequence:
    """The frames of one video.

    Attributes:
        name: Unique within its data set.
        images: Their files, in order.
    """

    name: str
    images: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def size(self) -> Size:
        """(H, W) of the frames."""
        return image_size(self.images[0])

    @cached_property
    def _bits(self) -> int | None:
        return bit_depth(self.images)

    def frame(self, index: int) -> NDArray[np.uint8]:
        """A frame (H, W, 3), uint8 RGB."""
        return read_image(self.images[index], self._bits)

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """Frames one after the other."""
        return map(self.frame, range(len(self)))


@dataclass(frozen=True)
class VideoObject:
    """An object of a video, and where it counts.

    Attributes:
        object_id: Its id.
        first: Index of the frame with its first mask, which is its prompt.
        scored: Indices of the frames on which its masks are compared, ascending; none where the
            truth is not public.
        group: "seen" or "unseen" in training, where a protocol tells them apart.
    """

    object_id: int
    first: int
    scored: tuple[int, ...] = ()
    group: str = ""


@dataclass(frozen=True, eq=False)
class ObjectSequence(FrameSequence):
    """Frames with objects, of which some frames show masks; a subclass knows the files.

    Attributes:
        written: Indices of the frames whose masks a benchmark asks for; None for all.
    """

    written: tuple[int, ...] | None = field(default=None, kw_only=True)

    @cached_property
    def objects(self) -> tuple[VideoObject, ...]:
        """Reads the first masks at most; InputError if there is no object."""
        raise TypeError(f"{type(self).__name__} must implement objects")

    @cached_property
    def folders(self) -> dict[int, str] | None:
        """The folder of each object's masks, by id; None where one label map holds all objects."""
        return None

    @property
    def mask_files(self) -> Iterable[Path]:
        """All files with masks."""
        raise TypeError(f"{type(self).__name__} must implement mask_files")

    def masks(self, index: int, object_ids: Sequence[int]) -> NDArray[np.bool_]:
        """True masks (N, H, W) of some objects on a frame; InputError if they cannot be read."""
        raise TypeError(f"{type(self).__name__} must implement masks")

    def check_sizes(self) -> None:
        """InputError for a frame or mask of another size; of each file the header alone is read."""
        for path in (*self.images, *self.mask_files):
            self.check_size(image_size(path), path)

    def check_prompts(self) -> None:
        """Read the first mask of every object; InputError if one is empty or of another size."""
        starts: dict[int, list[int]] = {}
        for item in self.objects:
            starts.setdefault(item.first, []).append(item.object_id)
        for index, ids in starts.items():
            for object_id, mask in zip(ids, self.masks(index, ids), strict=True):
                if not mask.any():
                    raise InputError(
                        f"sequence {self.name}: object {object_id} has no mask on frame"
                        f" {self.images[index].stem}, its first; it cannot be tracked without one"
                    )

    def check_size(self, size: tuple[int, ...], path: Path) -> None:
        """InputError for a file with another size (H, W) than the first frame."""
        if size != self.size:
            raise InputError(
                f"{path} has {size[1]} x {size[0]} pixels, the frames of"
                f" {self.name} have {self.size[1]} x {self.size[0]}; take both of one resolution"
            )


@dataclass(frozen=True, eq=False)
class MaskSequence(ObjectSequence):
    """Frames with label maps.

    Attributes:
        annotations: The files of the label maps, as many as there are images.
        single_object: Every annotated pixel belongs to object 1 (the DAVIS 2016 protocol).
        annotated: Indices of the frames that have them, ascending; None for every frame.
        listed: The objects that a list names; None for those of the first label map.
    """

    annotations: tuple[Path, ...]
    single_object: bool = False
    annotated: tuple[int, ...] | None = None
    listed: tuple[VideoObject, ...] | None = None

    def first(self, count: int | None) -> Self:
        """The sequence as if it ended after so many frames; None for all."""
        if count is None:
            return self
        paths = {k: path for k, path in self.labels.items() if k < count}
        annotated = None if self.annotated is None else tuple(paths)
        return replace(
            self,
            images=self.images[:count],
            annotations=tuple(paths.values()),
            annotated=annotated,
        )

    @cached_property
    def labels(self) -> dict[int, Path]:
        """The files of the label maps by the index of their frame."""
        indices = range(len(self.images)) if self.annotated is None else self.annotated
        return dict(zip(indices, self.annotations, strict=True))

    @cached_property
    def object_ids(self) -> tuple[int, ...]:
        """Ids in the first annotation, ascending: the objects of the semi-supervised protocol.

        Raises:
            InputError: There are none.
        """
        ids = tuple(int(i) for i in np.unique(self.label_map(next(iter(self.labels)))) if i)
        if not ids:
            raise InputError(
                f"sequence {self.name}: the first annotation {self.annotations[0]} is empty"
                f" ({VOID} is void); an object must be marked there to be tracked"
            )
        return ids

    @cached_property
    def objects(self) -> tuple[VideoObject, ...]:
        """Those listed, or those of the first label map, scored between the first and the last."""
        if self.listed is not None:
            return self.listed
        first, *others = self.labels
        return tuple(VideoObject(i, first, tuple(others[:-1])) for i in self.object_ids)

    @property
    def mask_files(self) -> Iterable[Path]:
        """See `ObjectSequence`."""
        return self.annotations

    def masks(self, index: int, object_ids: Sequence[int]) -> NDArray[np.bool_]:
        """See `ObjectSequence`."""
        return self.label_map(index) == np.asarray(object_ids)[:, None, None]

    def label_map(self, index: int) -> NDArray[np.int32]:
        """Ground truth of a frame, int32 (H, W): 0 for background, else the object's id.

        Where the first annotation is one object in white, the others are too. Else 255 is void, and
        background here, as in DAVIS's tool; in a map of 16 bits it is an id.

        Raises:
            InputError: The frame has none, ids cannot be read from the file, or its size is not
                that of the frames.
        """
        path = self.labels.get(index)
        if path is None:
            raise InputError(f"sequence {self.name}: {self.images[index].name} has no annotation")
        if self._white:
            labels = (read_mask(path) > 0).astype(np.int32)
        else:
            values = read_values(path)
            labels = values.astype(np.int32)
            if values.dtype.itemsize == 1:
                labels[labels == VOID] = 0
        return self.checked(labels, path)

    @cached_property
    def _white(self) -> bool:
        return is_white_mask(self.annotations[0])

    def checked(self, labels: NDArray[np.int32], path: Path) -> NDArray[np.int32]:
        """A label map of the sequence's size and objects; InputError, with its file, if it is not.

        Args:
            labels: int32 (H, W).
            path: Where it was read from.
        """
        self.check_size(labels.shape, path)
        return (labels > 0).astype(np.int32) if self.single_object else labels


@dataclass(frozen=True, eq=False)
class FolderSequence(ObjectSequence):
    """Frames with a folder of masks for each object; objects may overlap.

    Attributes:
        files: Mask files by object (the name of its folder, a number) and by index of the frame.
    """

    files: dict[str, dict[int, Path]]

    @cached_property
    def folders(self) -> dict[int, str]:
        """See `ObjectSequence`."""
        return {int(name): name for name in self.files}

    @cached_property
    def objects(self) -> tuple[VideoObject, ...]:
        """Each from its first mask that is not empty; its first and last files are not scored."""
        found = []
        for object_id, name in self.folders.items():
            first = next((k for k in self.files[name] if self.masks(k, [object_id]).any()), None)
            if first is None:
                raise InputError(f"sequence {self.name}: all masks of object {name} are empty")
            found.append(VideoObject(object_id, first, tuple(self.files[name])[1:-1]))
        return tuple(found)

    @property
    def mask_files(self) -> Iterable[Path]:
        """See `ObjectSequence`."""
        return (path for files in self.files.values() for path in files.values())

    def masks(self, index: int, object_ids: Sequence[int]) -> NDArray[np.bool_]:
        """See `ObjectSequence`."""
        found = np.zeros((len(object_ids), *self.size), dtype=bool)
        for place, object_id in enumerate(object_ids):
            path = self.files[self.folders[object_id]].get(index)
            if path is None:
                raise InputError(
                    f"sequence {self.name}: object {object_id} has no mask for"
                    f" {self.images[index].name}"
                )
            values = read_values(path)
            self.check_size(values.shape, path)
            found[place] = values > 0
        return found


def read_sized(path: Path, size: Size, owner: str) -> NDArray[np.uint8]:
    """An image (H, W, 3), uint8 RGB, of which annotations say how large it is.

    Raises:
        InputError: It is missing or has another size, with the owner: what the image is of.
    """
    if not path.is_file():
        raise InputError(f"no image {path}, {owner}; add it")
    image = read_image(path)
    if image.shape[:2] != size:
        raise InputError(
            f"{path} has {image.shape[1]} x {image.shape[0]} pixels, but the annotations of {owner}"
            f" say {size[1]} x {size[0]}; take those that belong together"
        )
    return image


AnySequence = TypeVar("AnySequence", bound=FrameSequence)


class SequenceSet(Generic[AnySequence]):
    """What every reader is: sequences in order, under a root.

    Attributes:
        root: Folder of the data set.
        sequences: In order.
        flaws: Why other sequences cannot be read, by name.
        notes: What a reader of scores on them should know.
    """

    root: Path
    sequences: list[AnySequence]
    flaws: Flaws
    notes: tuple[str, ...] = ()

    def _read_each(self, names: Iterable[str], read: Callable[[str], AnySequence]) -> None:
        """Read the sequences of these names; those with a flaw are noted, unless all have one."""
        self.flaws, self.sequences = Flaws(), []
        for name in names:
            with self.flaws.of(name):
                self.sequences.append(read(name))
        self.flaws.check(self.sequences)

    def settings(self) -> dict[str, Any]:
        """What was read, for the records of an evaluation."""
        return {"dataset": self.root.resolve().name}

    def __len__(self) -> int:
        return len(self.sequences)

    def __iter__(self) -> Iterator[AnySequence]:
        return iter(self.sequences)


def choose(wanted: Sequence[str], present: Collection[str], root: Path) -> list[str]:
    """The wanted names, as `listed_once`; InputError with near ones for one that is not there."""
    if not wanted:
        raise InputError("no sequence named; leave sequences out for all of the split")
    for name in wanted:
        if name not in present:
            known = sorted(present, key=natural_key)
            raise unknown_name(f"no sequence {name!r} under {root}", name, known)
    return listed_once(wanted, "the list of sequences")


def listed_once(names: Sequence[str], path: Path | str) -> list[str]:
    """The names in a list, each once; a warning tells of those that come again."""
    once = dict.fromkeys(names)
    if len(once) < len(names):
        again = next(name for name in once if names.count(name) > 1)
        warn(f"{path} names {len(names) - len(once)} again, such as {again}; each is taken once")
    return list(once)


def folders(root: Path) -> list[Path]:
    """The folders in a folder, in natural order."""
    inside = (path for path in root.iterdir() if path.is_dir())
    return sorted(inside, key=lambda path: natural_key(path.name))
