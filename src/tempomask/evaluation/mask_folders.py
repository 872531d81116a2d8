"""Predicted masks on disk: SEQ/NNNNN.png, or SEQ/OBJECT/NNNNN.png where objects may overlap.

Written while tracking, read for scores, and packed into the zip that a benchmark's server takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tempomask.data.sequences import MaskSequence, ObjectSequence
from tempomask.errors import InputError
from tempomask.evaluation.protocols import ObjectFrames, Protocol
from tempomask.evaluation.submission import ReceivedZip, SubmissionFile
from tempomask.files import write_errors
from tempomask.io.images import image_size, opened, read_mask, write_label_png, write_mask_png
from tempomask.results import FrameResult


def write_masks(
    folder: Path, sequence: ObjectSequence, result: FrameResult, masks: NDArray[Any]
) -> None:
    """Write a frame's masks under the sequence's folder; objects that have not come are empty.

    masks: of the result's objects bool (N, H, W), or its label map (H, W) if objects share a file.
    """
    name = f"{sequence.images[result.index].stem}.png"
    with write_errors(folder):
        if sequence.folders is None:
            write_label_png(folder / name, masks)
            return
        for object_id, inside in sequence.folders.items():
            mask = np.zeros(result.size, dtype=bool)
            if object_id in result.object_ids:
                mask = masks[result.object_ids.index(object_id)]
            (folder / inside).mkdir(exist_ok=True)
            write_mask_png(folder / inside / name, mask)


def mask_paths(folder: Path, sequence: ObjectSequence, index: int) -> list[Path]:
    """The files with a frame's masks under the sequence's folder: one, or one for each object."""
    name = f"{sequence.images[index].stem}.png"
    if sequence.folders is None:
        return [folder / name]
    return [folder / inside / name for inside in sequence.folders.values()]


def read_masks(
    folder: Path, sequence: ObjectSequence, index: int, object_ids: Sequence[int]
) -> tuple[NDArray[np.bool_], set[int]]:
    """Predicted masks (N, H, W) of some objects on a frame, and all ids predicted there."""
    if sequence.folders is not None:
        found = np.zeros((len(object_ids), *sequence.size), dtype=bool)
        for place, object_id in enumerate(object_ids):
            path = folder / sequence.folders[object_id] / f"{sequence.images[index].stem}.png"
            labels = read_mask(path)
            sequence.check_size(labels.shape, path)
            if len(np.unique(labels)) > 2:
                raise InputError(f"{path} has several ids; it must hold one object's mask")
            found[place] = labels > 0
        return found, set()
    (path,) = mask_paths(folder, sequence, index)
    labels = read_mask(path)
    sequence.check_size(labels.shape, path)
    if isinstance(sequence, MaskSequence):
        labels = sequence.checked(labels, path)
    ids = set(np.unique(labels).tolist()) - {0}
    return labels == np.asarray(object_ids)[:, None, None], ids


def masks_root(folder: Path, sequences: Sequence[ObjectSequence]) -> Path:
    """The folder with a folder for each sequence: the one given, or `masks` or `Annotations` in it.

    Raises:
        InputError: There is no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"no such folder of masks: {folder}; it needs a folder for each sequence")
    if any((folder / sequence.name).is_dir() for sequence in sequences):
        return folder
    inside = (folder / name for name in ("masks", "Annotations"))
    return next((path for path in inside if path.is_dir()), folder)


def unpack_masks(path: Path, folder: Path, sequences: Sequence[ObjectSequence], top: str) -> Path:
    """The masks in a zip made for a server, in a folder.

    Args:
        path: Of the zip.
        folder: Where they are put.
        sequences: Whose masks are taken; all else stays in the zip.
        top: Same as in `SubmissionFile`.

    Raises:
        InputError: It is no zip, or has something else at its root.
    """
    received, prefix = ReceivedZip(path), f"{top}/" if top else ""
    names = [f"{prefix}{sequence.name}/" for sequence in sequences]
    found = any(name.startswith(tuple(names)) for name in received.sizes)
    remedy = f"zip the folder {top}/" if top else "zip from inside the folder that holds them"
    received.needs_root(found, f"{prefix}{sequences[0].name}/ and the others", remedy)
    for sequence in sequences:
        for index in range(len(sequence)):
            for file in mask_paths(Path(sequence.name), sequence, index):
                name = f"{prefix}{file.as_posix()}"
                if name in received.sizes:
                    (folder / file).parent.mkdir(parents=True, exist_ok=True)
                    (folder / file).write_bytes(received.read(name))
    return folder


