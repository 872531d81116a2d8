"""A made-up video that takes a network through all that it will meet: see `Model.warmup`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from tempomask.errors import InputError
from tempomask.frames import Size, is_whole
from tempomask.models.encoder import Policy
from tempomask.models.segmenter import Segmenter
from tempomask.tracking.options import TrackingOptions
from tempomask.tracking.session import Session

# One with a single memory, one with several.
FEW_FRAMES = 2


# CUDA runs a step once as it is, records it the second time, and replays it from the third on.
RUNS_TO_RECORD = 3


def frames_until_full(segmenter: Segmenter, options: TrackingOptions) -> int:
    """The tracked frame that is first to find every place for a memory and a pointer taken."""
    config = segmenter.config
    # All but the nearest memory lie on multiples of the stride, the last on the second one at most.
    memories = 2 + options.memory_stride * (config.memory_frames - 2)
    return max(config.max_pointers, memories)


def warm_up(
    segmenter: Segmenter,
    options: TrackingOptions,
    dtype: torch.dtype,
    policy: Policy | None,
    size: Size,
    objects: int,
    frames: int,
    prompted: int = 1,
) -> None:
    """Track `objects` boxes through noise of `size` (H, W), and read the last result.

    frames: how many are tracked after the `prompted` ones, which have prompts for every object.
    """
    if not isinstance(size, Sequence) or len(size) != 2 or not all(map(is_whole, size)):
        raise InputError(f"the size of the video must be (H, W), whole numbers, got {size!r}")
    height, width = size
    if min(height, width, objects, prompted) < 1:
        raise InputError(
            "a warm-up needs a size (H, W) and numbers of objects and prompted frames of at least"
            f" 1, got {size}, {objects} and {prompted}"
        )
    session = Session(segmenter, options, dtype=dtype, policy=policy)
    for number in range(1, objects + 1):
        for index in range(prompted):
            session.prompt(object_id=number, box=(0, 0, width, height), frame=index)
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
    result = None
    for _ in range(prompted + frames):
        result = session.step(session.prepare(frame))
    if result is not None:
        result.masks  # noqa: B018  (computed when asked for)
