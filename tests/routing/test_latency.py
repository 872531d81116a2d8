"""The latency controller, against machines made of numbers and a clock that does as it is told."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch

from tempomask.errors import InputError
from tempomask.routing.budget import TopK
from tempomask.routing.latency import LatencyBudget, LatencyConfig

BLOCKS = 14
LEAST = 0.143


class Clock:
    """Time that passes only when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def run(
    fps: float,
    seconds: Callable[[int, float], float],
    frames: int = 200,
    count_waiting: bool = True,
    waiting: float = 0.0,
) -> tuple[list[float], list[float]]:
    """Frame times and shares over a video on a machine: seconds(frame, share of blocks)."""
    clock = Clock()
    control = LatencyBudget(LatencyConfig(fps, LEAST, count_waiting, 1 / BLOCKS), clock)
    times, shares = [], []
    for index in range(frames):
        began = clock.now
        control.begin_frame()
        share = 1.0
        if index:
            kept = TopK().keep(torch.rand(BLOCKS), [0, BLOCKS - 1], control.budget(0.5))
            share = sum(kept) / BLOCKS
            control.spent(share)
        # The first frame warms the machine up.
        clock.now += seconds(index, share) + (0.5 if index == 0 else 0.0)
        control.end_frame([0.9], [5.0])
        times.append(clock.now - began)
        shares.append(share)
        clock.now += waiting
    return times, shares


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


MACHINES = {
    "encoder is half": lambda _, share: 0.02 + 0.02 * share,
    "encoder is little": lambda _, share: 0.03 + 0.01 * share,
    "encoder is all": lambda _, share: 0.001 + 0.06 * share,
}


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
def test_the_target_is_met_and_as_many_blocks_as_possible_run(
    machine: Callable[[int, float], float],
) -> None:
    fastest, slowest = machine(0, LEAST), machine(0, 1.0)
    wanted = fastest + 0.5 * (slowest - fastest)
    times, shares = run(1 / wanted, machine)
    settled = times[40:]
    assert mean(settled) <= wanted * 1.005
    # One block more would be too slow.
    assert mean(settled) >= wanted - 1.5 * (slowest - fastest) / BLOCKS
    # It does not swing about.
    assert max(shares[40:]) - min(shares[40:]) <= 1.5 / BLOCKS


def test_noise_does_not_throw_it_off() -> None:
    rng = random.Random(0)
    times, _ = run(25, lambda _, share: (0.02 + 0.04 * share) * rng.uniform(0.8, 1.2), frames=400)
    assert 0.04 - 0.04 / BLOCKS < mean(times[50:]) < 0.0405


def test_it_follows_a_machine_that_changes() -> None:
    times, shares = run(25, lambda i, share: (0.01 + 0.04 * share) * (1 if i < 150 else 1.5), 300)
    # Below the target by less than a block takes, and not above it.
    assert 0.04 - 0.04 / BLOCKS <= mean(times[100:150]) < 0.0402
    assert 0.04 - 0.06 / BLOCKS <= mean(times[200:]) < 0.0402
    assert mean(shares[200:]) < mean(shares[100:150]) - 0.15


HICCUPS = {
    "one second": lambda frame, seconds: 1.0 if frame == 50 else seconds,
    "ten frames of four": lambda frame, seconds: (4 if 50 <= frame < 60 else 1) * seconds,
    "a slow start": lambda frame, seconds: (3 if frame < 3 else 1) * seconds,
}


@pytest.mark.parametrize("hiccup", HICCUPS.values(), ids=HICCUPS)
@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
def test_after_a_hiccup_as_many_blocks_run_as_before(
    machine: Callable[[int, float], float], hiccup: Callable[[int, float], float]
) -> None:
    wanted = machine(0, 8.5 / BLOCKS)
    times, shares = run(1 / wanted, lambda i, share: hiccup(i, machine(i, share)))
    assert shares[150:] == [8 / BLOCKS] * 50
    assert mean(times[150:]) < wanted


def test_targets_out_of_reach_end_at_the_bounds() -> None:
    _, shares = run(1000, lambda _, share: 0.02 + 0.02 * share)
    assert set(shares[60:]) == {2 / BLOCKS}
    _, shares = run(5, lambda _, share: 0.02 + 0.02 * share)
    assert set(shares[60:]) == {1.0}


def test_a_camera_that_makes_us_wait_does_not_count() -> None:
    times, shares = run(
        25, lambda _, share: 0.01 + 0.04 * share, count_waiting=False, waiting=0.005
    )
    assert mean(times[40:]) == pytest.approx(0.04, rel=0.05)
    # The same waits, where they count as reading, cost blocks.
    _, fewer = run(25, lambda _, share: 0.01 + 0.04 * share, count_waiting=True, waiting=0.005)
    assert mean(fewer[40:]) < mean(shares[40:])


@pytest.mark.parametrize("fps", [0.0, -3.0, float("nan"), float("inf")])
def test_impossible_rates_are_refused(fps: float) -> None:
    with pytest.raises(InputError, match="fps"):
        LatencyConfig(fps, LEAST)


def test_a_fresh_one_starts_anew_with_the_same_clock() -> None:
    clock = Clock()
    control = LatencyBudget(LatencyConfig(1000, LEAST), clock)
    for _ in range(30):
        control.begin_frame()
        clock.now += 0.1
    assert control.budget(0.5) == pytest.approx(LEAST) and control.seconds == pytest.approx(0.1)
    fresh = control.fresh()
    assert fresh.budget(0.5) == 1.0 and fresh.seconds == 0.0
