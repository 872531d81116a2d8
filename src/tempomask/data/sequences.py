"""Sequences of frames on disk, with or without masks: what the readers of data sets have in common.

A reader finds the files of its layout and makes sequences of them; evaluation and training know
sequences alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from tempomask.errors import Flaws, InputError, unknown_name
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

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """Frames (H, W, 3), uint8 RGB, one after the other."""
        bits = bit_depth(self.images)
        for path in self.images:
            yield read_image(path, bits)


@dataclass(frozen=True, eq=False)
class MaskSequence(FrameSequence):
    """Frames with a label map for each.

    Attributes:
        annotations: The files of the label maps, as many as there are images.
        single_object: Every annotated pixel belongs to object 1 (the DAVIS 2016 protocol).
    """

    annotations: tuple[Path, ...]
    single_object: bool = False

    def first(self, count: int | None) -> Self:
        """The sequence as if it ended after so many frames; None for all."""
        images, annotations = self.images[:count], self.annotations[:count]
        return replace(self, images=images, annotations=annotations)

    @cached_property
    def object_ids(self) -> tuple[int, ...]:
        """Ids in the first annotation, ascending: the objects of the semi-supervised protocol.

        Raises:
            InputError: There are none.
        """
        ids = tuple(int(i) for i in np.unique(self.label_map(0)) if i)
        if not ids:
            raise InputError(
                f"sequence {self.name}: the first annotation {self.annotations[0]} is empty"
                f" ({VOID} is void); an object must be marked there to be tracked"
            )
        return ids

    def label_map(self, index: int) -> NDArray[np.int32]:
        """Ground truth of a frame, int32 (H, W): 0 for background, else the object's id.

        Where the first annotation is one object in white, the others are too. Else 255 is void, and
        background here, as in DAVIS's tool.

        Raises:
            InputError: Ids cannot be read from the file, or its size is not that of the frames.
        """
        path = self.annotations[index]
        if self._white:
            labels = (read_mask(path) > 0).astype(np.int32)
        else:
            labels = read_values(path).astype(np.int32)
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
        if labels.shape != self.size:
            raise InputError(
                f"{path} has {labels.shape[1]} x {labels.shape[0]} pixels, the frames of"
                f" {self.name} have {self.size[1]} x {self.size[0]}; take both of one resolution"
            )
        return (labels > 0).astype(np.int32) if self.single_object else labels


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
    """The wanted names, each once; InputError with near ones for a name that is not there."""
    if not wanted:
        raise InputError("no sequence named; leave sequences out for all of the split")
    for name in wanted:
        if name not in present:
            known = sorted(present, key=natural_key)
            raise unknown_name(f"no sequence {name!r} under {root}", name, known)
    return list(dict.fromkeys(wanted))


def folders(root: Path) -> list[Path]:
    """The folders in a folder, in natural order."""
    inside = (path for path in root.iterdir() if path.is_dir())
    return sorted(inside, key=lambda path: natural_key(path.name))
