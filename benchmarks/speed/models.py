"""Models beside each other in one process, in turns frame by frame: time and memory.

    python -m benchmarks.speed.models --models edgetam,efficienttam-ti-2,nano --out models.json

    python -m benchmarks.speed.models --models edgetam,sam2.1-tiny@0.6,sam2.1-tiny@0.4@0.3

Random weights, of which times do not depend; one object, full memories, frames of 480p in float32
by default. NAME@0.6 is RDS at a budget of 0.6 of the encoder's blocks, a router of random weights
included, and NAME@0.6@0.3 has 0.3 of the memory attention's tokens besides. The order moves on by
one with each frame, so that what else the machine does meets all. Cutie and XMem remember a frame
in five, of which the median knows nothing, but the mean.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.common import FULL_FROM, finish, noise, parser, randomised, seconds_of
from benchmarks.flops import frame_cost
from tempomask.engine import accelerate
from tempomask.matching.options import MatchingOptions
from tempomask.matching.session import MatchingSession
from tempomask.model import Model
from tempomask.models.encoder import Encoder, Policy
from tempomask.models.matching.blocks import MatchingNetwork
from tempomask.models.matching.config import MATCHERS
from tempomask.models.segmenter import Segmenter
from tempomask.routing.options import Routing
from tempomask.routing.predictive import PredictiveRouter, RouterConfig
from tempomask.routing.recurrent import recurrent_policy
from tempomask.tracking.session import Session
from tempomask.weights.matching import build_matcher

Network = Segmenter | MatchingNetwork


def filled(name: str, dtype: torch.dtype) -> tuple[MatchingNetwork, MatchingSession]:
    """Cutie or XMem, and a session whose working memory is as full as it gets."""
    network = build_matcher(MATCHERS[name]).eval()
    session = MatchingSession(network, dtype=dtype)
    (frame,) = noise(1)
    mask = np.zeros(frame.shape[:2], bool)
    mask[100:300, 200:400] = True
    session.prompt(mask=mask)
    session.step(frame)
    options, (group,) = session.options, session.memory.groups
    frames = (options.working_frames if session.long_term else options.short_frames) - 1
    working = group.working.joined(*[group.first] * (frames - session.long_term))
    session.memory.groups = [replace(group, working=working)]
    return network, session


def routed(encoder: Encoder, budgets: str) -> Policy | None:
    """RDS at a budget of blocks, or of blocks and memory ("0.6@0.3"); None for all of them."""
    if not budgets:
        return None
    blocks, _, memory = budgets.partition("@")
    router = PredictiveRouter(RouterConfig.for_encoder(encoder)).eval()
    nn.init.normal_(router.head.weight, std=1.0)
    routing = Routing(float(blocks), memory_budget=float(memory or 1))
    policy = recurrent_policy(router, routing, routing.budget or 1.0)
    policy.memory_budget = routing.memory_budget
    return policy


def started(entry: str, dtype: torch.dtype) -> tuple[Network, Session | MatchingSession]:
    """The plain network, and a session of its fast form with a box on the first frame."""
    name, _, budgets = entry.partition("@")
    if name in MATCHERS:
        return filled(name, dtype)
    segmenter = randomised(name)
    policy = routed(segmenter.encoder, budgets)
    session = Model(accelerate(segmenter, dtype), dtype).session(routing=policy)
    session.prompt(box=(200, 100, 400, 300))
    return randomised(name), session


def multiply_adds(network: Segmenter) -> dict[str, float]:
    """Of a frame, and of its larger parts, in giga."""
    cost = frame_cost(network)
    parts = {
        "encoder": cost.encoder(),
        "memory attention": cost.memory_attention,
        "frame": cost.frame(),
    }
    return {name: round(part.total / 1e9, 1) for name, part in parts.items()}


def row_of(
    entry: str, network: Network, session: Session | MatchingSession, seconds: Any, ratios: Any
) -> dict[str, Any]:
    """What a model took; ratios: its time over the first model's, frame by frame."""
    tracker = isinstance(network, Segmenter)
    tensors = [*network.parameters(), *network.buffers()]
    return {
        "model": entry,
        "image_size": network.config.image_size if tracker else MatchingOptions().short_side,
        "million_parameters": round(sum(x.numel() for x in network.parameters()) / 1e6, 2),
        "weights_mb": round(sum(x.nbytes for x in tensors) / 2**20, 1),
        "memory_bank_mb": round(session.memory_bytes() / 2**20, 3),
        "giga_multiply_adds": multiply_adds(network) if tracker else None,
        "seconds": round(float(np.median(seconds)), 4),
        "mean_seconds": round(float(np.mean(seconds)), 4),
        "times_the_first": round(float(np.median(ratios)), 3),
        "from_to": [round(float(x), 3) for x in (ratios.min(), ratios.max())],
    }


def compare(names: list[str], frames: int, dtype: torch.dtype) -> list[dict[str, Any]]:
    """A row for each model, over the frames with full memories."""
    running = [started(name, dtype) for name in names]
    (frame,) = noise(1)
    table = np.zeros((FULL_FROM + frames, len(names)))
    for index in range(len(table)):
        turn = index % len(names)
        for i in (*range(turn, len(names)), *range(turn)):
            session = running[i][1]
            table[index, i] = seconds_of(lambda session=session: session.step(frame).masks)
        print(index, table[index].round(3).tolist(), flush=True)
    full = table[FULL_FROM:]
    columns = zip(names, running, full.T, (full / full[:, :1]).T, strict=True)
    return [row_of(name, *pair, seconds, ratios) for name, pair, seconds, ratios in columns]


def main() -> None:
    command = parser(__doc__)
    command.add_argument("--models", default="edgetam,efficienttam-ti-2,nano")
    command.add_argument("--frames", type=int, default=9, help="that are timed")
    command.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    given = command.parse_args()
    rows = compare(given.models.split(","), given.frames, getattr(torch, given.dtype))
    finish({"dtype": given.dtype, "frames": given.frames, "rows": rows}, given.out)


if __name__ == "__main__":
    main()
