"""SAM 2's predictor interface (`init_state`, `add_new_points_or_box`, `propagate_in_video`).

For scripts written for the official `SAM2VideoPredictor`: the same names, the same order of calls
and the same return values, over a `Session` that keeps every result for later corrections.

One default differs: a corrected frame becomes a conditioning frame, so that its correction stays
when the video is tracked again. The official predictor tracks such a frame anew and drops the
correction; `TrackingOptions.interactive(corrections_condition=False)` does so too.

Not there: `build_sam2_video_predictor` and `from_pretrained` (use `load`); the methods of a torch
module; keys of the state other than those of `InferenceState`; corner labels 2 and 3 among points
(give a box); `clear_non_cond_mem_around_input`. An empty mask, and clicks off an object of which
nothing has said the place, are refused. `ImagePredictor` and `AutomaticMaskGenerator` come from
`sam2_images.py`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from tempomask.compat.sam2_images import AutomaticMaskGenerator, ImagePredictor, as_model
from tempomask.errors import InputError, unknown_name
from tempomask.frames import Size
from tempomask.io.video import open_video
from tempomask.model import Model
from tempomask.models.segmenter import ABSENT_LOGIT, Segmenter
from tempomask.prompts import Prompt
from tempomask.results import FrameResult
from tempomask.routed_model import RoutingChoice
from tempomask.tracking.options import TrackingOptions
from tempomask.tracking.passes import FrameSource
from tempomask.tracking.session import Session

__all__ = ["AutomaticMaskGenerator", "ImagePredictor", "InferenceState", "VideoPredictor"]

Data = ArrayLike | Tensor
# frame index, object ids, logits (N, 1, H, W)
Answer = tuple[int, list[Any], Tensor]


@dataclass
class InferenceState:
    """A video and its session, readable by the keys that scripts for SAM 2 use.

    These are `state["video_height"]`, `["video_width"]`, `["num_frames"]`, `["obj_ids"]` and
    `["device"]`.

    prompted: the frames that received prompts, with the session's number of the object.
    names: ids as they were given, which may be of any kind, by that number.
    """

    video: FrameSource
    session: Session
    prompted: set[tuple[int, int]] = field(default_factory=set)
    names: dict[int, Hashable] = field(default_factory=dict)

    def __getitem__(self, key: str) -> Any:
        values = {
            "video_height": self.video.size[0],
            "video_width": self.video.size[1],
            "num_frames": self.video.num_frames,
            "obj_ids": self.object_ids,
            "device": self.session.segmenter.device,
        }
        if key not in values:
            raise unknown_name(f"the inference state has no {key!r}", str(key), values)
        return values[key]

    @property
    def object_ids(self) -> list[Any]:
        """Ids as they were given, in the order in which the objects came."""
        return [self.names[number] for number in self.session.object_ids]

    def number(self, obj_id: Hashable) -> int:
        """The session's number of an id; of a new one, the id itself if it is one and free."""
        for number, name in self.names.items():
            if name == obj_id:
                return number
        if isinstance(obj_id, int | np.integer) and int(obj_id) not in self.names:
            return int(obj_id)
        return next(number for number in count(1) if number not in self.names)

    def answer(self, result: FrameResult) -> Answer:
        """The result with a row for every object; those without a mask here are absent."""
        numbers = self.session.object_ids
        logits = torch.full((len(numbers), 1, *result.size), ABSENT_LOGIT)
        for number, mask in zip(result.object_ids, result.logits, strict=True):
            logits[numbers.index(number), 0] = torch.from_numpy(mask)
        return result.index, self.object_ids, logits


class _MaskOfAnySize(Prompt):
    """A mask that goes to the network's size at once, whatever the video's, as in SAM 2."""

    def check_inside(self, size: Size) -> None:
        """Every size fits."""


