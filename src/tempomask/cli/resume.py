"""Going on with an interrupted run: finished masks stand in for the prompts that led to them.

What the tracker remembered is gone, so every object is prompted again with its mask on the last
finished frame on which it was seen, and frames from there on are tracked again without being
written. Prompts on later frames stay as they were given. Masks of a resumed run may therefore
differ a little from those of a run in one go.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tempomask.io.journal import Journal
from tempomask.prompts import Prompt

Direction = Literal["forward", "backward", "both"]


@dataclass(frozen=True)
class ResumePlan:
    """prompts and start of the run that goes on; `next_frame` is the first one to write."""

    prompts: list[Prompt]
    start: int
    next_frame: int


def plan(
    journal: Journal, prompts: Sequence[Prompt], next_frame: int, direction: Direction
) -> ResumePlan:
    """How to go on at `next_frame`, with the frames before it (backward: after it) finished."""
    sign = -1 if direction == "backward" else 1

    def reached(frame: int) -> bool:
        return sign * frame < sign * next_frame

    begun = {prompt.object_id for prompt in prompts if reached(prompt.frame)}
    seen = _last_masks(journal, begun, next_frame, sign)
    kept = [
        prompt
        for prompt in prompts
        if prompt.object_id not in seen or sign * prompt.frame > sign * seen[prompt.object_id].frame
    ]
    planned = [*seen.values(), *kept]
    frames = [sign * prompt.frame for prompt in planned]
    # Every frame before a later prompt has to be tracked too, so the next one is the latest start.
    start = sign * min([*frames, sign * next_frame])
    return ResumePlan(planned, start, next_frame)


def _last_masks(
    journal: Journal, object_ids: set[int], next_frame: int, sign: int
) -> dict[int, Prompt]:
    """A mask prompt per object, from the last finished frame before `next_frame` that shows it."""
    found: dict[int, Prompt] = {}
    finished = sorted(
        (frame for frame in journal.finished if sign * frame < sign * next_frame),
        key=lambda frame: -sign * frame,
    )
    for frame in finished:
        missing = object_ids - set(found)
        if not missing:
            break
        record = journal.record(frame)
        for place, object_id in enumerate(record.object_ids):
            if object_id in missing and record.areas[place]:
                mask = record.masks[place]
                found[object_id] = Prompt(frame=frame, object_id=object_id, mask=mask)
    return found
