"""What "track forward", "backward" and "both" do: passes of `Model.track` with all prompts known.

Both is what `tempomask track --direction both --lookahead` does: each object forward from its first
prompted frame on, and backward before that. The other two begin at the frame a person looks at; a
few frames before it are tracked again first, so that the memories of an earlier pass are there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Literal

from tempomask.errors import InputError
from tempomask.io.sources import Video
from tempomask.model import Model
from tempomask.prompts import Prompt
from tempomask.results import FrameResult
from tempomask.routing.options import Routing
from tempomask.tracking.options import Direction
from tempomask.tracking.passes import plan_passes
from tempomask.web.clicker import OPTIONS

# As many frames as the memory holds.
WARM_UP = 6


@dataclass(frozen=True)
class Pass:
    """One way through the video.

    Attributes:
        direction: Of time.
        frames: All that are tracked, in ascending order.
        shown: Those whose masks are wanted, in ascending order.
        objects: Whose masks are wanted on a frame: None, all; "later", those prompted on it or
            before; "earlier", the others.
    """

    direction: Literal["forward", "backward"]
    frames: range
    shown: range
    objects: Literal["later", "earlier"] | None = None


def plan(prompts: Sequence[Prompt], direction: Direction, frame: int, limits: range) -> list[Pass]:
    """The passes of a run.

    Args:
        prompts: Of the objects to be tracked.
        direction: That was asked for.
        frame: Where forward and backward begin.
        limits: Frames that may change: the whole video, or a range of it.

    Raises:
        InputError: Without prompts.
    """
    if not prompts:
        raise InputError("nothing to track yet: click an object first, and unlock it")
    if direction == "both":
        return _both(prompts, limits)
    prompted = {prompt.frame for prompt in prompts}
    if direction == "forward":
        start = max(frame, limits.start)
        known = [each for each in prompted if each < start]
        first = max(min(known), start - WARM_UP) if known else start
        return [Pass("forward", range(first, limits.stop), range(start, limits.stop))]
    last = min(frame, limits.stop - 1)
    known = [each for each in prompted if each > last]
    first = min(max(known), last + WARM_UP) if known else last
    return [Pass("backward", range(limits.start, first + 1), range(limits.start, last + 1))]


def _both(prompts: Sequence[Prompt], limits: range) -> list[Pass]:
    planned = plan_passes(prompts, "both", limits, lookahead=True)
    passes = []
    begin, end = planned.forward
    if begin != end:
        frames = range(begin, limits.stop if end is None else end)
        passes.append(Pass("forward", frames, frames, "later"))
    if planned.backward:
        frames = range(planned.backward[-1], planned.backward[0] + 1)
        passes.append(Pass("backward", frames, frames, "earlier"))
    return passes


def results(
    model: Model,
    video: Video,
    prompts: Sequence[Prompt],
    passes: Sequence[Pass],
    routing: Routing | None,
) -> Iterator[tuple[FrameResult, Collection[int]]]:
    """Each wanted frame as it is done, and the objects whose masks are wanted on it."""
    first: dict[int, int] = {}
    for prompt in sorted(prompts, key=lambda prompt: prompt.frame):
        first.setdefault(prompt.object_id, prompt.frame)
    for each in passes:
        tracks = model.track(
            video,
            prompts,
            direction=each.direction,
            frames=each.frames,
            options=OPTIONS,
            routing=routing,
        )
        with closing(tracks):
            for result in tracks:
                if result.index not in each.shown:
                    continue
                wanted = [
                    i
                    for i in result.object_ids
                    if each.objects is None
                    or (result.index >= first[i]) == (each.objects == "later")
                ]
                if wanted:
                    yield result, wanted
