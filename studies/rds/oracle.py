"""Is there anything to route? The best plan for each video against the best plan for all of them.

    python -m studies.rds.oracle --training DATA --evaluation DAVIS --out FOLDER --image-size 256

Nothing is trained. For every budget it finds

    even         blocks left out evenly, untrained: what blocks are worth at all
    single       the best static plan on training videos, scored on the evaluation videos
    hindsight    the best static plan on the evaluation videos themselves
    video        the best static plan of each evaluation video, found on that video
    video, half  the same, found on one half of the video's frames and scored on the other
    segment      the best plan of each few frames, out of the plans that were good on some video

and their J&F at equal numbers of blocks. `video` and `segment` are chosen on the frames that they
are scored on: no router can do better by choosing as finely, so that a small gap to `single` means
that none can show much on this network. `video, half` says how much of the gap is luck of choosing.

Search: from all blocks down, the block is left out without which the score is best (beam search).
The first frame of a video runs all blocks, as with a router. Scores are kept in FOLDER; a stopped
run goes on. Writes oracle.json and oracle.md there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.common import model_parser
from studies.bootstrap import bootstrap_difference
from studies.rds.plan_tracking import Blocks, PlanTracker
from tempomask.adaptation.adapter_file import base_sample
from tempomask.data.davis import Davis
from tempomask.errors import InputError
from tempomask.files import make_folder, write_json
from tempomask.models.encoder import always_on_blocks
from tempomask.models.segmenter import Segmenter
from tempomask.routing.budget import block_count, check_budget
from tempomask.training.adaptation_data import spread, training_sequences
from tempomask.training.validation import SquareVideo, load_square
from tempomask.weights import load_segmenter

# Plans that are tracked at once.
BATCH = 8
# Below this gap, in points of J&F, no router can show the paper's claim.
ENOUGH = 0.5
Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Settings:
    """How plans are searched and compared.

    Attributes:
        budgets: Shares of blocks.
        beam: Plans kept at each size of the search.
        segment: Frames of a segment.
        pool: Plans tried on each segment.
    """

    budgets: tuple[float, ...]
    beam: int = 2
    segment: int = 4
    pool: int = 8


class PlanScores:
    """J&F of each frame after the first, by video and plan; computed once and kept in a file."""

    def __init__(
        self, segmenter: Segmenter, videos: Mapping[str, SquareVideo], folder: Path, reduced: bool
    ) -> None:
        self.segmenter, self.reduced = segmenter, reduced
        self.trackers = {name: PlanTracker(segmenter, video) for name, video in videos.items()}
        # Other weights or frames have a file of their own.
        digest = hashlib.sha256(base_sample(segmenter).numpy().tobytes())
        for video in videos.values():
            digest.update(video.frames.numpy().tobytes())
        self.path = folder / f"scores-{digest.hexdigest()[:12]}.json"
        self._kept: dict[str, dict[str, list[float]]] = {}
        if self.path.exists():
            self._kept = json.loads(self.path.read_text())

    def of(self, video: str, plans: Sequence[Blocks]) -> Scores:
        """(P, T - 1), in percent."""
        kept = self._kept.setdefault(video, {})
        missing = [plan for plan in dict.fromkeys(plans) if _key(plan) not in kept]
        if missing:
            tracker = self.trackers[video]
            frames = len(tracker.video.frames) - 1
            with self.computing():
                state = tracker.begin()
                for start in range(0, len(missing), BATCH):
                    some = missing[start : start + BATCH]
                    for plan, row in zip(some, tracker.follow(state, some, frames)[1], strict=True):
                        kept[_key(plan)] = [round(100 * float(x), 3) for x in row]
            write_json(self.path, self._kept)
        return np.array([kept[_key(plan)] for plan in plans])

    def known(self, video: str, size: int) -> list[Blocks]:
        """All plans of so many blocks that were scored on a video."""
        plans = (tuple(map(int, key.split(","))) for key in self._kept.get(video, {}))
        return sorted(plan for plan in plans if len(plan) == size)

    def computing(self) -> Any:
        """bfloat16 where that is wanted."""
        return torch.autocast("cpu", torch.bfloat16) if self.reduced else nullcontext()


def _key(plan: Blocks) -> str:
    return ",".join(map(str, plan))


def search(
    score: Callable[[Sequence[Blocks]], Scores],
    num_blocks: int,
    always_on: Sequence[int],
    least: int,
    beam: int,
) -> dict[int, list[Blocks]]:
    """The best plans of every size from all blocks down to `least`, the best first.

    score: of each plan, greater is better; of equal ones the one that comes first in order wins.
    """
    kept = [tuple(range(num_blocks))]
    found = {num_blocks: kept}
    for size in range(num_blocks - 1, least - 1, -1):
        smaller = {
            tuple(i for i in plan if i != out) for plan in kept for out in set(plan) - {*always_on}
        }
        candidates = sorted(smaller)
        values = score(candidates)
        order = np.argsort(-values, kind="stable")
        kept = [candidates[i] for i in order[:beam]]
        found[size] = kept
    return found


def crossed_halves(scores: Scores) -> float:
    """Mean J&F of plans chosen on one half of the frames and scored on the other; (P, frames)."""
    first, second = np.array_split(scores, 2, axis=1)
    crossed = [second[first.mean(axis=1).argmax()], first[second.mean(axis=1).argmax()]]
    return float(np.concatenate(crossed).mean())


def best_segments(scores: PlanScores, video: str, pool: Sequence[Blocks], length: int) -> float:
    """Mean J&F where each segment runs the plan of the pool that is best on it, one by one."""
    tracker = scores.trackers[video]
    frames = len(tracker.video.frames)
    values: list[float] = []
    with scores.computing():
        state = tracker.begin()
        while state.last < frames - 1:
            states, found = tracker.follow(state, pool, min(length, frames - 1 - state.last))
            best = int(found.mean(axis=1).argmax())
            state = states.only(best)
            values += found[best].tolist()
    return 100 * float(np.mean(values))


def compare(
    training: PlanScores, evaluation: PlanScores, always_on: Sequence[int], settings: Settings
) -> list[dict[str, Any]]:
    """One row a budget."""
    total = evaluation.segmenter.encoder.num_blocks
    sizes = {b: block_count(b, total, always_on) for b in settings.budgets}
    least, names = min(sizes.values()), list(evaluation.trackers)

    def mean_of(scores: PlanScores, videos: Sequence[str]) -> Callable[..., Scores]:
        return lambda plans: np.mean([scores.of(v, plans).mean(axis=1) for v in videos], axis=0)

    def searched(scores: PlanScores, videos: Sequence[str]) -> dict[int, list[Blocks]]:
        print(f"searching on {', '.join(videos)}", file=sys.stderr, flush=True)
        return search(mean_of(scores, videos), total, always_on, least, settings.beam)

    single = searched(training, list(training.trackers))
    hindsight = searched(evaluation, names)
    own = {name: searched(evaluation, [name]) for name in names}
    everything = (tuple(range(total)),)
    even = {size: evenly_spread(total, always_on, size) for size in sizes.values()}
    rows = []
    for budget, size in sizes.items():
        shared = [plans[size][0] for plans in (single, hindsight, *own.values())]
        by_way: dict[str, dict[str, float]] = {way: {} for way in WAYS}
        for name in names:
            known = evaluation.known(name, size)
            pool = list(dict.fromkeys([*own[name][size], *shared]))[: settings.pool]
            found = {
                "full": evaluation.of(name, everything).mean(),
                "even": evaluation.of(name, [even[size]]).mean(),
                "single": evaluation.of(name, single[size][:1]).mean(),
                "hindsight": evaluation.of(name, hindsight[size][:1]).mean(),
                "video": evaluation.of(name, [*known, *shared]).mean(axis=1).max(),
                "video, half": crossed_halves(evaluation.of(name, known)),
                "segment": best_segments(evaluation, name, pool, settings.segment),
            }
            for way, value in found.items():
                by_way[way][name] = round(float(value), 3)
        rows.append(_row(budget, size, by_way, single[size][0], hindsight[size][0], own))
        print(json.dumps(rows[-1]["J&F"]), flush=True)
    return rows


def evenly_spread(total: int, always_on: Sequence[int], count: int) -> Blocks:
    """K and evenly spread others, `count` of `total` blocks."""
    free = [index for index in range(total) if index not in always_on]
    places = np.linspace(0, len(free) - 1, count - len(always_on)).round().astype(int)
    return tuple(sorted([*always_on, *(free[place] for place in places)]))


WAYS = ("full", "even", "single", "hindsight", "video, half", "video", "segment")


def _row(
    budget: float,
    size: int,
    by_way: dict[str, dict[str, float]],
    single: Blocks,
    hindsight: Blocks,
    own: Mapping[str, dict[int, list[Blocks]]],
) -> dict[str, Any]:
    gaps = {
        way: bootstrap_difference(by_way[way], by_way["single"]).to_dict()
        for way in WAYS
        if way not in ("full", "even", "single")
    }
    return {
        "budget": budget,
        "blocks": size,
        "J&F": {way: round(float(np.mean(list(v.values()))), 2) for way, v in by_way.items()},
        "minus_single": gaps,
        "enough_to_route": gaps["video"]["mean"] >= ENOUGH,
        "plans": {
            "single": list(single),
            "hindsight": list(hindsight),
            **{name: list(plans[size][0]) for name, plans in own.items()},
        },
        "videos": by_way,
    }


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """A line a budget; in brackets 95% over videos of the difference to the single plan."""
    lines = [
        "| budget | blocks | " + " | ".join(WAYS) + " | worth routing |",
        "| --- " * (3 + len(WAYS)) + "|",
    ]
    for row in rows:
        cells = []
        for way in WAYS:
            cell = f"{row['J&F'][way]:.1f}"
            gap = row["minus_single"].get(way)
            if gap is not None:
                cell += f" ({gap['mean']:+.1f}, {gap['low']:+.1f} to {gap['high']:+.1f})"
            cells.append(cell)
        worth = "yes" if row["enough_to_route"] else "no"
        lines.append(f"| {row['budget']:g} | {row['blocks']} | {' | '.join(cells)} | {worth} |")
    return "\n".join(lines) + "\n"


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Of the command line."""
    parser = model_parser(__doc__, out_required=True)
    parser.add_argument("--training", type=Path, required=True, help="as --data of tempomask adapt")
    parser.add_argument("--evaluation", type=Path, required=True, help="in the DAVIS layout")
    parser.add_argument("--budgets", default="0.8,0.6,0.4")
    parser.add_argument("--always-on", default=None, help="blocks that always run, with commas")
    parser.add_argument("--training-videos", type=int, default=8)
    parser.add_argument("--sequences", default=None, help="of the evaluation; all by default")
    parser.add_argument("--frames", type=int, default=16, help="of each video")
    parser.add_argument("--stride", type=int, default=4, help="between them")
    parser.add_argument("--beam", type=int, default=2)
    parser.add_argument("--segment", type=int, default=4, help="frames of a segment")
    parser.add_argument("--pool", type=int, default=8, help="plans tried on each segment")
    parser.add_argument("--float32", action="store_true", help="instead of bfloat16")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what the command line asks for."""
    given = options(arguments)
    segmenter = load_segmenter(given.model, given.checkpoint, given.image_size).eval()
    encoder, side = segmenter.encoder, segmenter.config.image_size
    chosen = None if given.always_on is None else tuple(map(int, given.always_on.split(",")))
    always_on = always_on_blocks(encoder, chosen)
    budgets = tuple(map(float, given.budgets.split(",")))
    for budget in budgets:
        check_budget(budget, encoder.num_blocks, always_on)
    settings = Settings(budgets, given.beam, given.segment, given.pool)
    indices = range(0, given.frames * given.stride, given.stride)
    names = given.sequences and given.sequences.split(",")
    every = list(training_sequences(given.training))
    few = spread(every, min(given.training_videos, len(every)))
    held = list(Davis(given.evaluation, None, names))
    both = {s.name for s in few} & {s.name for s in held}
    if both:
        raise InputError(f"{', '.join(sorted(both))} are in --training and in --evaluation")
    videos = {s.name: load_square(s, side, indices) for s in [*few, *held]}
    make_folder(given.out)
    training, evaluation = (
        PlanScores(segmenter, {s.name: videos[s.name] for s in some}, given.out, not given.float32)
        for some in (few, held)
    )
    rows = compare(training, evaluation, always_on, settings)
    report = {
        "model": segmenter.config.name,
        "image_size": side,
        "always_on": list(always_on),
        "frames": given.frames,
        "stride": given.stride,
        "beam": given.beam,
        "segment": given.segment,
        "training": [s.name for s in few],
        "rows": rows,
    }
    write_json(given.out / "oracle.json", report)
    (given.out / "oracle.md").write_text(markdown(rows))
    print(markdown(rows))


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
