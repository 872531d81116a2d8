"""What instance segmentation gives: one result a frame, and a summary of the tracks at the end.

Shape legend: H x W the video's size, N tracks that a frame shows, C classes, M decoder layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tempomask.types import Size


@dataclass(frozen=True, eq=False)
class InstanceResult:
    """The instances on one frame; N may be 0.

    index: of the frame. size: (H, W).
    track_ids: int64 (N,), ascending. An id stands for one track, from 1 in the order in which
        tracks were first shown, and stays with it to the end of the video, through gaps as well.
    labels: int64 (N,), index in `classes` of the track's best class up to this frame.
    scores: float32 (N,) in [0, 1], probability of that class: softmax of the track's class logits
        averaged over its last frames (`InstanceOptions.score_frames`), never over frames to come.
    masks: bool (N, H, W); they may overlap. None of them is empty, unless the session was asked
        for all tracks (`min_score=0`).
    layers: bool (M,), which decoder layers ran on this frame.
    classes: the C names that labels point to.
    """

    index: int
    size: Size
    track_ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    scores: NDArray[np.float32]
    masks: NDArray[np.bool_]
    layers: NDArray[np.bool_]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.track_ids)

    @property
    def names(self) -> tuple[str, ...]:
        """The class name of each instance."""
        return tuple(self.classes[label] for label in self.labels)

    @cached_property
    def boxes(self) -> NDArray[np.float32]:
        """float32 (N, 4): x0, y0, x1, y1 edges in pixels (x1, y1 past the last pixel)."""
        boxes = np.zeros((len(self), 4), dtype=np.float32)
        for box, mask in zip(boxes, self.masks, strict=True):
            rows, columns = mask.any(axis=1).nonzero()[0], mask.any(axis=0).nonzero()[0]
            if len(rows):
                box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        return boxes


@dataclass(frozen=True, eq=False)
class InstanceTrack:
    """One track of a video.

    track_id: as in `InstanceResult`. label, score: best class and its probability from the class
    logits averaged over the frames that show the track. first_frame, last_frame: that show it.
    num_frames: how many show it. mean_area: of its masks on them, in pixels.
    class_scores: float32 (C,), softmax of the class logits averaged over *all* frames of the
    video, no-object left out: what MinVIS and DVIS++ rank for the YouTube-VIS protocol.
    """

    track_id: int
    label: int
    score: float
    first_frame: int
    last_frame: int
    num_frames: int
    mean_area: float
    class_scores: NDArray[np.float32]


class Prediction(NamedTuple):
    """A track with one of its classes, as a row of a YouTube-VIS results file."""

    track_id: int
    label: int
    score: float


@dataclass(frozen=True, eq=False)
class InstanceSummary:
    """The tracks of a video, by ascending id. num_frames: of the video. layers_run: a frame's mean.

    classes: the names that labels point to. A video without any detection has no tracks.
    """

    num_frames: int
    size: Size | None
    classes: tuple[str, ...]
    tracks: tuple[InstanceTrack, ...]
    layers_run: float

    def predictions(self, limit: int = 10) -> list[Prediction]:
        """The best pairs of track and class, highest score first, as MinVIS reports them.

        One track can appear with several classes. For the protocol, run with min_score=0, so that
        every track is there. limit: how many pairs; the papers take 10.
        """
        rows = [
            Prediction(track.track_id, label, float(score))
            for track in self.tracks
            for label, score in enumerate(track.class_scores)
        ]
        return sorted(rows, key=lambda row: -row.score)[:limit]
