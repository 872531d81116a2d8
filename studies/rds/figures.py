"""Figures of routing on real videos: blocks over frames, rates per budget, strips, router heat.

    python -m studies.rds.figures --root DAVIS --sequences dog,parkour \
        --checkpoint BASE --image-size 192 --comparison comparison --out studies/rds/routing

Of a comparison (`python -m studies.rds`), at one of its costs: RDS, the methods beside it, and the
same method at its other costs. Or of single adapters: --adapter ADAPTER --beside ADAPTER ...
--budget-adapters ADAPTER ...

Writes, for every sequence: SEQ-blocks.png (which blocks ran when), SEQ-strip.png (frames, masks,
blocks; a row for each method beside) and SEQ-heat.png (activation weights). For all together:
profiles.png (rates over each video), budgets.png (rates at each budget; of a single adapter, which
is then asked for each of --budgets) and routing.json with the numbers. Of a comparison also
importances.png and videos.png (J&F of static plans and RDS on each video).
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import common
from studies.rds.routing_figures import (
    save_activation_profiles,
    save_budget_rates,
    save_frame_strip,
    save_importances,
    save_router_heat,
    save_video_scores,
)
from tempomask.adaptation.importance import Importance
from tempomask.data.davis import Davis
from tempomask.data.sequences import MaskSequence
from tempomask.errors import InputError
from tempomask.files import make_folder, write_json
from tempomask.model import Model, load
from tempomask.models.encoder import Policy, always_on_blocks
from tempomask.prompts import Prompt
from tempomask.reports.figures import save_block_chart
from tempomask.routing.budget import RecordedRule
from tempomask.routing.options import Routing
from tempomask.routing.recurrent import RecurrentPolicy

# Images in a strip.
SHOWN = 6


@dataclass
class Tracked:
    """One sequence under one method: bool (T, L), label maps; w (T', L) of the routed frames."""

    blocks: list[NDArray[np.bool_]] = field(default_factory=list)
    masks: list[NDArray[np.int32]] = field(default_factory=list)
    weights: list[NDArray[np.float64]] = field(default_factory=list)


def track(model: Model, sequence: MaskSequence, policy: Policy | None) -> Tracked:
    """Track all objects of a sequence from their first masks."""
    recorded = None
    if isinstance(policy, RecurrentPolicy):
        recorded = RecordedRule(policy.rule)
        policy = RecurrentPolicy(policy.router, policy.control, recorded)
    session = model.session(num_frames=len(sequence), size=sequence.size, routing=policy)
    first = sequence.label_map(0)
    for object_id in sequence.object_ids:
        session.add(Prompt(frame=0, object_id=object_id, mask=first == object_id))
    tracked = Tracked()
    for frame in sequence.frames():
        result = session.step(frame)
        tracked.blocks.append(result.blocks)
        tracked.masks.append(result.label_map())
    if recorded is not None:
        tracked.weights = [w.clamp(max=1.0).double().numpy() for w in recorded.weights]
    return tracked


def options() -> argparse.Namespace:
    """Of the command line."""
    parser = common.parser(__doc__, out_required=True)
    parser.add_argument("--checkpoint", default=None)
    parser.add_argument("--image-size", type=int, default=None)
    parser.add_argument("--root", type=Path, required=True, help="DAVIS folder")
    parser.add_argument("--sequences", required=True)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--comparison", type=Path, help="folder of one")
    source.add_argument("--adapter", help="of RDS")
    parser.add_argument("--method", default="rds", help="of the comparison: rds, rds-worth ...")
    parser.add_argument("--against", default="static-a,static-b,pbd,slim", help="its methods")
    parser.add_argument("--cost", type=float, default=0.6)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--beside", nargs="*", default=[], help="adapters of other methods")
    parser.add_argument("--budget-adapters", nargs="*", default=[])
    parser.add_argument("--budgets", default="0.4,0.6,0.8")
    return parser.parse_args()


def take_comparison(given: argparse.Namespace, out: Path) -> None:
    """Put adapters of a comparison into the options; draw what its points tell by themselves."""

    def point(method: str, cost: str = f"{given.cost:g}") -> Path:
        return given.comparison / "points" / f"{method}-{cost}-seed{given.seed}"

    own = point(given.method)
    if not (own / "point.json").exists():
        raise InputError(f"{given.comparison} has no finished point {own.name}")
    others = [m for m in given.against.split(",") if (point(m) / "point.json").exists()]
    given.adapter, given.beside = str(own), [str(point(m)) for m in others]
    at_any_cost = own.parent.glob(f"{point(given.method, '[0-9]*').name}/point.json")
    given.budget_adapters = sorted(str(path.parent) for path in at_any_cost)
    scores = {
        m: json.loads((point(m) / "point.json").read_text())["per_sequence"]
        for m in [*others, given.method]
    }
    save_video_scores(out / "videos.png", scores)
    settings = json.loads((own / "adapter.json").read_text())["settings"]
    save_importances(
        out / "importances.png",
        Importance(**{name: tuple(values) for name, values in settings["importance"].items()}),
    )


def main() -> None:
    given = options()
    out = make_folder(given.out)
    if given.comparison is not None:
        take_comparison(given, out)
    sequences = list(Davis(given.root, None, given.sequences.split(",")))

    def loaded(adapter: str) -> Model:
        return load(None, given.checkpoint, given.image_size, adapter=adapter)

    model, others = loaded(given.adapter), {Path(a).name: loaded(a) for a in given.beside}
    always = always_on_blocks(model.segmenter.encoder)
    runs = {}
    for sequence in sequences:
        runs[sequence.name] = run = track(model, sequence, model.policy())
        beside = {name: track(m, sequence, m.policy()) for name, m in others.items()}
        draw_sequence(out, sequence, Path(given.adapter).name, run, beside)
    # The first frame of a video runs everything.
    save_activation_profiles(
        out / "profiles.png", {name: run.blocks[1:] for name, run in runs.items()}, always
    )
    rates: dict[float, Any] = {}
    if given.budget_adapters:
        for adapter in given.budget_adapters:
            other = loaded(adapter)
            budget = json.loads((Path(adapter) / "adapter.json").read_text())["settings"]["budget"]
            rates[float(budget)] = routed(other, sequences, None)
    else:
        for budget in map(float, given.budgets.split(",")):
            rates[budget] = routed(model, sequences, budget)
    save_budget_rates(out / "budgets.png", rates)
    report = {
        "sequences": {
            name: {
                "mean_rate": round(float(np.mean(run.blocks[1:])), 4),
                "rate_of_block": np.mean(run.blocks[1:], axis=0).round(4).tolist(),
                "changes_a_frame": changes(run.blocks[1:]),
            }
            for name, run in runs.items()
        },
        "budgets": {f"{b:g}": np.mean(rows, axis=0).round(4).tolist() for b, rows in rates.items()},
    }
    write_json(out / "routing.json", report)
    print(f"written: {out}")


def routed(
    model: Model, sequences: list[MaskSequence], budget: float | None
) -> list[NDArray[np.bool_]]:
    """The blocks of every frame after the first, of all sequences."""
    policy, rows = model.policy(Routing(budget)), []
    for sequence in sequences:
        rows += track(model, sequence, policy).blocks[1:]
    return rows


def changes(blocks: list[NDArray[np.bool_]]) -> float:
    """How many blocks change from one frame to the next, on average."""
    ran = np.array(blocks)
    return round(float((ran[1:] != ran[:-1]).sum(axis=1).mean()), 4) if len(ran) > 1 else 0.0


def draw_sequence(
    out: Path, sequence: MaskSequence, method: str, run: Tracked, beside: dict[str, Tracked]
) -> None:
    """The three figures of one sequence; method: the name of what is looked at."""
    name, indices = sequence.name, range(len(sequence))
    save_block_chart(out / f"{name}-blocks.png", indices, run.blocks)
    routed_frames = indices[len(indices) - len(run.weights) :]
    if run.weights:
        save_router_heat(
            out / f"{name}-heat.png",
            routed_frames,
            np.stack(run.weights),
            np.stack(run.blocks[-len(run.weights) :]),
        )
    shown = np.unique(np.linspace(0, len(sequence) - 1, SHOWN).astype(int)).tolist()
    images = [frame for index, frame in enumerate(sequence.frames()) if index in shown]
    rows = {other: [tracked.masks[i] for i in shown] for other, tracked in beside.items()}
    save_frame_strip(
        out / f"{name}-strip.png",
        shown,
        images,
        [run.masks[i] for i in shown],
        [run.blocks[i] for i in shown],
        rows,
        method if beside else "",
    )


if __name__ == "__main__":
    main()
