"""Objects that start by themselves: what is found on a frame begins a track unless one has it.

Found may be boxes or masks, of any detector or of `Model.everything`. N live objects, K found.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from tempomask.errors import InputError, check_least
from tempomask.frames import Frame, FrameSource, Size
from tempomask.models.encoder import Policy
from tempomask.models.segmenter import Segmenter
from tempomask.ops.boxes import box_overlap
from tempomask.prompts import Prompt, check_given
from tempomask.results import FrameResult, mask_boxes
from tempomask.tracking.options import TrackingOptions
from tempomask.tracking.passes import Results, check_frames, checked_prompts
from tempomask.tracking.session import Session


@runtime_checkable
class Detections(Protocol):
    """What is read of a `supervision.Detections`: boxes (K, 4), and masks (K, H, W) or None."""

    @property
    def xyxy(self) -> NDArray[Any]: ...
    @property
    def mask(self) -> NDArray[Any] | None: ...


# Of one frame: detections, boxes (K, 4) as x0, y0, x1, y1, or masks (K, H, W), bool; or nothing.
Found = Detections | NDArray[Any] | Sequence[Sequence[float]] | None
Find = Callable[[int, Frame], Found]


@dataclass(frozen=True)
class Arrivals:
    """What starts objects, and when.

    Args:
        find: Called with the index and the frame; or what it would give, by frame or for every
            frame from 0 on.
        overlap: IoU with a live object, of masks or boxes, from which on a found one is the same.
        most: Live objects at once. Beyond that, objects out of sight make room, the earliest first,
            and if there are none, nothing new begins.

    Raises:
        InputError: For numbers out of range.
    """

    find: Find | Mapping[int, Found] | Sequence[Found]
    overlap: float = 0.5
    most: int = 64

    def __post_init__(self) -> None:
        check_least(self, most=1)
        if not 0 < self.overlap <= 1:
            raise InputError(f"overlap must be above 0, and 1 at most, got {self.overlap}")

    def prompts(self, index: int, frame: Frame) -> list[Prompt]:
        """A prompt for each object that is found on a frame; their ids say nothing."""
        if callable(self.find):
            found = self.find(index, frame)
        elif isinstance(self.find, Mapping):
            found = self.find.get(index)
        else:
            found = self.find[index] if index < len(self.find) else None
        return _as_prompts(found, index, (frame.shape[0], frame.shape[1]))


def _as_prompts(found: Found, index: int, size: Size) -> list[Prompt]:
    if found is None:
        return []
    if isinstance(found, Detections):
        found = found.xyxy if found.mask is None else found.mask
    array = np.asarray(found)
    if array.ndim == 3 and array.shape[1:] == size:
        return [Prompt(index, mask=mask) for mask in array if mask.any()]
    if not array.size:
        return []
    if array.ndim != 2 or array.shape[1] != 4:
        raise InputError(
            f"what was found on frame {index} has shape {array.shape}; give boxes (K, 4), masks (K,"
            f" {size[0]}, {size[1]}) or supervision.Detections"
        )
    prompts = [Prompt(index, box=box) for box in array]
    for prompt in prompts:
        prompt.check_inside(size)
    return prompts


def follow(
    segmenter: Segmenter,
    source: FrameSource,
    arrivals: Arrivals,
    prompts: Prompt | Iterable[Prompt] = (),
    *,
    frames: range | None = None,
    options: TrackingOptions | None = None,
    dtype: torch.dtype = torch.float32,
    policy: Policy | None = None,
    state: bytes | None = None,
    opened: Callable[[Session], None] = lambda _session: None,
) -> Results:
    """Track forward what is prompted and what arrives; arguments as in `passes.track`.

    Raises:
        InputError: For bad input at once, for what is found when its frame comes.
    """
    options = options or TrackingOptions()
    if options.lookahead:
        raise InputError("lookahead needs all prompts before; it does not go with detections")
    listed = [prompts] if isinstance(prompts, Prompt) else list(prompts)
    ordered = checked_prompts(listed, source) if listed else []
    check_given(ordered)
    tracked = check_frames(frames or range(sys.maxsize), source.num_frames) or range(0)
    session = Session(
        segmenter,
        options,
        num_frames=source.num_frames,
        start=tracked.start,
        size=source.size,
        dtype=dtype,
        policy=policy,
    )
    if state is not None:
        session.restore(state)
    opened(session)
    for prompt in ordered:
        if session.is_ahead(prompt.frame):
            session.add(prompt)

    def results() -> Results:
        for index, frame in source.frames(session.next_index, tracked.stop):
            result = session.step(frame, index)
            for prompt in arrivals.prompts(index, frame):
                result = _begin(session, result, prompt, arrivals)
            yield result

    return results()


def _begin(session: Session, result: FrameResult, found: Prompt, arrivals: Arrivals) -> FrameResult:
    """Begin an object on the frame last stepped, unless a live one has it or there is no room."""
    if (overlaps(found, result) >= arrivals.overlap).any():
        return result
    ids = {*session.object_ids, *(prompt.object_id for prompt in session.waiting)}
    newest = max(ids, default=0)
    if len(session.object_ids) >= arrivals.most:
        # The newest stays, as the next id follows from it.
        lost = [i for i, gone in zip(result.object_ids, result.lost, strict=True) if gone]
        free = [i for i in lost if i != newest]
        if not free:
            return result
        session.remove(free[0])
    parts = {"box": found.box, "mask": found.mask}
    return session.correct(object_id=newest + 1, frame=result.index, **parts)


def overlaps(found: Prompt, result: FrameResult) -> NDArray[np.float64]:
    """IoU (N,) of a found mask with the masks of a frame, or of a found box with their boxes."""
    if found.mask is None:
        box = np.asarray(found.box).tolist()
        return np.array([box_overlap(box, other) for other in result.boxes.tolist()])
    return mask_overlaps(np.asarray(found.mask), result.masks)


def mask_overlaps(mask: NDArray[np.bool_], others: NDArray[np.bool_]) -> NDArray[np.float64]:
    """IoU (N,) of a mask (H, W) that is not empty with masks (N, H, W); none with none."""
    if not len(others):
        return np.zeros(0)
    left, top, right, bottom = mask_boxes(mask[None])[0].astype(int)
    part = np.s_[top:bottom, left:right]
    common = (others[:, *part] & mask[part]).sum(axis=(1, 2))
    return common / (mask.sum() + others.sum(axis=(1, 2)) - common)
