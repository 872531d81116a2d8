"""A session: one video or stream, advanced frame by frame (SAM 2's video predictor).

This file says which frame and which prompts come when, and puts everything back if a frame fails;
`frame_step.py` is what happens on a frame, `state.py` what is known of the video.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from copy import copy
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from tempomask.errors import InputError
from tempomask.frames import Size
from tempomask.models.encoder import Policy
from tempomask.models.segmenter import Segmenter
from tempomask.ops.resumable import Resumable, agree, save_state
from tempomask.prompts import Prompt, check_given
from tempomask.results import FrameResult
from tempomask.tracking.base import PromptedSession, VideoSession, in_turn
from tempomask.tracking.frame_step import FrameStep
from tempomask.tracking.frames import FrameStore, size_of
from tempomask.tracking.memory_bank import bytes_of
from tempomask.tracking.options import TrackingOptions
from tempomask.tracking.rules import memory_rule
from tempomask.tracking.selection import MemorySelector
from tempomask.tracking.state import VideoState
from tempomask.tracking.upload import PreparedFrame

NO_SCORES = np.zeros(0, dtype=np.float32)


class Session(PromptedSession):
    """Tracks objects through one video or stream: `prompt`, then `step` frame after frame.

    Args:
        segmenter: The network; it keeps nothing, so that several sessions can share it.
        options: How the video is tracked.
        num_frames: Of the video if known; SAM 2 scales pointer distances by it below 16 frames.
        start: Index of the first frame.
        reverse: Frames come in descending order.
        size: (H, W) of the video if known, so that prompts are checked before the first frame.
        dtype: Of the computation, by autocast.
        policy: Which encoder blocks run; a fresh one is taken, so that several sessions can be
            given the same.
        selector: Which memories are attended to; None for the rule of options.memory.

    Example:
        >>> session = Session(segmenter)  # doctest: +SKIP
        >>> session.prompt(points=[(410, 260)])  # doctest: +SKIP
        >>> masks = [session.step(frame).masks for frame in frames]  # doctest: +SKIP
    """

    state_types: ClassVar = {
        **VideoSession.state_types,
        "_state": Resumable,
        "_frame_step": Resumable,
    }

    def __init__(
        self,
        segmenter: Segmenter,
        options: TrackingOptions | None = None,
        *,
        num_frames: int | None = None,
        start: int = 0,
        reverse: bool = False,
        size: Size | None = None,
        dtype: torch.dtype = torch.float32,
        policy: Policy | None = None,
        selector: MemorySelector | None = None,
    ) -> None:
        super().__init__(start=start, reverse=reverse, size=size, dtype=dtype)
        self.segmenter, self.options = segmenter, options or TrackingOptions()
        self._policy, self._first_direction = policy, reverse
        chosen, masks = memory_rule(self.options, segmenter.config, num_frames, reverse)
        budget = 1.0 if policy is None else policy.memory_budget
        self._frame_step = FrameStep(segmenter, self.options, selector or chosen, masks, budget)
        self._begin()

    @in_turn
    def reset(self) -> None:
        """Forget the video: objects, memories, prompts, frame numbers and the frame size."""
        super().reset()
        self._reverse = self._first_direction
        self._begin()

    def _begin(self) -> None:
        policy = None if self._policy is None else self._policy.fresh()
        dtype, resize = self._frame_step.memory_dtype, self.options.resize
        frames = FrameStore(self.segmenter, resize, policy, dtype)
        self._state = VideoState(frames, self._reverse)
        self._pending: dict[int, list[Prompt]] = {}

    @property
    def made_for(self) -> str:
        return f"{self.segmenter.config}, {self.options}"

    @property
    def device(self) -> torch.device:
        return self.segmenter.device

    def check_state(self) -> None:
        super().check_state()
        agree(self._state.reverse == self._reverse, "the direction")
        self._state.check_memories(self._frame_step.selector, self.next_index)

    @in_turn
    def state(self) -> bytes:
        """Same as in `VideoSession`; the last results' memories are encoded for it."""
        trimmed = copy(self)
        trimmed._state = self._state.copy()
        with self._computing(self.device):
            self._frame_step.remember(trimmed._state)
        if self._index is not None:
            trimmed._state.forget(self._frame_step.selector, 0, self._index, self.next_index)
        return save_state(trimmed, self.made_for)

    @property
    def object_ids(self) -> tuple[int, ...]:
        """Objects that are tracked now, in the order in which they came."""
        return tuple(self._state.objects)

    @property
    def waiting(self) -> tuple[Prompt, ...]:
        """Prompts for frames that have not come yet."""
        return tuple(prompt for prompts in self._pending.values() for prompt in prompts)

    def memory_bytes(self) -> int:
        """Bytes held by all objects' memory banks."""
        return bytes_of(bank for one in self._state.objects.values() for bank in one.banks)

    @in_turn
    def set_reverse(self, reverse: bool) -> None:
        """Go on in the other direction: forward, or in reverse."""
        self._reverse = self._state.reverse = reverse

    def prompt(
        self,
        *,
        object_id: int = 1,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        frame: int | None = None,
    ) -> FrameResult | None:
        """Say where an object is: on the coming frame, a later one, or one already stepped.

        Each call is one interaction, like one click in SAM 2's demo: points add to those given
        earlier for the same frame, a box or a mask replaces them. Arguments as in `Prompt`; frame
        None is the coming one.

        Returns:
            For a frame already stepped this is a correction, and the frame's new result; otherwise
            None, and the prompt waits.
        """
        frame = self.next_index if frame is None else frame
        return self.add(Prompt(frame, object_id, points, labels, box, mask))

    @in_turn
    def add(self, prompt: Prompt) -> FrameResult | None:
        """Same as `prompt`, with a ready-made Prompt."""
        if not self.is_ahead(prompt.frame):
            return self._correct(prompt)
        if self._size is not None:
            prompt.check_inside(self._size)
        self._pending.setdefault(prompt.frame, []).append(prompt)
        return None

    @in_turn
    def correct(
        self,
        *,
        object_id: int = 1,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        frame: int | None = None,
    ) -> FrameResult:
        """Correct an object on the frame last stepped, or on an earlier one that is still kept.

        The network sees the frame with its memories, the logits so far and all points given on this
        frame. The frame then conditions the following ones. An unknown object_id adds an object.
        Arguments as in `prompt`; frame None is the one last stepped.

        Raises:
            InputError: For a frame that is not kept, and prompts that do not fit.
        """
        if self._index is None:
            raise InputError("there is no frame to correct; call step first")
        index = self._index if frame is None else frame
        if self.is_ahead(index):
            raise InputError(f"frame {index} has not been stepped; use prompt for coming frames")
        return self._correct(Prompt(index, object_id, points, labels, box, mask))

    def _correct(self, prompt: Prompt) -> FrameResult:
        if prompt.frame not in self._state.frames or self._size is None:
            raise InputError(
                f"frame {prompt.frame} is not kept; only the last frame is, unless the session is"
                ' made with keep=N (so many frames more) or keep="all"'
            )
        prompt.check_inside(self._size)
        check_given([prompt], self.object_ids)
        with self._computing(self.segmenter.device), self._undone_on_failure():
            self._turn_to(prompt.frame)
            self._frame_step.prompt(self._state, prompt.frame, [prompt])
            return self.result(prompt.frame)

    @in_turn
    def clear_points(self, object_id: int, frame: int) -> None:
        """Forget the points given for an object on a frame; the next prompt there starts anew."""
        if object_id in self._state.objects:
            self._state.objects[object_id].clicks.pop(frame, None)

    @in_turn
    def clear_prompts(self, object_id: int, frame: int) -> None:
        """Forget that an object was prompted on a frame: it is tracked there as on any other."""
        self._state.forget_prompts(object_id, frame)

    @in_turn
    def remove(self, object_id: int) -> None:
        """Stop tracking an object; its id can be used again for a new one."""
        known = {*self.object_ids, *(prompt.object_id for prompt in self.waiting)}
        if object_id not in known:
            names = ", ".join(map(str, sorted(known))) or "none"
            raise InputError(f"there is no object {object_id} to remove; tracked: {names}")
        self._state.objects.pop(object_id, None)
        for index, prompts in self._pending.items():
            self._pending[index] = [p for p in prompts if p.object_id != object_id]

    @in_turn
    def release_frames(self) -> None:
        """Let go of all images but the last, which only keep="all" piles up.

        A correction of an earlier frame then has to bring its image: see `condition`.
        """
        self._state.frames.retain_frames({self._index})

    @property
    def sends_ahead(self) -> bool:
        """Whether frames gain by being given to `prepare` before their turn: on a CUDA GPU."""
        return self._state.frames.sends_ahead

    def prepare(self, frame: NDArray[np.uint8]) -> PreparedFrame:
        """Resize a frame (H, W, 3), uint8 RGB, and begin to copy it to the device.

        For `step`, in place of the frame itself. May be called from another thread than `step`, one
        call at a time; `Model.track` does so on a GPU.
        """
        return self._state.frames.prepare(frame)

    @in_turn
    def step(
        self, frame: NDArray[np.uint8] | PreparedFrame, index: int | None = None
    ) -> FrameResult:
        """Take in one frame and say where every object is in it.

        Without any object the encoder does not run, and the result has no rows.

        Args:
            frame: (H, W, 3), uint8 RGB, or prepared by `prepare`.
            index: Of the frame, `next_index` by default; a frame that is still kept can be tracked
                again.

        Returns:
            The result, which is not waited for before it is read.

        Raises:
            InputError: For a frame of another kind or size, or one that is not kept, and for
                prompts that do not fit it.
        """
        checked = self._taken(frame)
        index = self.next_index if index is None else index
        if not (self.is_ahead(index) or index in self._state.frames or self.options.keep == "all"):
            raise InputError(
                f"frame {index} has been passed and is not kept; make the session with keep=N or"
                ' keep="all" to track frames again'
            )
        prompts = self._due(index, size_of(checked))
        # A frame without prompts is not put back, so that it costs nothing.
        undone = self._undone_on_failure(index, prompts) if prompts else nullcontext()
        with self._computing(self.segmenter.device), undone:
            policy = self._state.frames.policy
            if policy is not None:
                policy.begin_frame()
            self._frame_step.remember(self._state)
            self._state.advance(self._index, index)
            self._state.frames.put(index, checked)
            self._index, self._size = index, size_of(checked)
            prompted = self._frame_step.prompt(self._state, index, prompts)
            self._frame_step.track(self._state, index, prompted)
            self._forget()
            result = self.result(index)
            if policy is not None and policy.reads_results:
                policy.end_frame(result.predicted_iou, result.object_scores)
            elif policy is not None:
                policy.end_frame(NO_SCORES, NO_SCORES)
            return result

    @in_turn
    def condition(
        self, frame: NDArray[np.uint8], prompts: Sequence[Prompt], *, afresh: bool = False
    ) -> FrameResult:
        """Apply prompts to their frame, out of turn: tracking need not have reached it.

        The frame's memory conditions all others from the next `step` on, also earlier ones.

        Args:
            frame: (H, W, 3), uint8 RGB.
            prompts: At least one, all of the same frame.
            afresh: In place of the points given for their objects on that frame before.

        Returns:
            The frame's result.
        """
        indices = {prompt.frame for prompt in prompts}
        if len(indices) != 1:
            raise InputError(f"condition takes prompts of one frame, got {sorted(indices)}")
        checked, index = self._taken(frame), indices.pop()
        for prompt in prompts:
            prompt.check_inside(size_of(checked))
        check_given(prompts, self.object_ids)
        with self._computing(self.segmenter.device), self._undone_on_failure():
            if afresh:
                for prompt in prompts:
                    self.clear_points(prompt.object_id, index)
            self._turn_to(index)
            self._state.frames.put(index, checked)
            self._size = size_of(checked)
            self._frame_step.prompt(self._state, index, prompts)
            self._forget()
            return self.result(index)

    @in_turn
    def result(self, frame: int) -> FrameResult:
        """The result of a frame, of all objects whose result there is kept."""
        if self._size is None:
            raise InputError("the size of the video is not known yet; step its first frame")
        return self._state.result(frame, self._size, self.options.non_overlapping)

    def _taken(self, frame: NDArray[np.uint8] | PreparedFrame) -> NDArray[np.uint8] | PreparedFrame:
        """The frame; InputError for one of another size than the video, or another network."""
        if not isinstance(frame, PreparedFrame):
            return self._checked(frame)
        side = self.segmenter.config.image_size
        if frame.pixels.shape[0] != side:
            raise InputError(
                f"a frame prepared for a network of {frame.pixels.shape[0]} pixels, and this one"
                f" takes {side}; prepare it by the session that steps it"
            )
        self._check_size(frame.size)
        return frame

    def _due(self, index: int, size: Size) -> list[Prompt]:
        """Take the prompts that wait for a frame; one that does not fit is dropped and refused."""
        waiting = self._pending.get(index, [])
        for prompt in waiting:
            try:
                prompt.check_inside(size)
                same = (p for p in waiting if p.object_id == prompt.object_id)
                check_given(same, self.object_ids)
            except InputError:
                waiting.remove(prompt)
                raise
        return self._pending.pop(index, [])

    def _turn_to(self, index: int) -> None:
        """Turn to a frame; first remember another one while its features are at hand."""
        if self._state.fresh is not None and self._state.fresh[0] != index:
            self._frame_step.remember(self._state)

    def _forget(self) -> None:
        """Drop everything that no later step and no allowed correction can reach."""
        if self.options.keep != "all":
            selector, keep = self._frame_step.selector, self.options.keep
            self._state.forget(selector, keep, self._index, self.next_index)

    @contextmanager
    def _undone_on_failure(self, index: int = 0, prompts: Sequence[Prompt] = ()) -> Iterator[None]:
        """Put the session back as it was, `prompts` waiting for their frame, if the frame fails."""
        state, before, size = self._state.copy(), self._index, self._size
        try:
            yield
        except BaseException:
            self._state, self._index, self._size = state, before, size
            if prompts:
                self._pending[index] = list(prompts)
            raise
