"""What real frames cost: multiply-adds of the encoder with its policy, and seconds in all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.flops import Macs, counting, frame_cost, total
from tempomask.data.davis import Davis
from tempomask.data.sequences import MaskSequence
from tempomask.errors import InputError
from tempomask.evaluation.frame_times import WARM_UP, frame_seconds, median_seconds
from tempomask.model import Model
from tempomask.models.encoder import Encoder
from tempomask.prompts import Prompt

# Frames of each sequence that are counted; frames that are timed, after those that warm up.
COUNTED_FRAMES, TIMED_FRAMES = 8, 32


@dataclass
class EncoderMeter:
    """Counts real passes of an encoder, with whatever its policy computes and decides on them.

    every: of so many passes one is counted, because counting takes time. The encoder must be a
    plain one: torch's counter does not see into the packed layers of the fast engine.

    >>> with EncoderMeter(segmenter.encoder).attached() as meter:  # doctest: +SKIP
    ...     evaluate(model, Davis(root), routing=policy)
    >>> meter.mean  # doctest: +SKIP
    """

    encoder: Encoder
    every: int = 1
    counts: list[Macs] = field(default_factory=list)
    passes: int = 0

    @contextmanager
    def attached(self) -> Iterator[EncoderMeter]:
        """Meter the encoder's calls for as long as the block runs."""
        forward: Callable[..., Any] = self.encoder.forward

        def metered(*arguments: Any, **named: Any) -> Any:
            self.passes += 1
            if (self.passes - 1) % self.every:
                return forward(*arguments, **named)
            with counting() as counted:
                output = forward(*arguments, **named)
            self.counts.append(counted.macs)
            return output

        self.encoder.forward = metered
        try:
            yield self
        finally:
            del self.encoder.forward

    @property
    def mean(self) -> Macs:
        """Of the passes that were counted; InputError if there was none."""
        if not self.counts:
            raise InputError("no pass of the encoder was counted; run it while it is metered")
        summed, count = total(self.counts), len(self.counts)
        return Macs(round(summed.weights / count), round(summed.products / count))


def encoder_macs(model: Model, root: Path, sequences: Sequence[str] | None = None) -> Macs:
    """Mean cost of the encoder, its neck and its routing, over the first frames of each sequence.

    The very first, on which RDS runs all blocks, is left out. model: of the plain engine.
    """
    meter = EncoderMeter(model.segmenter.encoder)
    counts = []
    for sequence in Davis(root, None, sequences):
        frames = list(islice(sequence.frames(), 1 + COUNTED_FRAMES))
        meter.counts = []
        with meter.attached():
            for _ in frame_seconds(model, first_object(sequence), frames, len(sequence)):
                pass
        counts += meter.counts[1:]
    meter.counts = counts
    return meter.mean + frame_cost(model.segmenter).neck


def frames_per_second(
    model: Model, root: Path, sequences: Sequence[str] | None = None, rounds: int = 2
) -> float:
    """Frames a second of the longest sequence, its first object from its mask; the best round.

    It is measured on whatever else the machine does; `times` measures what can be compared.
    """
    sequence, frames = timed_frames(root, sequences)
    prompt = first_object(sequence)
    best = min(median_seconds(model, prompt, frames, len(sequence)) for _ in range(rounds))
    return round(1.0 / best, 3)


def timed_frames(
    root: Path, sequences: Sequence[str] | None = None
) -> tuple[MaskSequence, list[NDArray[np.uint8]]]:
    """The longest sequence, and those of its frames that are timed."""
    sequence = max(Davis(root, None, sequences), key=len)
    return sequence, list(islice(sequence.frames(), WARM_UP + TIMED_FRAMES))


def first_object(sequence: MaskSequence) -> Prompt:
    """The mask of the first object on the first frame."""
    return Prompt(frame=0, object_id=1, mask=sequence.label_map(0) == sequence.object_ids[0])
