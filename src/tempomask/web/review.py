"""The review list: frames on which a mask is likely to be wrong."""

from __future__ import annotations

from collections.abc import Mapping
from math import hypot, sqrt
from typing import Literal, NamedTuple

from tempomask.web.state import MaskEntry

Reason = Literal["lost", "low", "jump"]
# Predicted IoU below which a mask is worth a look.
LOW_IOU = 0.6
# From one frame to the next: so many times the area, and so many times its side the place.
AREA_JUMP, PLACE_JUMP = 2.0, 0.75


class Item(NamedTuple):
    """A stretch of frames, first to last, that share a reason; worst: where to look."""

    object_id: int
    reason: Reason
    first: int
    last: int
    worst: int


def review(masks: Mapping[int, Mapping[int, MaskEntry]]) -> list[Item]:
    """What to look at, by frame.

    Args:
        masks: By object and frame.
    """
    items = []
    for object_id, frames in masks.items():
        stretches: list[tuple[Reason, list[tuple[float, int]]]] = []
        before: tuple[int, MaskEntry] | None = None
        for frame in sorted(frames):
            entry = frames[frame]
            reason, badness = _judge(entry, before, frame)
            if reason is not None:
                last = stretches[-1] if stretches else None
                if last and last[0] == reason and reason != "jump" and last[1][-1][1] == frame - 1:
                    last[1].append((badness, frame))
                else:
                    stretches.append((reason, [(badness, frame)]))
            before = frame, entry
        for reason, found in stretches:
            worst = found[0][1] if reason == "lost" else max(found)[1]
            items.append(Item(object_id, reason, found[0][1], found[-1][1], worst))
    return sorted(items, key=lambda item: (item.first, item.object_id))


def _judge(
    entry: MaskEntry, before: tuple[int, MaskEntry] | None, frame: int
) -> tuple[Reason | None, float]:
    """Why a mask is worth a look, and how much."""
    if not entry.area or entry.score <= 0:
        return "lost", 0.0
    if entry.iou < LOW_IOU:
        return "low", 1 - entry.iou
    if before is None or before[0] != frame - 1 or not before[1].area:
        return None, 0.0
    earlier = before[1]
    growth = max(entry.area / earlier.area, earlier.area / entry.area)
    (x, y), (u, v) = _middle(entry), _middle(earlier)
    moved = hypot(x - u, y - v) / sqrt(earlier.area)
    if growth > AREA_JUMP or moved > PLACE_JUMP:
        return "jump", max(growth / AREA_JUMP, moved / PLACE_JUMP)
    return None, 0.0


def _middle(entry: MaskEntry) -> tuple[float, float]:
    x0, y0, x1, y1 = entry.box
    return (x0 + x1) / 2, (y0 + y1) / 2
