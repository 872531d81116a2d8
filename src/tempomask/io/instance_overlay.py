"""Instances drawn over a frame: the mask in its track's colour, with id, class and score."""

from __future__ import annotations

from tempomask.io.instance_journal import InstanceRecord
from tempomask.io.overlay import DrawnMasks, draw_overlay
from tempomask.io.sources import Frame
from tempomask.results import InstanceResult


def draw_instances(
    frame: Frame, result: InstanceResult | InstanceRecord, *, opacity: float = 0.42
) -> Frame:
    """A copy of `frame` (H, W, 3), uint8 RGB, with the instances of `result` drawn over it.

    The colour belongs to the track id, and stays. opacity: of the fill, 0 to 1.
    Raises InputError if masks and frame differ in size.
    """
    rows = zip(result.track_ids.tolist(), result.names, result.scores.tolist(), strict=True)
    tags = {track_id: f"{track_id} {name} {score:.2f}" for track_id, name, score in rows}
    drawn = DrawnMasks(result.size, result.track_ids.tolist(), result.masks)
    return draw_overlay(frame, drawn, names=tags, opacity=opacity)
