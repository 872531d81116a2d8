"""J&F against time of memory routing: budgets, pooled memories, and both with the budget of RDS.

    python -m benchmarks.quality.memory_budget --data DAVIS --out memory_budget.json

Every sequence is tracked by all variants at once, frame by frame in turns, whose order moves on by
one with each frame: what else the machine does meets all of them. Times are medians of the frames
with full memories, a frame up to its masks at the video's size.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import FULL_FROM, Clock, finish, parser, timed_calls
from tempomask import Model, Routing, load
from tempomask.data.davis import Davis
from tempomask.data.sequences import MaskSequence
from tempomask.evaluation.prompts import first_frame_prompts
from tempomask.metrics.region_boundary import RegionBoundary
from tempomask.tracking.session import Session

BUDGETS = (1.0, 0.7, 0.5, 0.3)


@dataclass
class Variant:
    """A way to track, and what was seen of it."""

    name: str
    model: Model
    routing: Routing
    shares: list[float] = field(default_factory=list)
    frame: list[float] = field(default_factory=list)
    attention: list[float] = field(default_factory=list)
    scores: dict[str, float] = field(default_factory=dict)

    def step(self, session: Session, frame: NDArray[np.uint8], timed: bool) -> NDArray[np.int32]:
        """The label map of a frame; notes its time and the share of tokens that attended."""
        clock, attention = Clock(self.model.device), self.model.segmenter.memory_attention
        shares = []

        def note(_: Any, inputs: tuple[Any, ...]) -> None:
            chosen, tokens = inputs[2].chosen, inputs[0].shape[2] * inputs[0].shape[3]
            shares.append(1.0 if chosen is None else chosen.tokens.shape[1] / tokens)

        noting = attention.register_forward_pre_hook(note)
        with timed_calls(clock, [attention]):
            started = time.perf_counter()
            labels = session.step(frame).label_map()
            seconds = time.perf_counter() - started
        noting.remove()
        self.shares += shares
        if timed:
            self.frame.append(seconds)
            self.attention.append(clock.seconds())
        return labels


def variants(given: argparse.Namespace) -> list[Variant]:
    """What is compared; the first is exact."""
    common: dict[str, Any] = {
        "name": given.model,
        "checkpoint": given.checkpoint,
        "image_size": given.image_size,
        "device": "cpu",
    }
    model = load(**common)
    made = [Variant(f"budget {b:g}", model, Routing(memory_budget=b)) for b in BUDGETS]
    if model.pooling == "none":
        pooled = load(**common, pooled_memory=True)
        made += [Variant(f"pooled, {b:g}", pooled, Routing(memory_budget=b)) for b in (1.0, 0.5)]
    if given.adapter:
        routed = load(**common, adapter=given.adapter)
        made += [
            Variant(f"RDS 0.6, {b:g}", routed, Routing(0.6, memory_budget=b))
            for b in (1.0, 0.5, 0.3)
        ]
    return made


def track(compared: Sequence[Variant], sequence: MaskSequence, frames: int | None) -> None:
    """Track a sequence by all variants in turns, and score them."""
    sequence = sequence.first(frames)
    prompts = first_frame_prompts(sequence.label_map(0), sequence.object_ids, "mask", 0)
    sessions = [v.model.session(num_frames=len(sequence), routing=v.routing) for v in compared]
    metrics = [RegionBoundary(sequence.object_ids) for _ in compared]
    for session in sessions:
        for prompt in prompts:
            session.add(prompt)
    for index, frame in enumerate(sequence.frames()):
        turn = index % len(compared)
        for i in (*range(turn, len(compared)), *range(turn)):
            labels = compared[i].step(sessions[i], frame, timed=index >= FULL_FROM)
            if 0 < index < len(sequence) - 1:
                metrics[i].update(labels, sequence.label_map(index))
    for variant, metric in zip(compared, metrics, strict=True):
        variant.scores[sequence.name] = 100 * metric.compute().mean
    print(sequence.name, {v.name: round(v.scores[sequence.name], 1) for v in compared}, flush=True)


def row(variant: Variant, first: Variant) -> dict[str, Any]:
    """Of one variant, times and scores against the first."""
    lost = {name: score - variant.scores[name] for name, score in first.scores.items()}
    worst = max(lost, key=lambda name: lost[name])
    return {
        "variant": variant.name,
        "J&F": round(float(np.mean(list(variant.scores.values()))), 2),
        "queries": round(float(np.mean(variant.shares)), 3),
        "frame_ms": round(1000 * float(np.median(variant.frame)), 2),
        "attention_ms": round(1000 * float(np.median(variant.attention)), 2),
        "frame_faster": round(float(np.median(first.frame) / np.median(variant.frame)), 3),
        "attention_faster": round(
            float(np.median(first.attention) / np.median(variant.attention)), 3
        ),
        "most_lost": {worst: round(lost[worst], 2)},
        "sequences": {name: round(score, 2) for name, score in variant.scores.items()},
    }


def main() -> None:
    command = parser(__doc__)
    command.add_argument("--data", type=Path, required=True, help="a folder in the DAVIS layout")
    command.add_argument("--model", default="nano")
    command.add_argument("--checkpoint", default=None)
    command.add_argument("--image-size", type=int, default=None, help="default: the model's own")
    command.add_argument("--adapter", default="nano-rds", help='of RDS; "" for none')
    command.add_argument("--frames", type=int, default=None, help="of each sequence; default: all")
    command.add_argument("--sequences", nargs="*", default=None)
    given = command.parse_args()
    compared = variants(given)
    dataset = Davis(given.data)
    for sequence in dataset:
        if given.sequences is None or sequence.name in given.sequences:
            track(compared, sequence, given.frames)
    report = {
        "model": given.model,
        "dtype": str(compared[0].model.dtype).removeprefix("torch."),
        "rows": [row(variant, compared[0]) for variant in compared],
    }
    finish(report, given.out)


if __name__ == "__main__":
    main()
