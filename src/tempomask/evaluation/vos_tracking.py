"""Tracking one video of a benchmark: prompts where objects first appear, masks to a folder."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from tempomask.data.sequences import ObjectSequence
from tempomask.evaluation.mask_folders import wanted_frames, write_masks
from tempomask.evaluation.prompts import CLICKS, PromptKind, add_error_clicks, prompt_of
from tempomask.evaluation.settings import Progress
from tempomask.matching.model import Matcher
from tempomask.model import Model
from tempomask.propagation.model import Propagator
from tempomask.routed_model import RoutingChoice
from tempomask.tracking.options import TrackingOptions
from tempomask.tracking.session import Session


@dataclass(frozen=True)
class Tracked:
    """What was noted while a video was tracked.

    Attributes:
        frames: Of the video.
        seconds: In `Session.step` and in making masks of the video's size.
        blocks_run: Mean share of encoder blocks that ran on the frames that count.
        blocks_frames: How many these are: those after the first object's first.
    """

    frames: int
    seconds: float
    blocks_run: float
    blocks_frames: int


def track_sequence(
    model: Model | Propagator | Matcher,
    sequence: ObjectSequence,
    folder: Path,
    prompt: PromptKind,
    options: Any,
    routing: RoutingChoice,
    progress: Progress | None,
) -> Tracked:
    """Step through all frames of a sequence and write the wanted masks into a folder.

    Of the truth, the first mask of each object is read when its frame comes, and nothing else.
    """
    length, wanted = len(sequence), frozenset(wanted_frames(sequence))
    starts: dict[int, list[int]] = {}
    for item in sequence.objects:
        starts.setdefault(item.first, []).append(item.object_id)
    if isinstance(model, Model):
        # Nobody is there to look at a click in doubt, and the scores tell.
        options = replace(options or TrackingOptions(), warn_of_clicks=False)
    session = model.session(num_frames=length, size=sequence.size, options=options, routing=routing)
    seconds, shares = 0.0, []
    for index, frame in enumerate(sequence.frames()):
        ids = starts.get(index, [])
        truths = dict(zip(ids, sequence.masks(index, ids), strict=True)) if ids else {}
        for object_id, mask in truths.items():
            session.add(prompt_of(mask, object_id, prompt, index))
        started = time.perf_counter()
        result = session.step(frame)
        masks = result.masks if sequence.folders is not None else result.label_map()
        seconds += time.perf_counter() - started
        if index > min(starts):
            shares.append(float(result.blocks.mean()))
        if truths and prompt in CLICKS:
            # Propagators take no clicks: they have refused the first one.
            clicks = CLICKS[prompt] - 1
            result = add_error_clicks(cast(Session, session), result, truths, clicks)
            masks = result.masks if sequence.folders is not None else result.label_map()
        if index in wanted:
            write_masks(folder, sequence, result, masks)
        if progress is not None:
            progress(sequence.name, index + 1, length)
    mean = float(np.mean(shares)) if shares else 0.0
    return Tracked(length, seconds, mean, len(shares))