def check_masks(
    folder: Path, sequences: Sequence[ObjectSequence], protocol: Protocol, every: bool = False
) -> None:
    """InputError unless every scored frame has its masks.

    Args:
        folder: From `masks_root`.
        sequences: Whose masks are needed.
        protocol: Whether a sequence may be missing.
        every: The frames that a benchmark asks for are needed too.
    """
    lacking = [item.name for item in sequences if not (folder / item.name).is_dir()]
    if lacking and not (protocol.absent_is_zero and not every and len(lacking) < len(sequences)):
        shown = ", ".join(lacking[:5]) + (", ..." if len(lacking) > 5 else "")
        deeper = next((path.parent for path in folder.glob(f"*/{lacking[0]}")), None)
        remedy = f"did you mean {deeper}?" if deeper else "add them, or name the sequences to score"
        raise InputError(
            f"{folder} has no masks for {len(lacking)} of {len(sequences)} sequences: {shown};"
            f" {remedy}"
        )
    for sequence in sequences:
        if sequence.name in lacking:
            continue
        needed = wanted_frames(sequence) if every else scored_frames(sequence)
        paths = [p for k in needed for p in mask_paths(folder / sequence.name, sequence, k)]
        missing = [path for path in paths if not path.is_file()]
        if missing:
            raise InputError(
                f"no predicted mask {missing[0]} ({len(missing)} of {len(paths)} are missing);"
                f" every {'frame of the benchmark' if every else 'scored frame'} needs one"
            )


def scored_frames(sequence: ObjectSequence) -> list[int]:
    """Indices of the frames on which some object is scored."""
    return sorted({k for item in sequence.objects for k in item.scored})


def wanted_frames(sequence: ObjectSequence) -> Sequence[int]:
    """Indices of the frames whose masks a benchmark asks for."""
    return range(len(sequence)) if sequence.written is None else sequence.written


def score_masks(
    folder: Path, sequence: ObjectSequence, protocol: Protocol
) -> tuple[list[ObjectFrames], set[int]]:
    """What a protocol measures of each object, and predicted ids of no object.

    folder: of the sequence. Reads the truth of the scored frames. Objects that no frame scores are
    left out.
    """
    rows: dict[int, dict[str, list[float]]] = {}
    strange: set[int] = set()
    scored = {item.object_id: frozenset(item.scored) for item in sequence.objects}
    for index in scored_frames(sequence):
        ids = [object_id for object_id, frames in scored.items() if index in frames]
        predicted, found = read_masks(folder, sequence, index, ids)
        strange |= found - scored.keys()
        for name, values in protocol.measure(predicted, sequence.masks(index, ids)).items():
            for object_id, value in zip(ids, values.tolist(), strict=True):
                rows.setdefault(object_id, {}).setdefault(name, []).append(value)
    objects = [
        ObjectFrames(
            sequence.name,
            item.object_id,
            item.group,
            {name: np.asarray(values) for name, values in rows[item.object_id].items()},
        )
        for item in sequence.objects
        if item.object_id in rows
    ]
    return objects, strange


def absent(sequence: ObjectSequence, protocol: Protocol) -> list[ObjectFrames]:
    """Scores of 0 on one frame for the objects of a sequence that nothing was predicted for."""
    nothing = np.zeros((1, 1, 1), dtype=bool)
    names = protocol.measure(nothing, nothing)
    return [
        ObjectFrames(sequence.name, o.object_id, o.group, {n: np.zeros(1) for n in names})
        for o in sequence.objects
    ]


def write_submission(
    submission: SubmissionFile, folder: Path, sequences: Sequence[ObjectSequence]
) -> None:
    """Check the masks, then write the zip that a benchmark's server takes, whole or not at all.

    Args:
        submission: The zip.
        folder: From `masks_root`, with all frames that the benchmark asks for.
        sequences: That it asks for.

    Raises:
        InputError: A mask is of another size, has no palette, or shows an id that the
            sequence does not have.
    """
    files: list[Path] = []
    for sequence in sequences:
        known = {item.object_id for item in sequence.objects}
        for index in wanted_frames(sequence):
            for file in mask_paths(folder / sequence.name, sequence, index):
                _check_file(file, sequence, known)
                files.append(file)
    with submission.writing() as archive:
        for file in files:
            archive.write(file, Path(submission.top) / file.relative_to(folder))


def _check_file(file: Path, sequence: ObjectSequence, known: set[int]) -> None:
    """InputError for a mask that a server would refuse or score as another object's."""
    size = image_size(file)
    if size != sequence.size:
        raise InputError(
            f"{file} has {size[1]} x {size[0]} pixels, the frames of {sequence.name} have"
            f" {sequence.size[1]} x {sequence.size[0]}; write masks of the frames' size"
        )
    if sequence.folders is not None:
        return
    with opened(file) as image:
        if image.mode != "P":
            raise InputError(
                f"{file} is an image of kind {image.mode}; the server takes PNG with a palette"
            )
        ids = set(np.unique(np.asarray(image)).tolist()) - {0}
    if ids - known:
        raise InputError(
            f"{file} has the id {min(ids - known)}, which {sequence.name} does not have"
            f" ({', '.join(map(str, sorted(known)))})"
        )