class VideoPredictor:
    """The official predictor's methods.

    Args:
        model: What `load` returns, whose adapter then chooses the blocks, or a network alone.
        dtype: Of the computation; None for the model's, or the one that the network's weights are
            stored for.
        options: None for `TrackingOptions.interactive()`, what the official builder turns on. Every
            result is kept, whatever `keep` says.
        routing: Same as in `Model.track`; a network alone takes a policy.

    Raises:
        InputError: For another dtype than reduced weights are stored in.
    """

    def __init__(
        self,
        model: Model | Segmenter,
        dtype: torch.dtype | None = None,
        options: TrackingOptions | None = None,
        routing: RoutingChoice = None,
    ) -> None:
        model = as_model(model)
        self.segmenter, self.dtype = model.segmenter, dtype or model.dtype
        self.policy = model.policy(routing)
        if self.segmenter.dtype not in (torch.float32, self.dtype):
            stored, asked = (
                str(t).removeprefix("torch.") for t in (self.segmenter.dtype, self.dtype)
            )
            raise InputError(
                f"dtype {asked} does not fit weights stored as {stored}; leave dtype out, or load"
                f' the model with dtype="{asked}"'
            )
        self.options = replace(options or TrackingOptions.interactive(), keep="all")

    @property
    def device(self) -> torch.device:
        return self.segmenter.device

    @property
    def image_size(self) -> int:
        return self.segmenter.config.image_size

    def init_state(
        self,
        video_path: str | Path | FrameSource,
        offload_video_to_cpu: bool = True,
        offload_state_to_cpu: bool = False,
        async_loading_frames: bool = True,
    ) -> InferenceState:
        """Start on a video file, a folder of images, or a video that is open.

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
        return InferenceState(video, session)

    def add_new_points_or_box(
        self,
        inference_state: InferenceState,
        frame_idx: int,
        obj_id: Hashable,
        points: Data | None = None,
        labels: Data | None = None,
        clear_old_points: bool = True,
        normalize_coords: bool = True,
        box: Data | None = None,
    ) -> Answer:
        """Prompt an object on any frame; returns the frame's masks.

        points: (P, 2) or (1, P, 2); labels: (P,) or (1, P); box: any shape of four numbers.
        normalize_coords: they are in pixels of the video; False: from 0 to 1.
        """
        if box is not None and not clear_old_points:
            raise InputError("a box replaces earlier points; use clear_old_points=True")
        height, width = inference_state.video.size
        scale = np.float32(1) if normalize_coords else np.array([width, height], np.float32)
        prompt = Prompt(
            frame_idx,
            inference_state.number(obj_id),
            points=None if points is None else _unbatched(points, 2) * scale,
            labels=None if labels is None else _unbatched(labels, 1),
            box=None if box is None else _corners(box, scale),
        )
        return self._add(inference_state, obj_id, prompt, clear_old_points)

    def add_new_points(self, *args: Any, **kwargs: Any) -> Answer:
        """The earlier name of `add_new_points_or_box`."""
        return self.add_new_points_or_box(*args, **kwargs)

    def add_new_mask(
        self, inference_state: InferenceState, frame_idx: int, obj_id: Hashable, mask: Data
    ) -> Answer:
        """Give the mask (h, w) of an object on any frame; returns the frame's masks.

        It may have another size than the video. Non-zero is the object; of a tensor of floats, what
        is at least 0.5.
        """
        soft = isinstance(mask, Tensor) and mask.is_floating_point()
        array = _array(mask)
        number = inference_state.number(obj_id)
        prompt = _MaskOfAnySize(frame_idx, number, mask=array >= 0.5 if soft else array != 0)
        return self._add(inference_state, obj_id, prompt)

    def _add(
        self, state: InferenceState, obj_id: Hashable, prompt: Prompt, afresh: bool = False
    ) -> Answer:
        for _, frame in state.video.frames(prompt.frame, prompt.frame + 1):
            result = state.session.condition(frame, [prompt], afresh=afresh)
            state.names.setdefault(prompt.object_id, obj_id)
            state.prompted.add((prompt.frame, prompt.object_id))
            return state.answer(result)
        raise InputError(f"the video has no frame {prompt.frame}")

    def propagate_in_video_preflight(self, inference_state: InferenceState) -> None:
        """InputError unless every object has prompts; memories are made by the first step."""
        prompted = {number for _, number in inference_state.prompted}
        if not prompted:
            raise InputError("no object has been prompted; add points, a box or a mask first")
        for number in inference_state.session.object_ids:
            if number not in prompted:
                raise InputError(
                    f"object {inference_state.names[number]!r} has no prompts any more; add points,"
                    " a box or a mask, or remove it"
                )

    def propagate_in_video(
        self,
        inference_state: InferenceState,
        start_frame_idx: int | None = None,
        max_frame_num_to_track: int | None = None,
        reverse: bool = False,
    ) -> Iterator[Answer]:
        """Track from the first prompted frame, or the one given, and yield every frame's masks."""
        self.propagate_in_video_preflight(inference_state)
        state, last = inference_state, (inference_state.video.num_frames or 1) - 1
        start = min(state.prompted)[0] if start_frame_idx is None else start_frame_idx
        length = last + 1 if max_frame_num_to_track is None else max_frame_num_to_track
        if reverse and start == 0:
            return
        if reverse:
            frames = state.video.reversed_frames(start, max(start - length, 0))
        else:
            frames = state.video.frames(start, min(start + length, last) + 1)
        state.session.set_reverse(reverse)
        for index, frame in frames:
            result = state.session.step(frame, index)
            state.session.release_frames()
            yield state.answer(result)

    def clear_all_prompts_in_frame(
        self,
        inference_state: InferenceState,
        frame_idx: int,
        obj_id: Hashable,
        need_output: bool = True,
    ) -> Answer | None:
        """Forget an object's prompts on a frame; returns the frame's masks if need_output."""
        number = inference_state.number(obj_id)
        inference_state.session.clear_prompts(number, frame_idx)
        inference_state.prompted.discard((frame_idx, number))
        if not need_output:
            return None
        return inference_state.answer(inference_state.session.result(frame_idx))

    def remove_object(
        self,
        inference_state: InferenceState,
        obj_id: Hashable,
        strict: bool = False,
        need_output: bool = True,
    ) -> tuple[list[Any], list[tuple[int, Tensor]]]:
        """Stop tracking an object. strict: InputError if there is none with that id.

        Returns the ids that are left and, if need_output, the others' masks (N, 1, H, W) on the
        frames on which it was prompted.
        """
        state, number = inference_state, inference_state.number(obj_id)
        if number not in state.session.object_ids:
            if strict:
                names = ", ".join(map(repr, state.object_ids)) or "none"
                raise InputError(f"there is no object {obj_id!r} to remove; tracked: {names}")
            return state.object_ids, []
        if len(state.names) == 1:
            self.reset_state(state)
            return [], []
        frames = sorted(index for index, prompted in state.prompted if prompted == number)
        state.session.remove(number)
        del state.names[number]
        state.prompted.difference_update([(index, number) for index in frames])
        if not need_output:
            return state.object_ids, []
        answers = [state.answer(state.session.result(index)) for index in frames]
        return state.object_ids, [(index, logits) for index, _, logits in answers]

    def reset_state(self, inference_state: InferenceState) -> None:
        """Forget all objects and prompts of the video."""
        inference_state.session.reset()
        inference_state.prompted.clear()
        inference_state.names.clear()


def _array(data: Data) -> NDArray[Any]:
    if isinstance(data, Tensor):
        data = data.detach().cpu()
        return (data.float() if data.is_floating_point() else data).numpy()
    return np.asarray(data)


def _unbatched(data: Data, dimensions: int) -> NDArray[Any]:
    """The array without a leading dimension of one."""
    array = _array(data)
    return array[0] if array.ndim == dimensions + 1 and len(array) == 1 else array


def _corners(box: Data, scale: NDArray[Any] | np.float32) -> NDArray[Any]:
    """The box (4,) in pixels; one that is not four numbers is left for `Prompt` to refuse."""
    array = _array(box)
    return (array.reshape(2, 2) * scale).reshape(4) if array.size == 4 else array
