"""Zips of boxes for the servers of GOT-10k and TrackingNet, checked before they are written.

GOT-10k: NAME/NAME_001.txt with x,y,w,h a line, NAME/NAME_time.txt with the seconds of each frame.
TrackingNet: NAME.txt at the root. The first line is the box that was given.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tempomask.data.box_tracking import BoxSequence, BoxTrackingData
from tempomask.errors import InputError, warn
from tempomask.evaluation.submission import SubmissionFile

# Servers, and how many sequences they ask for.
_SERVERS = {"got10k": 180, "trackingnet": 511}


@dataclass(frozen=True)
class TrackedBoxes:
    """boxes: (T, 4) as x, y, w, h. seconds: (T,), of each frame; None where nobody measured."""

    boxes: NDArray[np.float64]
    seconds: NDArray[np.float64] | None


def check_set(data: BoxTrackingData) -> None:
    """InputError, before anything is tracked, for a set that no server takes."""
    if data.layout not in _SERVERS:
        raise InputError(
            f"--submission: {data.layout} has no server for boxes; {' and '.join(_SERVERS)} do"
        )
    if data.chosen is not None:
        raise InputError("--submission needs all sequences; leave --sequences out")
    if len(data) != _SERVERS[data.layout]:
        warn(
            f"--submission: the test set of {data.layout} has {_SERVERS[data.layout]} sequences,"
            f" here are {len(data)}"
        )


def write_box_submission(
    submission: SubmissionFile, data: BoxTrackingData, tracked: Mapping[str, TrackedBoxes]
) -> None:
    """Check the boxes of all sequences, then write the zip, whole or not at all.

    Raises:
        InputError: A sequence is missing or its boxes do not fit its frames, or the times are
            missing that GOT-10k asks for.
    """
    for sequence in data:
        _check(sequence, tracked.get(sequence.name), data.layout == "got10k")
    with submission.writing(zipfile.ZIP_DEFLATED) as archive:
        for sequence in data:
            name, found = sequence.name, tracked[sequence.name]
            boxes = np.concatenate([sequence.boxes[:1], found.boxes[1:]])
            text = "".join(",".join(f"{v:.3f}" for v in box) + "\n" for box in boxes.tolist())
            if found.seconds is not None and data.layout == "got10k":
                archive.writestr(f"{name}/{name}_001.txt", text)
                times = "".join(f"{value:.6f}\n" for value in found.seconds.tolist())
                archive.writestr(f"{name}/{name}_time.txt", times)
            else:
                archive.writestr(f"{name}.txt", text)


def _check(sequence: BoxSequence, found: TrackedBoxes | None, timed: bool) -> None:
    name, length = sequence.name, len(sequence)
    if found is None:
        raise InputError(f"sequence {name} has no boxes, and a server takes whole sets only")
    if len(found.boxes) != length:
        raise InputError(f"sequence {name} has {len(found.boxes)} boxes for {length} frames")
    wrong = ~np.isfinite(found.boxes).all(axis=1) | (found.boxes[:, 2:] < 0).any(axis=1)
    if wrong.any():
        raise InputError(f"sequence {name}: the box of frame {int(wrong.argmax())} is none")
    if timed and found.seconds is None:
        raise InputError(
            f"sequence {name} has no times, which GOT-10k asks for; put {name}_time.txt beside its"
            " boxes"
        )
    if timed and found.seconds is not None and len(found.seconds) != length:
        raise InputError(f"sequence {name} has {len(found.seconds)} times for {length} frames")
