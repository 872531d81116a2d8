"""Tracking through a whole video: a loop over `Session.step`, forward, backward or both."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from tempomask.errors import InputError, check_choice
from tempomask.frames import FrameSource, IndexedFrames
from tempomask.models.encoder import Policy
from tempomask.models.segmenter import Segmenter
from tempomask.prompts import Prompt, check_given
from tempomask.results import FrameResult
from tempomask.tracking.base import PromptedSession, next_frame
from tempomask.tracking.options import Direction, TrackingOptions
from tempomask.tracking.session import Session
from tempomask.tracking.spool import ResultSpool, merged, select_objects
from tempomask.tracking.upload import prepared_ahead

Results = Generator[FrameResult, None, None]


def track(
    segmenter: Segmenter,
    source: FrameSource,
    prompts: Prompt | Iterable[Prompt],
    *,
    direction: Direction = "forward",
    frames: range | None = None,
    options: TrackingOptions | None = None,
    dtype: torch.dtype = torch.float32,
    policy: Policy | None = None,
    state: bytes | None = None,
    opened: Callable[[Session], None] = lambda _session: None,
) -> Results:
    """Track all prompted objects; input is checked at once, frames are read as results are taken.

    With options.lookahead every prompted frame is remembered before tracking starts, as in SAM 2's
    offline predictor; otherwise prompts act when their frame comes, and tracking equals `step`.
    Arguments are those of `Model.track`, with its network, number type and policy. In both
    directions an object comes from a forward pass from its first prompted frame on, and from a
    backward pass before that. `opened` is told of the session whose state can be kept, which in
    both directions is that of the forward pass.

    Raises:
        InputError: For prompts that do not fit the video, and for a source that cannot be read
            backward where that is needed.
    """
    options = options or TrackingOptions()
    new_session = partial(
        Session,
        segmenter,
        options,
        num_frames=source.num_frames,
        size=source.size,
        dtype=dtype,
        policy=policy,
    )
    return track_in(
        new_session,
        source,
        prompts,
        direction=direction,
        frames=frames,
        lookahead=options.lookahead,
        state=state,
        opened=opened,
    )


def track_in(
    new_session: Callable[..., PromptedSession],
    source: FrameSource,
    prompts: Prompt | Iterable[Prompt],
    *,
    direction: Direction = "forward",
    frames: range | None = None,
    lookahead: bool = False,
    state: bytes | None = None,
    opened: Callable[[Any], None] = lambda _session: None,
) -> Results:
    """The same with sessions of any kind that takes prompts on later frames.

    Arguments are those of `track`, but for new_session: it makes one, given `start` and `reverse`.
    """
    ordered = checked_prompts(prompts, source)
    check_direction(direction, source, lookahead)
    frames = check_frames(frames, source.num_frames)
    check_given(in_order(ordered, direction, lookahead))
    passes = _Passes(source, ordered, new_session, lookahead, state, opened)
    planned = plan_passes(ordered, direction, frames, lookahead)
    for prompt in ordered:
        if frames is not None and not lookahead and prompt.frame not in frames:
            raise InputError(
                f"prompt on frame {prompt.frame} lies outside the tracked frames {frames[0]} to"
                f" {frames[-1]}; change frames, or allow lookahead"
            )
    if state is not None:
        planned = planned.after(next_frame(state))
    if direction == "forward":
        return passes.forward(*planned.forward)
    if direction == "backward":
        return passes.backward(planned.backward)
    return passes.both(frames.start if frames else 0, planned)


def check_frames(frames: range | None, num_frames: int | None) -> range | None:
    """The frames to track in ascending order, up to the end of the video.

    Args:
        frames: One whole range, in either order: `range(30, 90)` or `range(89, 29, -1)`. It may go
            beyond the end of the video: `range(30, sys.maxsize)` is all from frame 30 on.
        num_frames: Of the video, None where it does not tell.

    Raises:
        InputError: For anything else, and for a range without a frame of the video.
    """
    if frames is None:
        return None
    if not isinstance(frames, range) or abs(frames.step) != 1:
        raise InputError(f"frames must be a range with step 1 or -1, got {frames!r}")
    if not len(frames) or min(frames[0], frames[-1]) < 0:
        raise InputError(f"there are no frames in {frames!r}; give one such as range(30, 90)")
    low, high = sorted((frames[0], frames[-1]))
    if num_frames is not None and low >= num_frames:
        raise InputError(f"frame {low} lies beyond the video's {num_frames} frames")
    return range(low, high + 1 if num_frames is None else min(high + 1, num_frames))


def backward_frames(source: FrameSource, frames: range) -> IndexedFrames:
    """The frames of a descending range, which may be empty."""
    return source.reversed_frames(frames[0], frames[-1]) if frames else iter(())


class TrackingPasses(NamedTuple):
    """Which frames `track` goes through: first those of a backward pass, then of a forward one.

    backward: in descending order, none without that pass. forward: from the first number up to but
    without the second (None: the last frame and all); two equal ones without that pass.
    ahead: how many frames each pass reads before, for their prompts.
    """

    backward: range
    forward: tuple[int, int | None]
    ahead: int = 0

    def after(self, following: int) -> TrackingPasses:
        """What is left where the last pass has come to the frame `following`."""
        first, end = self.forward
        if first == end:
            return self._replace(backward=range(following, self.backward.stop, -1), ahead=0)
        backward = range(self.backward.start, following - 1, -1) if self.backward else range(0)
        return TrackingPasses(backward, (following, end), self.ahead if backward else 0)

    def frames_to_read(self, num_frames: int | None) -> int | None:
        """How many frames are read; None if that depends on a video that does not tell its length.

        num_frames: of the video, None where it does not.
        """
        first, end = self.forward
        passes = (len(self.backward) > 0) + (first != end)
        reads = len(self.backward) + passes * self.ahead
        if first == end:
            return reads
        if num_frames is None:
            return None
        return reads + max(num_frames if end is None else min(end, num_frames), first) - first


def plan_passes(
    prompts: Iterable[Prompt],
    direction: Direction,
    frames: range | None = None,
    lookahead: bool = False,
) -> TrackingPasses:
    """The frames of the passes; arguments as in `track`, frames as from `check_frames`."""
    listed = list(prompts)
    prompted = {prompt.frame for prompt in listed}
    ahead = len(prompted) if lookahead else 0
    start, end = (None, None) if frames is None else (frames.start, frames.stop)
    if direction == "forward":
        return TrackingPasses(range(0), (min(prompted) if start is None else start, end), ahead)
    if direction == "backward":
        last = max(prompted) if end is None else end - 1
        return TrackingPasses(range(last, (start or 0) - 1, -1), (0, 0), ahead)
    firsts = _first_frames(listed).values()
    low = start or 0
    begin = max(min(firsts), low)
    latest = max(firsts if lookahead else prompted)
    if end is not None:
        begin, latest = min(begin, end), min(latest, end - 1)
    needed = max(firsts) > low
    return TrackingPasses(range(latest, low - 1, -1) if needed else range(0), (begin, end), ahead)


def in_order(
    prompts: Iterable[Prompt], direction: Direction, lookahead: bool = False
) -> list[Prompt]:
    """The prompts as tracking comes to them; those of one frame in the order given.

    Backward without clicks off an object on frames where there is nothing to take away from yet.
    """
    ordered = sorted(prompts, key=lambda prompt: prompt.frame)
    if direction != "backward" or lookahead:
        return ordered
    last = {p.object_id: p.frame for p in ordered if not p.is_negative_only}
    begun = [p for p in ordered if p.frame <= last.get(p.object_id, p.frame)]
    return sorted(begun, key=lambda prompt: -prompt.frame)


def _first_frames(prompts: Iterable[Prompt]) -> dict[int, int]:
    """First prompted frame of each object, in the order in which objects come."""
    first: dict[int, int] = {}
    for prompt in sorted(prompts, key=lambda prompt: prompt.frame):
        first.setdefault(prompt.object_id, prompt.frame)
    return first


def check_direction(direction: str, source: FrameSource, lookahead: bool = False) -> None:
    """InputError for an unknown direction, and where the source would have to be rewound."""
    check_choice("direction", direction, Direction)
    if not source.seekable and (direction != "forward" or lookahead):
        what = "lookahead" if lookahead else f"direction {direction!r}"
        raise InputError(f"{what} needs a source that can be read in any order, such as a file")


def checked_prompts(prompts: Prompt | Iterable[Prompt], source: FrameSource) -> list[Prompt]:
    """The prompts by frame, those of one frame in the order given."""
    if not isinstance(prompts, Iterable | Prompt):
        raise InputError(f"prompts must be Prompt objects, got {type(prompts).__name__}")
    listed = [prompts] if isinstance(prompts, Prompt) else list(prompts)
    if not listed:
        raise InputError("no prompt given; say where the object is with a point, box or mask")
    for prompt in listed:
        if not isinstance(prompt, Prompt):
            raise InputError(f"prompts must be Prompt objects, got {type(prompt).__name__}")
        if source.num_frames is not None and prompt.frame >= source.num_frames:
            raise InputError(
                f"prompt on frame {prompt.frame}, but the video has {source.num_frames} frames"
                f" (0 to {source.num_frames - 1})"
            )
        prompt.check_inside(source.size)
    return sorted(listed, key=lambda prompt: prompt.frame)


class _Passes:
    """Passes through one video with one set of prompts."""

    def __init__(
        self,
        source: FrameSource,
        prompts: Sequence[Prompt],
        new_session: Callable[..., PromptedSession],
        lookahead: bool,
        state: bytes | None,
        opened: Callable[[Any], None],
    ) -> None:
        self._state, self._opened = state, opened
        self.source, self.prompts = source, prompts
        self.new_session, self.lookahead = new_session, lookahead
        self.first = _first_frames(prompts)

    def _begun(self, session: PromptedSession) -> PromptedSession:
        """The session that counts, with its kept state."""
        if self._state is not None:
            session.restore(self._state)
        self._opened(session)
        return session

    def _run(
        self, session: PromptedSession, frames: IndexedFrames, prompts: Sequence[Prompt]
    ) -> Results:
        """Step through frames in the order given."""
        if session.index is not None:
            prompts = [prompt for prompt in prompts if session.is_ahead(prompt.frame)]
        if self.lookahead and session.index is None:
            for index, group in groupby(self.prompts, key=lambda prompt: prompt.frame):
                session.condition(self._frame(index), list(group))
        elif not self.lookahead:
            for prompt in prompts:
                session.add(prompt)
        if session.sends_ahead and self.source.seekable:
            # Not from a camera, whose newest frame is wanted at once.
            with closing(prepared_ahead(frames, session.prepare)) as prepared:
                for index, frame in prepared:
                    yield session.step(frame, index)
        else:
            for index, frame in frames:
                yield session.step(frame, index)
        if session.waiting:
            raise InputError(
                f"the source ended before frame {session.waiting[0].frame}, which has a prompt"
            )

    def _frame(self, index: int) -> NDArray[np.uint8]:
        for _, frame in self.source.frames(index, index + 1):
            return frame
        raise InputError(f"the source ended before frame {index}, which has a prompt")

    def forward(self, start: int, end: int | None) -> Results:
        session = self._begun(self.new_session(start=start))
        return self._run(session, self.source.frames(start, end), self.prompts)

    def backward(self, frames: range) -> Results:
        session = self._begun(self.new_session(start=frames.start, reverse=True))
        return self._run_back(session, frames)

    def _run_back(self, session: PromptedSession, frames: range) -> Results:
        # Resumed, the backward pass of both directions stops before the first prompts.
        prompts = [p for p in in_order(self.prompts, "backward") if p.frame > frames.stop]
        return self._run(session, backward_frames(self.source, frames), prompts)

    def both(self, start: int, planned: TrackingPasses) -> Results:
        """Backward first, kept on disk; then forward, and each object from its proper pass."""
        begin, end = planned.forward
        with ResultSpool() as spool:
            if planned.backward:
                session = self.new_session(start=planned.backward[0], reverse=True)
                with closing(self._run_back(session, planned.backward)) as results:
                    for result in results:
                        earlier = [i for i, first in self.first.items() if result.index < first]
                        if earlier:
                            spool.put(result, earlier)
            for index in range(start, begin):
                result = spool.take(index)
                if result is not None:
                    yield self._in_order(result)
            # With lookahead all prompts may lie beyond the end.
            for result in self.forward(begin, end) if begin != end else ():
                later = [i for i in result.object_ids if result.index >= self.first[i]]
                result, earlier = select_objects(result, later), spool.take(result.index)
                yield self._in_order(result if earlier is None else merged(earlier, result))

    def _in_order(self, result: FrameResult) -> FrameResult:
        """All objects in the same order on every frame."""
        return select_objects(result, [i for i in self.first if i in result.object_ids])
