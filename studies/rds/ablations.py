"""Ablations of RDS at one cost: what the router sees, what is adapted, one router or many.

    python -m studies.rds.ablations --data DATA --evaluation DAVIS --out ablations \
        --seeds 1,2,3 --report studies/rds/ablations.json

Router inputs (both, mask only, image only), one previous mask or four, importance (both, global,
local), the number of adapted blocks K_sel at the same rank, what we changed in the training, and
the latency of a single router against dense ones (the paper's Table 4). Each variant is trained and
scored like a point of `python -m studies.rds`, in the same kind of folder: a stopped run goes on,
and what is measured on the untrained network is shared. A figure is drawn beside the report.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import model_parser
from studies.rds.comparison import Comparison, ComparisonConfig, Point
from studies.rds.summary import Row, differences, rows_of
from tempomask.adaptation.method import Method
from tempomask.adaptation.options import RDSConfig, RouterTraining
from tempomask.adaptation.rds import RDS
from tempomask.baselines.adavit import AdaViT
from tempomask.baselines.dyt import DyT
from tempomask.baselines.gates import token_widths
from tempomask.errors import InputError
from tempomask.files import make_folder, write_json
from tempomask.models.encoder import always_on_blocks
from tempomask.models.segmenter import Segmenter
from tempomask.reports.figures import INK, figure_of, save, style
from tempomask.routing.predictive import PredictiveRouter, RouterConfig

# Calls that are timed, after so many that warm up.
CALLS, WARM_UP = 200, 20
# Of the adapters, when their number differs: nano's at half of its blocks.
RANK = 16


def variants(budget: float, num_blocks: int, least: int) -> dict[str, RDSConfig]:
    """Variants by name; "rds" is our setting, "paper" the paper's own training.

    least: blocks that are always adapted.
    """
    plain = RDSConfig(budget)
    routers = {
        "rds": RouterTraining(),
        "paper": RouterTraining().as_in_the_paper(),
        "worth learnt": RouterTraining(learn_worth=1.0, worth_warmup=100),
        "paper's weights": RouterTraining(weights="paper"),
        "bernoulli draws": RouterTraining(draws="bernoulli"),
        "no gradient of skipped blocks": RouterTraining(skipped_gradient=False),
        "constant temperature": RouterTraining(last_temperature=1.0),
        "draws to the end": RouterTraining(settled_share=0.0),
        "equal start of the router": RouterTraining(importance_start=0.0),
        "mask only": RouterTraining(inputs="mask"),
        "image only": RouterTraining(inputs="image"),
        "four masks": RouterTraining(mask_frames=4),
    }
    found = {name: replace(plain, router=router) for name, router in routers.items()}
    for view in ("global", "local"):
        found[f"{view} importance"] = replace(plain, adapters=replace(plain.adapters, view=view))
    for quarters in (1, 3, 4):  # two quarters are the paper's half
        blocks = max(least, num_blocks * quarters // 4)
        adapters = replace(plain.adapters, blocks=blocks, rank=RANK)
        found[f"{blocks} adapted blocks"] = replace(plain, adapters=adapters)
    return found


class Ablation(Comparison):
    """A comparison whose methods are variants of RDS; only: their names, all if None."""

    def __init__(self, cost: float, only: list[str] | None, *arguments: Any, **named: Any) -> None:
        self.cost = cost
        super().__init__(*arguments, **named)
        encoder, budget = self.base.encoder, self.budget_of(Point("rds", cost, 1))
        if budget is None:
            raise InputError(f"RDS costs more than {cost:g} of this encoder at its smallest budget")
        known = variants(budget, encoder.num_blocks, len(always_on_blocks(encoder)))
        unknown = sorted(set(only or ()) - set(known))
        if unknown:
            raise SystemExit(f"unknown variants {unknown}; choose of {', '.join(known)}")
        self.variants = {name: known[name] for name in only or known}

    def description(self) -> dict[str, Any]:
        """Also what the variants vary from: their names do not tell."""
        return {**super().description(), "rds": asdict(RDSConfig(self.cost))}

    @property
    def points(self) -> list[Point]:
        return [
            Point(name, self.cost, seed) for seed in self.config.seeds for name in self.variants
        ]

    def budget_of(self, point: Point) -> float | None:
        return super().budget_of(replace(point, method="rds"))

    def method_of(self, point: Point) -> Method:
        config = self.variants[point.method]
        config = replace(config, adapters=replace(config.adapters, seed=point.seed))
        return RDS(config, steps=self.config.steps)


@torch.inference_mode()
def routing_latency(segmenter: Segmenter) -> dict[str, float]:
    """Milliseconds a frame that each kind of routing takes by itself, decisions read included."""
    encoder, device = segmenter.encoder, segmenter.device
    side = segmenter.config.image_size
    grid = side // encoder.patch_stride
    embedding = torch.randn(1, grid, grid, encoder.patch_channels, device=device)
    masks = torch.randn(1, 1, side // 4, side // 4, device=device)
    router = PredictiveRouter(RouterConfig.for_encoder(encoder)).to(device).eval()
    adavit, dyt = AdaViT(encoder).to(device).eval(), DyT(encoder).to(device).eval()
    # What every block takes in, and what the last puts out.
    tokens = [
        torch.randn(1, *size, width, device=device)
        for size, width in zip(_grids(segmenter), token_widths(encoder), strict=True)
    ]

    def single() -> None:
        router(embedding, masks).sigmoid().cpu()

    def before_every_block() -> None:
        for name, gate in adavit.gates.items():
            adavit.decide(int(name), gate(tokens[int(name)])).cpu()

    def for_every_token() -> None:
        for index, (gate, x) in enumerate(zip(dyt.gates, tokens[1:], strict=True)):
            dyt.decide(index, gate(x)).flatten().nonzero()

    calls = {"rds": single, "adavit": before_every_block, "dyt": for_every_token}
    return {name: _milliseconds(call, device) for name, call in calls.items()}


def _grids(segmenter: Segmenter) -> list[tuple[int, int]]:
    """The token grid before the first block and after every block."""
    side = segmenter.config.image_size // segmenter.encoder.patch_stride
    grids = [(side, side)]
    for block in segmenter.encoder.blocks:
        side = side // 2 if getattr(block, "pool", False) else side
        grids.append((side, side))
    return grids


def _milliseconds(call: Callable[[], None], device: torch.device) -> float:
    times = []
    for index in range(WARM_UP + CALLS):
        started = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if index >= WARM_UP:
            times.append(1000 * (time.perf_counter() - started))
    return round(float(np.median(times)), 4)


def draw(path: Path, rows: list[Row]) -> None:
    """J&F of each variant, with its interval over sequences."""
    figure = figure_of(0.8 + 0.35 * len(rows))
    axes = figure.subplots()
    for place, row in enumerate(reversed(rows)):
        estimate = row.estimate
        axes.plot([estimate.low, estimate.high], [place, place], color="#b9bec6", linewidth=3)
        axes.plot(row.seeds, [place] * len(row.seeds), "o", color=INK, markersize=4)
    axes.set_yticks(range(len(rows)), [row.method for row in reversed(rows)])
    axes.set_xlabel("J&F; dots are seeds, bars 95% over sequences")
    style(axes, f"Variants of RDS at {rows[0].cost:g} of the encoder", whole_numbers=False)
    save(figure, path)


def options() -> argparse.Namespace:
    """Of the command line."""
    parser = model_parser(__doc__, out_required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--evaluation", type=Path, required=True)
    parser.add_argument("--report", type=Path, default=None)
    parser.add_argument("--cost", type=float, default=0.6, help="share of the encoder's cost")
    parser.add_argument("--variants", help="names with commas between them; all if not given")
    parser.add_argument("--seeds", default="1")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--num-frames", type=int, default=8)
    parser.add_argument("--sequences", default=None)
    parser.add_argument("--workers", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    given = options()
    config = ComparisonConfig(
        model=given.model,
        checkpoint=given.checkpoint,
        image_size=given.image_size,
        methods=(),
        costs=(given.cost,),
        seeds=tuple(int(seed) for seed in given.seeds.split(",")),
        steps=given.steps,
        batch_size=given.batch_size,
        num_frames=given.num_frames,
    )

    def say(point: Point, number: int, count: int, what: str) -> None:
        print(f"[{number}/{count}] {what} {point.name}", flush=True)

    ablation = Ablation(
        given.cost,
        None if given.variants is None else given.variants.split(","),
        config,
        given.data,
        given.evaluation,
        given.out,
        sequences=None if given.sequences is None else given.sequences.split(","),
        workers=given.workers,
        progress=say,
    )
    rows = rows_of(ablation.run())
    report = {
        "rows": [row.to_dict() for row in rows],
        "rds_minus_variant": differences(rows),
        "routing_ms": routing_latency(ablation.base.eval()),
        "settings": {
            **asdict(config),
            "threads": torch.get_num_threads(),
        },
    }
    print(json.dumps(report, indent=2))
    if given.report is not None:
        make_folder(given.report.parent)
        write_json(given.report, report)
        draw(given.report.with_suffix(".png"), rows)


if __name__ == "__main__":
    main()
