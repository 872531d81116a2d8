"""Label propagation: its quality over a model's features, and DINOv3's speed full and routed.

    python -m benchmarks.quality.propagation ROOT --short-sides 384,960 --out propagation.json
    python -m benchmarks.quality.propagation --speed dinov3-vits16,dinov3-vitl16 --out speed.json

ROOT is a DAVIS folder; J&F by its protocol, with the bundled model's features (--model) and, with
--adapter, its router on top. --speed needs no data: DINOv3 of these sizes at random weights, which
cost the same as trained ones, on a 480p frame at short side 960 with a full context, all blocks
against the router of RDS at budget 0.6 in turns. cpu_s is processor time, which other work on the
machine disturbs less.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tempomask import load_propagator
from tempomask.data.davis import Davis
from tempomask.evaluation.vos import evaluate
from tempomask.files import write_json
from tempomask.models.dinov3 import DINOV3_SIZES, DINOv3, DINOv3Config
from tempomask.propagation.network import PatchEncoder
from tempomask.propagation.options import PropagationOptions
from tempomask.propagation.session import PropagationSession
from tempomask.routing.options import Routing
from tempomask.routing.predictive import PredictiveRouter, RouterConfig
from tempomask.routing.recurrent import recurrent_policy

HEIGHT, WIDTH = 480, 854
BUDGET = 0.6


def quality(arguments: argparse.Namespace, side: int, budget: float | None) -> dict[str, Any]:
    """J&F and FPS of the model's features at one short side."""
    propagator = load_propagator(
        arguments.model, short_side=side, device=arguments.device, adapter=arguments.adapter
    )
    routing: dict[str, Any] = {"router": "none"} if budget is None else {"budget": budget}
    names = arguments.sequences.split(",") if arguments.sequences else None
    summary = evaluate(propagator, Davis(arguments.root, sequences=names), **routing)
    return {
        "model": arguments.model,
        "short_side": side,
        "budget": budget,
        "blocks_run": summary.blocks_run,
        "J&F": round(summary.mean, 2),
        "J": round(summary.scores["J"], 2),
        "F": round(summary.scores["F"], 2),
        "FPS": None if summary.fps is None else round(summary.fps, 3),
        "sequences": {name: round(score, 2) for name, score in summary.per_sequence.items()},
    }


def speed(
    config: DINOv3Config, short_side: int, frames: int, device: torch.device
) -> list[dict[str, Any]]:
    """Seconds of a frame in steady state, with all blocks and routed, frame by frame in turns."""
    torch.manual_seed(0)
    encoder = DINOv3(config).eval().to(device)
    router = PredictiveRouter(RouterConfig.for_encoder(encoder)).eval().to(device)
    policies = {"full": None, f"RDS {BUDGET}": recurrent_policy(router, Routing(BUDGET), BUDGET)}
    settings = PropagationOptions(short_side=short_side)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[120:360, 200:600] = True
    sessions = {}
    for name, policy in policies.items():
        session = sessions[name] = PropagationSession(
            PatchEncoder(encoder), settings, policy=policy
        )
        session.prompt(mask=mask)
        session.step(image)
        fill_context(session)
    times: dict[str, list[float]] = {name: [] for name in policies}
    work: dict[str, list[float]] = {name: [] for name in policies}
    shares: dict[str, float] = {}
    for _ in range(frames):
        for name, session in sessions.items():
            started, worked = time.perf_counter(), time.process_time()
            result = session.step(image)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times[name].append(time.perf_counter() - started)
            work[name].append(time.process_time() - worked)
            shares[name] = float(result.blocks.mean())
    full = float(np.median(times["full"]))
    return [
        {
            "model": config.name,
            "policy": name,
            "short_side": short_side,
            "blocks_run": round(shares[name], 3),
            "frame_s": round(float(np.median(seconds)), 3),
            "cpu_s": round(float(np.median(work[name])), 3),
            "FPS": round(1 / float(np.median(seconds)), 3),
            "speed_up": round(full / float(np.median(seconds)), 3),
        }
        for name, seconds in times.items()
    ]


def fill_context(session: PropagationSession) -> None:
    """Stand in for the frames that would fill the context: copies of the first one."""
    context = session.context
    if context.first is not None:
        context.recent.extend([context.first] * context.options.context_frames)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything that was asked for."""
    device = torch.device(arguments.device)
    report: dict[str, Any] = {"device": arguments.device, "threads": torch.get_num_threads()}
    if arguments.root is not None:
        sides = [64] if arguments.quick else [int(s) for s in arguments.short_sides.split(",")]
        budgets = [None] if arguments.adapter is None else [None, BUDGET]
        report["quality"] = [quality(arguments, s, b) for s in sides for b in budgets]
    if arguments.speed:
        sizes = [DINOV3_SIZES[name] for name in arguments.speed.split(",")]
        if arguments.quick:
            sizes = [DINOv3Config("quick", 32, 2, 4, 64)]
        side, frames = (64, 2) if arguments.quick else (arguments.short_side, arguments.frames)
        report["speed"] = [row for size in sizes for row in speed(size, side, frames, device)]
    return report


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", nargs="?", default=None, help="a DAVIS folder")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--adapter", default=None, help="adapter with the router of RDS")
    parser.add_argument("--sequences", default=None)
    parser.add_argument("--short-sides", default="384,960")
    parser.add_argument("--speed", default=None, help="names of DINOv3 sizes")
    parser.add_argument("--short-side", type=int, default=960, help="of --speed")
    parser.add_argument("--frames", type=int, default=5, help="of --speed, by policy")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try the script")
    parser.add_argument("--out", type=Path, default=None)
    wanted = parser.parse_args()
    report = run(wanted)
    print(json.dumps(report, indent=2))
    if wanted.out:
        write_json(wanted.out, report)
