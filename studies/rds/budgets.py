"""Budgets that move, on real video: more for hard frames, a threshold, a target of frames a second.

    python -m studies.rds.budgets --root DAVIS --adapter nano-rds --sequence parkour \
        --out studies/rds/routing/moving_budgets.json

What each kind of budget scores and runs over all sequences of the root, and for one of them, frame
by frame, the share of the blocks and the milliseconds. Targets of frames a second lie a third and
two thirds of the way from what the whole encoder reaches to what the smallest budget reaches,
measured on that sequence first. A figure is drawn beside the JSON.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import common
from tempomask.data.davis import Davis
from tempomask.data.sequences import MaskSequence
from tempomask.evaluation.prompts import first_frame_prompts
from tempomask.evaluation.vos import evaluate
from tempomask.files import make_folder, write_json
from tempomask.model import Model, load
from tempomask.models.encoder import always_on_blocks
from tempomask.reports.figures import INK, RAN, figure_of, save, style
from tempomask.routing.budget import smallest_budget
from tempomask.routing.options import Routing

# Frames in which a controller finds its way; they are shown, but not in the means.
SETTLING = 15
# Frames over which the figure averages times.
WINDOW = 9


@dataclass(frozen=True)
class Timeline:
    """One sequence: of every routed frame the share of blocks and the seconds."""

    shares: list[float]
    seconds: list[float]

    @property
    def fps(self) -> float:
        """Of the settled frames."""
        return 1 / float(np.mean(self.seconds[SETTLING:]))

    def to_dict(self) -> dict[str, Any]:
        return {
            "FPS": round(self.fps, 2),
            "blocks_run": round(float(np.mean(self.shares[SETTLING:])), 4),
            "shares": [round(share, 4) for share in self.shares],
            "milliseconds": [round(1000 * seconds, 1) for seconds in self.seconds],
        }


def follow(
    model: Model, sequence: MaskSequence, frames: list[NDArray[np.uint8]], routing: Routing
) -> Timeline:
    """Track the sequence from its first annotation."""
    policy = model.policy(routing)
    session = model.session(num_frames=len(frames), size=sequence.size, routing=policy)
    for prompt in first_frame_prompts(sequence.label_map(0), sequence.object_ids, "mask", 0):
        session.add(prompt)
    timeline = Timeline([], [])
    for index, frame in enumerate(frames):
        started = time.perf_counter()
        result = session.step(frame)
        result.masks  # noqa: B018  (computed when asked for)
        if index:  # the first frame runs everything
            timeline.seconds.append(time.perf_counter() - started)
            timeline.shares.append(float(result.blocks.mean()))
    return timeline


def targets(model: Model, sequence: MaskSequence, frames: list[NDArray[np.uint8]]) -> list[float]:
    """Frames a second between those of the whole encoder and of the smallest budget."""
    encoder = model.segmenter.encoder
    least = smallest_budget(encoder.num_blocks, always_on_blocks(encoder))
    slow, fast = (follow(model, sequence, frames, Routing(b)).fps for b in (1.0, least))
    return [round(slow + part * (fast - slow), 1) for part in (1 / 3, 2 / 3)]


def scores(model: Model, root: Path, ways: dict[str, Routing]) -> list[dict[str, Any]]:
    """J&F and the share of blocks of each kind of budget, over all sequences."""
    rows = []
    for name, routing in ways.items():
        summary = evaluate(model, Davis(root), routing=model.policy(routing))
        rows.append(
            {
                "budget": name,
                "J&F": round(summary.mean, 2),
                "blocks_run": summary.blocks_run and round(summary.blocks_run, 4),
            }
        )
        print(rows[-1], flush=True)
    return rows


def draw(path: Path, lines: dict[str, Timeline], wanted: dict[str, float]) -> None:
    """Shares of the blocks above, and below them the times where a speed was asked for."""
    figure = figure_of(1.2 * len(lines) + 1.6 * len(wanted))
    heights = [1.0] * len(lines) + [1.4] * len(wanted)
    rows = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    for axes, (name, line) in zip(rows, lines.items(), strict=False):
        axes.step(range(1, len(line.shares) + 1), line.shares, where="mid", color=RAN)
        axes.set_ylim(0, 1.05)
        axes.set_ylabel("blocks")
        style(axes, f"{name}: {np.mean(line.shares[SETTLING:]):.0%} of the blocks")
    for axes, (name, fps) in zip(rows[len(lines) :], wanted.items(), strict=True):
        spent = 1000 * np.array(lines[name].seconds)
        mean = np.convolve(spent, np.ones(WINDOW) / WINDOW, mode="valid")
        axes.plot(range(1, len(spent) + 1), spent, color="#b9bec6", linewidth=1)
        axes.plot(np.arange(len(mean)) + WINDOW // 2 + 1, mean, color=RAN)
        axes.axhline(1000 / fps, color=INK, linewidth=0.8, linestyle=":")
        axes.set_ylabel("ms")
        style(axes, f"{name}: {lines[name].fps:.1f} reached (dots: what was asked for)")
    rows[-1].set_xlabel("frame")
    save(figure, path)


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--checkpoint", default=None)
    parser.add_argument("--image-size", type=int, default=None)
    parser.add_argument("--root", type=Path, required=True, help="DAVIS folder")
    parser.add_argument("--adapter", default="nano-rds", help="of RDS, calibrated for --budget")
    parser.add_argument("--budget", type=float, default=0.6)
    parser.add_argument("--sequence", required=True, help="that is shown frame by frame")
    given = parser.parse_args()
    model = load(None, given.checkpoint, given.image_size, adapter=given.adapter)
    (sequence,) = Davis(given.root, None, [given.sequence])
    frames = list(sequence.frames())
    ways = {
        f"{given.budget:g}, top-k": Routing(given.budget),
        f"{given.budget:g}, threshold 0.5": Routing(given.budget, "threshold"),
        f"{given.budget:g}, calibrated": Routing(given.budget, "calibrated"),
        f"{given.budget:g}, adaptive": Routing(given.budget, adaptive=True),
    }
    wanted = {f"{fps:g} frames a second": fps for fps in targets(model, sequence, frames)}
    timed = {**ways, **{name: Routing(fps=fps) for name, fps in wanted.items()}}
    lines = {name: follow(model, sequence, frames, routing) for name, routing in timed.items()}
    report = {
        "adapter": given.adapter,
        "dtype": str(model.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "scores": scores(model, given.root, ways),
        "sequence": given.sequence,
        "settling_frames": SETTLING,
        "timelines": {name: line.to_dict() for name, line in lines.items()},
    }
    print(json.dumps(report["scores"], indent=2))
    if given.out is not None:
        make_folder(given.out.parent)
        write_json(given.out, report)
        draw(given.out.with_suffix(".png"), lines, wanted)


if __name__ == "__main__":
    main()
