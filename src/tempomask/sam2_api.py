"""SAM 2's predictor interface (`init_state`, `add_new_points_or_box`, `propagate_in_video`).

For scripts written for the official `SAM2VideoPredictor`: the same names, the same order of calls
and the same return values, over a `Session` that keeps every result for later corrections.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from tempomask.errors import InputError
from tempomask.media.video import open_video
from tempomask.models.encoder import Policy
from tempomask.models.segmenter import ABSENT_LOGIT, Segmenter
from tempomask.tracking.options import tracking_options
from tempomask.tracking.propagate import FrameSource
from tempomask.tracking.session import Session
from tempomask.types import FrameResult, Prompt

# frame index, object ids, logits (N, 1, H, W)
Answer = tuple[int, list[int], Tensor]


@dataclass
class InferenceState:
    """A video and its session; prompted: the frames that received prompts."""

    video: FrameSource
    session: Session
    prompted: set[int]

    def answer(self, result: FrameResult) -> Answer:
        """The result with a row for every object; those without a mask here are absent."""
        ids = list(self.session.object_ids)
        logits = torch.full((len(ids), 1, *result.size), ABSENT_LOGIT)
        for object_id, mask in zip(result.object_ids, result.logits, strict=True):
            logits[ids.index(object_id), 0] = torch.from_numpy(mask)
        return result.index, ids, logits


class VideoPredictor:
    """The official predictor's methods.

    segmenter: the network, for instance `load("sam2.1-tiny").segmenter`. preset is "interactive",
    what the official builder turns on, and, as there, corrected frames do not become conditioning
    frames; dtype and options as of `Session` and `tracking_options`. policy: which encoder blocks
    run, all if None; of a model with an adapter `model.policy()`.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        dtype: torch.dtype = torch.float32,
        policy: Policy | None = None,
        **options: Any,
    ) -> None:
        self.segmenter, self.dtype, self.policy = segmenter, dtype, policy
        official = {"preset": "interactive", "keep": "all", "corrections_condition": False}
        self.options = tracking_options(**{**official, **options})

    def init_state(
        self,
        video_path: str | Path | FrameSource,
        offload_video_to_cpu: bool = True,
        offload_state_to_cpu: bool = False,
        async_loading_frames: bool = True,
    ) -> InferenceState:
        """Start on a video file, a folder of pictures, or a video that is open.

        The other parameters are taken so that scripts run as they are. Whatever they say, frames
        are read ahead by a thread and never all held; results are all kept, for later corrections.

        Raises InputError for a video that is missing, damaged, or cannot be read in any order.
        """
        del offload_video_to_cpu, offload_state_to_cpu, async_loading_frames
        video = open_video(video_path) if isinstance(video_path, str | Path) else video_path
        if not video.seekable or video.num_frames is None:
            raise InputError("the predictor needs a video that can be read in any order")
        session = Session(
            self.segmenter,
            self.options,
            num_frames=video.num_frames,
            size=video.size,
            dtype=self.dtype,
            policy=self.policy,
        )
        return InferenceState(video, session, set())

    def add_new_points_or_box(
        self,
        inference_state: InferenceState,
        frame_idx: int,
        obj_id: int,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        clear_old_points: bool = True,
        box: ArrayLike | None = None,
    ) -> Answer:
        """Prompt an object on any frame; returns the frame's masks."""
        if box is not None and not clear_old_points:
            raise InputError("a box replaces earlier points; use clear_old_points=True")
        if clear_old_points:
            inference_state.session.clear_points(obj_id, frame_idx)
        return self._add(inference_state, Prompt(frame_idx, obj_id, points, labels, box))

    def add_new_mask(
        self, inference_state: InferenceState, frame_idx: int, obj_id: int, mask: ArrayLike
    ) -> Answer:
        """Give the mask of an object on any frame; returns the frame's masks."""
        return self._add(inference_state, Prompt(frame_idx, obj_id, mask=mask))

    def _add(self, state: InferenceState, prompt: Prompt) -> Answer:
        for _, frame in state.video.frames(prompt.frame, prompt.frame + 1):
            state.prompted.add(prompt.frame)
            return state.answer(state.session.condition(frame, [prompt]))
        raise InputError(f"the video has no frame {prompt.frame}")

    def propagate_in_video(
        self,
        inference_state: InferenceState,
        start_frame_idx: int | None = None,
        max_frame_num_to_track: int | None = None,
        reverse: bool = False,
    ) -> Iterator[Answer]:
        """Track from the first prompted frame, or the one given, and yield every frame's masks."""
        state, last = inference_state, (inference_state.video.num_frames or 1) - 1
        if not state.prompted:
            raise InputError("no object has been prompted; add points, a box or a mask first")
        start = min(state.prompted) if start_frame_idx is None else start_frame_idx
        length = last + 1 if max_frame_num_to_track is None else max_frame_num_to_track
        if reverse and start == 0:
            return
        if reverse:
            frames = state.video.reversed_frames(start, max(start - length, 0))
        else:
            frames = state.video.frames(start, min(start + length, last) + 1)
        state.session.turn(reverse)
        for index, frame in frames:
            result = state.session.step(frame, index)
            state.session.drop_pictures()
            yield state.answer(result)

    def remove_object(self, inference_state: InferenceState, obj_id: int) -> list[int]:
        """Stop tracking an object; returns the ids that are left."""
        inference_state.session.remove(obj_id)
        return list(inference_state.session.object_ids)

    def reset_state(self, inference_state: InferenceState) -> None:
        """Forget all objects and prompts of the video."""
        inference_state.session.reset()
        inference_state.prompted.clear()
