"""A session: one video or stream, advanced frame by frame (SAM 2's video predictor)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from tempomask.errors import InputError
from tempomask.frames import Size
from tempomask.models.encoder import Policy, VideoPolicy, reads_results
from tempomask.models.segmenter import Segmenter
from tempomask.prompts import Prompt, check_given
from tempomask.results import FrameResult
from tempomask.tracking.frames import size_of
from tempomask.tracking.options import TrackingOptions
from tempomask.tracking.samurai import MotionAwareMemories, MotionChooser
from tempomask.tracking.selection import MemorySelector, RecentMemories
from tempomask.tracking.state import VideoState
from tempomask.tracking.upload import PreparedFrame

NO_SCORES = np.zeros(0, dtype=np.float32)


class Session:
    """Tracks objects through one video or stream: `prompt`, then `step` frame after frame.

    As a context manager it forgets the video at the end.

    segmenter: the network; it keeps nothing, so that several sessions can share it.
    num_frames: of the video if known; SAM 2 scales pointer distances by it below 16 frames.
    start: index of the first frame. reverse: frames come in descending order.
    size: (H, W) of the video if known, so that prompts are checked before the first frame.
    dtype: of the computation (autocast), float32 for none. policy: which encoder blocks run; of a
    `VideoPolicy` a fresh one is taken, so that several sessions can be given the same.
    selector: which memories are attended to; by default the rule of options.memory.
    """

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
        self.options = options = options or TrackingOptions()
        self.segmenter = segmenter
        self._start, self._reverse = start, reverse
        self._dtype, self._policy = dtype, policy
        recent = RecentMemories(
            memory_frames=segmenter.config.memory_frames,
            max_pointers=segmenter.config.max_pointers,
            stride=options.memory_stride,
            max_conditioning_frames=options.max_conditioning_frames,
            num_frames=num_frames,
        )
        samurai = options.samurai_constants(segmenter.config.name)
        if samurai is not None and samurai.official_quirks and reverse:
            raise InputError('memory="samurai-official" tracks forward only; use memory="samurai"')
        motion_aware = None if samurai is None else MotionAwareMemories(recent, samurai)
        self._chooser = None if samurai is None else MotionChooser(samurai)
        self._selector = selector or motion_aware or recent
        self.reset()
        self._state.frames.size = size

    def reset(self) -> None:
        """Forget the video: objects, memories, prompts, frame numbers and the frame size."""
        policy = self._policy
        if isinstance(policy, VideoPolicy):
            policy = policy.fresh()
        self._state = VideoState(
            self.segmenter,
            self.options,
            self._selector,
            policy,
            self._reverse,
            self._chooser,
        )
        self._pending: dict[int, list[Prompt]] = {}
        self._index: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.reset()

    @property
    def index(self) -> int | None:
        """The frame last stepped, None before the first."""
        return self._index

    @property
    def next_index(self) -> int:
        """The frame that `step` takes its argument for."""
        if self._index is None:
            return self._start
        return self._index + (-1 if self._state.reverse else 1)

    @property
    def size(self) -> Size | None:
        """(H, W) of the video, None until it is known."""
        return self._state.frames.size

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
        return sum(tracked.bank.num_bytes() for tracked in self._state.objects.values())

    def set_reverse(self, reverse: bool) -> None:
        """Go on in the other direction: forward, or in reverse."""
        self._state.reverse = reverse

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

        Arguments as of `Prompt`. frame None is the coming frame. For a frame already stepped this
        is a correction, and the frame's new result is returned; otherwise None, and the prompt
        waits. Each call is one interaction, like one click in SAM 2's demo: points add to those
        given earlier for the same frame, a box or a mask replaces them.
        """
        index = self.next_index if frame is None else frame
        return self.add(Prompt(index, object_id, points, labels, box, mask))

    def add(self, prompt: Prompt) -> FrameResult | None:
        """`prompt` with a ready-made Prompt."""
        if not self._is_ahead(prompt.frame):
            return self._correct(prompt)
        if self.size is not None:
            prompt.check_inside(self.size)
        self._pending.setdefault(prompt.frame, []).append(prompt)
        return None

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
        """
        if self._index is None:
            raise InputError("there is no frame to correct; call step first")
        index = self._index if frame is None else frame
        if self._is_ahead(index):
            raise InputError(f"frame {index} has not been stepped; use prompt for coming frames")
        return self._correct(Prompt(index, object_id, points, labels, box, mask))

    def _correct(self, prompt: Prompt) -> FrameResult:
        frames = self._state.frames
        if prompt.frame not in frames or frames.size is None:
            raise InputError(
                f"frame {prompt.frame} is not kept; only the last frame is, unless the session is"
                ' made with keep=N (so many frames more) or keep="all"'
            )
        prompt.check_inside(frames.size)
        check_given([prompt], self.object_ids)
        with self._running(), self._state.undone_on_failure():
            self._state.focus(prompt.frame)
            self._state.apply(prompt.frame, [prompt])
            return self._state.result(prompt.frame)

    def clear_points(self, object_id: int, frame: int) -> None:
        """Forget the points given for an object on a frame; the next prompt there starts anew."""
        if object_id in self._state.objects:
            self._state.objects[object_id].clicks.pop(frame, None)

    def clear_prompts(self, object_id: int, frame: int) -> None:
        """Forget that an object was prompted on a frame: it is tracked there as on any other."""
        self._state.forget_prompts(object_id, frame)

    def result(self, frame: int) -> FrameResult:
        """The result of a frame, of all objects whose result there is kept."""
        return self._state.result(frame)

    def remove(self, object_id: int) -> None:
        """Stop tracking an object; its id can be used again for a new one."""
        known = {*self.object_ids, *(prompt.object_id for prompt in self.waiting)}
        if object_id not in known:
            names = ", ".join(map(str, sorted(known))) or "none"
            raise InputError(f"there is no object {object_id} to remove; tracked: {names}")
        self._state.objects.pop(object_id, None)
        for index, prompts in self._pending.items():
            self._pending[index] = [p for p in prompts if p.object_id != object_id]

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

    def step(
        self, frame: NDArray[np.uint8] | PreparedFrame, index: int | None = None
    ) -> FrameResult:
        """Take in one frame (H, W, 3), uint8 RGB, and say where every object is in it.

        frame: may be prepared, see `prepare`. The result is not waited for before it is read.
        index: of the frame, next_index by default; a frame that is still kept can be tracked again.
        Without any object the encoder does not run, and the result has no rows.
        """
        checked = self._state.frames.check(frame)
        index = self.next_index if index is None else index
        known = self._is_ahead(index) or index in self._state.frames
        if not known and self.options.keep != "all":
            raise InputError(
                f"frame {index} has been passed and is not kept; make the session with keep=N or"
                ' keep="all" to track frames again'
            )
        prompts = self._due(index, size_of(checked))
        policy = self._state.frames.policy
        with self._running(), self._prompting(index, prompts):
            if isinstance(policy, VideoPolicy):
                policy.begin_frame()
            self._state.advance(self._index, index)
            self._state.frames.put(index, checked)
            self._index = index
            prompted = self._state.apply(index, prompts)
            self._state.track(index, prompted)
            self._state.forget(index, self.next_index)
            result = self._state.result(index)
            if isinstance(policy, VideoPolicy):
                scores = NO_SCORES, NO_SCORES
                if reads_results(policy):
                    scores = result.predicted_iou, result.object_scores
                policy.end_frame(*scores)
            return result

    def condition(
        self, frame: NDArray[np.uint8], prompts: Sequence[Prompt], *, afresh: bool = False
    ) -> FrameResult:
        """Apply prompts to their frame, out of turn: tracking need not have reached it.

        The frame's memory conditions all others from the next `step` on, also earlier ones.
        frame: (H, W, 3), uint8 RGB. prompts: at least one, all of the same frame. afresh: in place
        of the points given for their objects on that frame before.
        """
        indices = {prompt.frame for prompt in prompts}
        if len(indices) != 1:
            raise InputError(f"condition takes prompts of one frame, got {sorted(indices)}")
        checked = self._state.frames.check(frame)
        for prompt in prompts:
            prompt.check_inside(size_of(checked))
        check_given(prompts, self.object_ids)
        index = indices.pop()
        with self._running(), self._state.undone_on_failure():
            if afresh:
                for prompt in prompts:
                    self.clear_points(prompt.object_id, index)
            self._state.focus(index)
            self._state.frames.put(index, checked)
            self._state.apply(index, prompts)
            self._state.forget(self._index, self.next_index)
            return self._state.result(index)

    def _is_ahead(self, index: int) -> bool:
        """Whether tracking has yet to come to a frame."""
        sign = -1 if self._state.reverse else 1
        return sign * index >= sign * self.next_index

    def _due(self, index: int, size: Size) -> list[Prompt]:
        """Take the prompts that wait for a frame; one that does not fit is dropped and refused."""
        waiting = self._pending.get(index, [])
        for prompt in waiting:
            try:
                prompt.check_inside(size)
                check_given(
                    (p for p in waiting if p.object_id == prompt.object_id), self.object_ids
                )
            except InputError:
                waiting.remove(prompt)
                raise
        return self._pending.pop(index, [])

    @contextmanager
    def _prompting(self, index: int, prompts: list[Prompt]) -> Iterator[None]:
        """Put the session back as it was, the prompts waiting, if a prompted frame fails."""
        if not prompts:
            yield
            return
        before = self._index
        try:
            with self._state.undone_on_failure():
                yield
        except BaseException:
            self._index = before
            self._pending[index] = prompts
            raise

    @contextmanager
    def _running(self) -> Iterator[None]:
        device = self.segmenter.no_memory.device.type
        reduced = self._dtype != torch.float32
        casting: AbstractContextManager[Any] = nullcontext()
        if torch.amp.is_autocast_available(device):
            casting = torch.autocast(device, self._dtype, enabled=reduced)
        with torch.inference_mode(), casting:
            yield
