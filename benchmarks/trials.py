"""Times several ways to compute the same thing, in turns, on the same input.

A trial's first way is the one that the engine uses; every other is told as a ratio to it, with the
relative difference of what it computes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Way = Callable[[], Tensor]
Clock = Callable[[], float]
# Seconds that are spent on a way, within these numbers of rounds.
SECONDS, LEAST_ROUNDS, MOST_ROUNDS = 0.6, 3, 40


@dataclass(frozen=True)
class Trial:
    """ways: by name, the one in use first; parts: timed with them, but of another output.

    flops: of the first way, for its rate; None where the rate says nothing.
    exact: what all ways approach; then differences are from it, and the first way has one too.
    """

    name: str
    where: str
    ways: dict[str, Way]
    parts: dict[str, Callable[[], object]] = field(default_factory=dict)
    flops: float | None = None
    exact: Tensor | None = None


def milliseconds(
    calls: dict[str, Callable[[], object]], clock: Clock = time.perf_counter
) -> dict[str, float]:
    """The shortest time of each call, which take turns."""
    first = {}
    for name, call in calls.items():
        call()
        first[name] = _timed(call, clock)
    longest = max(first.values())
    rounds = max(LEAST_ROUNDS, min(MOST_ROUNDS, round(SECONDS / longest)))
    best = dict(first)
    for _ in range(rounds):
        for name, call in calls.items():
            best[name] = min(best[name], _timed(call, clock))
    return {name: 1000 * seconds for name, seconds in best.items()}


def _timed(call: Callable[[], object], clock: Clock) -> float:
    started = clock()
    call()
    return clock() - started


def difference(a: Tensor, b: Tensor) -> float:
    """|a - b| / |b|, Euclidean."""
    return ((a.float() - b.float()).norm() / b.float().norm()).item()


def run(trial: Trial, clock: Clock = time.perf_counter) -> dict[str, Any]:
    """Milliseconds, ratios to the first way, and differences of what is computed."""
    with torch.inference_mode():
        spent = milliseconds({**trial.ways, **trial.parts}, clock)
        used, *others = trial.ways
        exact = trial.ways[used]() if trial.exact is None else trial.exact
        compared = others if trial.exact is None else trial.ways
        differences = {n: float(f"{difference(trial.ways[n](), exact):.2g}") for n in compared}
    report: dict[str, Any] = {
        "where": trial.where,
        "used": used,
        "milliseconds": {name: round(value, 3) for name, value in spent.items()},
        "ratio": {n: round(v / spent[used], 2) for n, v in spent.items() if n != used},
        "difference": differences,
    }
    if trial.flops is not None:
        report["gflops_a_second"] = round(trial.flops / spent[used] / 1e6)
    print(trial.name, report["milliseconds"], report["ratio"], flush=True)
    return report
