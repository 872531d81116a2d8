"""What tracking and instance segmentation give: one result a frame, a summary of tracks at the end.

Shape legend: H x W the video's size, N objects or tracks, h x w low resolution (image_size / 4),
L encoder blocks, C classes, M decoder layers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tempomask.errors import InputError
from tempomask.frames import Size

if TYPE_CHECKING:
    import supervision

# Where objects may not overlap, the logits of all but the strongest are held at or below this.
OVERLAP_LOGIT = -10.0


class FrameArrays(NamedTuple):
    """What the network says about N objects on a frame, on the host.

    low_res_logits: float32 (N, h, w), threshold 0. object_scores: float32 (N,) logits, > 0 =
    present. predicted_iou: float32 (N,) in [0, 1], the network's guess of its mask's quality.
    """

    low_res_logits: NDArray[np.float32]
    object_scores: NDArray[np.float32]
    predicted_iou: NDArray[np.float32]


class DeferredArrays:
    """Arrays that are still being computed on another device; several threads may ask for them.

    fetch: waits for them; called once, when they are first asked for.
    """

    def __init__(self, fetch: Callable[[], FrameArrays]) -> None:
        self._fetch, self._lock = fetch, Lock()
        self._arrays: FrameArrays | None = None

    def get(self) -> FrameArrays:
        """The arrays; waits for them."""
        with self._lock:
            if self._arrays is None:
                self._arrays = self._fetch()
            return self._arrays

    def __reduce__(self) -> tuple[type[FrameArrays], FrameArrays]:
        """What is pickled or copied: the arrays, not the way to them."""
        return FrameArrays, self.get()


def mask_boxes(masks: NDArray[np.bool_]) -> NDArray[np.float32]:
    """float32 (N, 4): x0, y0, x1, y1 edges of masks (N, H, W), x1 and y1 past the last pixel.

    Zeros for an empty mask.
    """
    boxes = np.zeros((len(masks), 4), dtype=np.float32)
    for box, mask in zip(boxes, masks, strict=True):
        rows, columns = mask.any(axis=1).nonzero()[0], mask.any(axis=0).nonzero()[0]
        if len(rows):
            box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return boxes


@dataclass(frozen=True, eq=False)
class FrameResult:
    """The masks of all N objects on one frame.

    Everything at the video's size is computed when first asked for, then kept.

    Attributes:
        index: Of the frame.
        size: (H, W) of the video.
        object_ids: N ids, in the order in which the objects came.
        arrays: What the network says about them, or what fetches it from the device.
        blocks: bool (L,), which encoder blocks ran; all False where no object had to be found.
        non_overlapping: Each pixel is given to the strongest object only.
    """

    index: int
    size: Size
    object_ids: tuple[int, ...]
    arrays: FrameArrays | DeferredArrays
    blocks: NDArray[np.bool_]
    non_overlapping: bool = False

    @property
    def delivered(self) -> FrameArrays:
        """The arrays, waited for."""
        return self.arrays if isinstance(self.arrays, FrameArrays) else self.arrays.get()

    @property
    def low_res_logits(self) -> NDArray[np.float32]:
        """float32 (N, h, w), threshold 0."""
        return self.delivered.low_res_logits

    @property
    def object_scores(self) -> NDArray[np.float32]:
        """float32 (N,) logits, > 0 = present."""
        return self.delivered.object_scores

    @property
    def predicted_iou(self) -> NDArray[np.float32]:
        """float32 (N,) in [0, 1], the network's own guess of its mask's quality."""
        return self.delivered.predicted_iou

    def __repr__(self) -> str:
        areas = tuple(self.masks.sum(axis=(1, 2)).tolist())
        return (
            f"FrameResult(index={self.index}, size={self.size}, object_ids={self.object_ids},"
            f" areas={areas})"
        )

    @cached_property
    def logits(self) -> NDArray[np.float32]:
        """float32 (N, H, W): the low-resolution logits brought to the video's size bilinearly."""
        import torch
        from torch.nn import functional as F

        if not self.object_ids:
            return np.zeros((0, *self.size), dtype=np.float32)
        low = torch.from_numpy(self.low_res_logits)[:, None]
        logits = F.interpolate(low, size=self.size, mode="bilinear", align_corners=False)
        logits = logits[:, 0].numpy()
        if self.non_overlapping and len(logits) > 1:
            strongest = logits.argmax(axis=0)
            others = strongest[None] != np.arange(len(logits))[:, None, None]
            logits = np.where(others, np.minimum(logits, OVERLAP_LOGIT), logits)
        return logits

    @cached_property
    def masks(self) -> NDArray[np.bool_]:
        """Logits above 0: bool (N, H, W)."""
        return self.logits > 0

    @cached_property
    def boxes(self) -> NDArray[np.float32]:
        """float32 (N, 4): x0, y0, x1, y1 edges of the masks in pixels, zeros for an empty mask.

        A box can be given back as a prompt.
        """
        return mask_boxes(self.masks)

    @property
    def lost(self) -> NDArray[np.bool_]:
        """Of which objects nothing was found: bool (N,).

        The object score is not above 0, or `masks` is empty, which with non_overlapping it also is
        where stronger objects have all of it.
        """
        return ~self.masks.any(axis=(1, 2)) | (self.object_scores <= 0)

    def label_map(self) -> NDArray[np.int32]:
        """int32 (H, W): the object id of each pixel, 0 for none; overlaps go to the highest logit.

        Raises InputError if an object has the id 0, which means background here.
        """
        if 0 in self.object_ids:
            raise InputError("object id 0 is the background of a label map; use another id")
        labels = np.zeros(self.size, dtype=np.int32)
        if self.object_ids:
            ids = np.asarray(self.object_ids, dtype=np.int32)
            labels = np.where(self.masks.any(axis=0), ids[self.logits.argmax(axis=0)], labels)
        return labels

    def to_supervision(self) -> supervision.Detections:
        """The visible objects as `supervision.Detections`; needs the package supervision.

        confidence is predicted_iou, tracker_id and class_id the object id: annotators colour by
        class by default, and so tell objects apart.
        """
        try:
            import supervision
        except ImportError:
            raise ImportError(
                'to_supervision needs `pip install "tempomask[supervision]"`'
            ) from None
        visible = self.masks.any(axis=(1, 2))
        ids = np.asarray(self.object_ids, dtype=int)[visible]
        return supervision.Detections(
            xyxy=self.boxes[visible],
            mask=self.masks[visible],
            confidence=self.predicted_iou[visible],
            class_id=ids,
            tracker_id=ids,
        )


@dataclass(frozen=True, eq=False)
class InstanceResult:
    """The instances on one frame; N may be 0.

    Attributes:
        index: Of the frame.
        size: (H, W) of the video.
        track_ids: int64 (N,), ascending. An id stands for one track, from 1 in the order in which
            tracks were first shown, and stays with it to the end of the video, through gaps too.
        labels: int64 (N,), index in `classes` of the track's best class up to this frame.
        scores: float32 (N,) in [0, 1], probability of that class: softmax of the track's class
            logits averaged over its last frames (`InstanceOptions.score_frames`), never over frames
            to come.
        masks: bool (N, H, W); they may overlap. None of them is empty, unless the session was asked
            for all tracks (`min_score=0`).
        layers: bool (M,), which decoder layers ran on this frame.
        classes: The C names that labels point to.
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
        return mask_boxes(self.masks)


@dataclass(frozen=True, eq=False)
class InstanceTrack:
    """One track of a video.

    Attributes:
        track_id: Same as in `InstanceResult`.
        label: Best class, from the class logits averaged over the frames that show the track.
        score: Its probability.
        first_frame: The first that shows it.
        last_frame: The last one.
        num_frames: How many show it.
        mean_area: Of its masks on them, in pixels.
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
    """The tracks of a video, by ascending id; a video without any detection has none.

    Attributes:
        num_frames: Frames seen.
        size: (H, W) of the video, None before its first frame.
        classes: The names that labels point to.
        tracks: One entry a track.
        layers_run: Decoder layers that ran, mean over frames.
    """

    num_frames: int
    size: Size | None
    classes: tuple[str, ...]
    tracks: tuple[InstanceTrack, ...]
    layers_run: float

    def predictions(self, limit: int = 10) -> list[Prediction]:
        """The best pairs of track and class, highest score first, as MinVIS reports them.

        One track can appear with several classes. For the protocol, run with min_score=0, so that
        every track is there.

        Args:
            limit: How many pairs; the papers take 10.
        """
        rows = [
            Prediction(track.track_id, label, float(score))
            for track in self.tracks
            for label, score in enumerate(track.class_scores)
        ]
        return sorted(rows, key=lambda row: -row.score)[:limit]
