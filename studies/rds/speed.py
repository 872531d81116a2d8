"""What skipping is worth in time: RDS and the others, on random weights (RDS, Tables 1, 4 and 9).

    python -m studies.rds.speed --model sam2.1-large --out studies/rds/speed_large.json

Every method runs the same frames at every ratio: encoder multiply-adds, milliseconds a frame and in
the encoder, frames a second, the share of the frame spent on routing, and how much of the speed-up
that the multiply-adds promise is real. Multiply-adds are of the blocks that ran on the timed
frames; the whole frame's promise counts memory attention, decoder and memory encoder too. Weights
are random, so routers are set to their ratio (top-k for RDS, by threshold for gates), and masks
mean nothing. Everything is timed with the fast engine, method after method, round after round, so
that a machine that slows down slows all of them. On a GPU, kernel launches and synchronisations of
a frame are counted as well. A figure is drawn beside the JSON.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from benchmarks.common import FULL_FROM, Clock, autocast, finish, noise, parser, timed_calls, wait
from benchmarks.flops import FrameCost, Macs, frame_cost, total
from studies.rds.meter import EncoderMeter
from studies.rds.speed_candidates import METHODS, Candidate, build
from tempomask.devices import DTypeName, resolve_device, resolve_dtype
from tempomask.engine import accelerate
from tempomask.model import Model
from tempomask.models.config import segmenter_config
from tempomask.models.encoder import KeepPlan, Plan, Policy
from tempomask.models.segmenter import Segmenter
from tempomask.tracking.frames import network_input, resize_frame
from tempomask.tracking.session import Session

BUDGETS = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
# How the profiler names the calls that launch kernels; what follows tells variants apart.
LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch")


class InTurn(Policy):
    """Lets methods take turns in one session, so that its memories are filled once for all."""

    recurrent, reads_results = True, False

    def __init__(self, num_blocks: int) -> None:
        self.policy: Policy | None = None
        self._everything = KeepPlan([True] * num_blocks)

    def plan(self, embedding: Tensor, previous_masks: Tensor | None) -> Plan:
        if self.policy is None:
            return self._everything
        return self.policy.plan(embedding, previous_masks)


class Sessions:
    """One session for each network, with full memories."""

    def __init__(self, dtype: torch.dtype, warm_up: list[Any]) -> None:
        self.dtype, self.warm_up = dtype, warm_up
        self._known: dict[int, tuple[Session, InTurn]] = {}

    def of(self, candidate: Candidate) -> Session:
        """The session of the candidate's network, run by its policy from now on."""
        network = candidate.segmenter
        if id(network) not in self._known:
            turn = InTurn(network.encoder.num_blocks)
            session = Model(network, self.dtype).session(routing=turn)
            session.prompt(box=(200, 100, 400, 300))
            for frame in self.warm_up:
                session.step(frame)
            self._known[id(network)] = session, turn
        session, turn = self._known[id(network)]
        turn.policy = candidate.policy
        return session


def run_frames(candidate: Candidate, sessions: Sessions, frames: list[Any]) -> None:
    """Track the frames and note the medians."""
    times = []
    device = candidate.segmenter.device
    encoder_clock, routing_clock = Clock(device), Clock(device)
    session = sessions.of(candidate)
    for frame in frames:
        encoder = timed_calls(encoder_clock, [candidate.segmenter.encoder])
        with encoder, timed_calls(routing_clock, candidate.routers):
            wait(device)
            started = time.perf_counter()
            result = session.step(frame)
            result.masks  # noqa: B018  (computed when asked for)
            wait(device)
            seconds = time.perf_counter() - started
        candidate.ran.append(result.blocks.tolist())
        times.append((seconds, encoder_clock.seconds(), routing_clock.seconds()))
    frame, encoder, routing = np.median(np.array(times), axis=0).tolist()
    candidate.times.append((frame, encoder, routing))


@dataclass(frozen=True)
class Counted:
    """Encoder multiply-adds of one pass with routers; blocks: which ran; cost: of each block."""

    macs: Macs
    blocks: list[bool]
    cost: FrameCost

    def of(self, ran: list[list[bool]]) -> Macs:
        """The mean over frames that ran these blocks, with neck and routers."""
        frames = total(self.cost.encoder(blocks) for blocks in ran)
        mean = Macs(frames.weights // len(ran), frames.products // len(ran))
        # What is left of the counted pass are routers, and for DyT the tokens that were left out.
        return mean + self.macs - self.cost.encoder(self.blocks)


def count(candidate: Candidate, image: Tensor) -> Counted:
    """Count one pass over an image (1, 3, S, S), on the plain network."""
    encoder, side = candidate.segmenter.encoder, image.shape[-1]
    meter, cost = EncoderMeter(encoder), frame_cost(candidate.segmenter)
    masks = torch.randn(1, 1, side // 4, side // 4, device=image.device)
    with torch.inference_mode(), meter.attached():
        blocks = encoder(image, candidate.policy, masks).blocks
    return Counted(meter.mean + cost.neck, blocks.flatten().tolist(), cost)


def gpu_calls(candidate: Candidate, sessions: Sessions, frames: list[Any]) -> dict[str, float]:
    """Kernel launches and synchronisations a frame; nothing on a CPU."""
    if candidate.segmenter.device.type != "cuda":
        return {}
    from torch.profiler import ProfilerActivity, profile

    session = sessions.of(candidate)
    count = len(frames)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        for frame in frames:
            session.step(frame)
    events = [(event.key, event.count) for event in profiled.key_averages()]
    return {name: calls / count for name, calls in calls_of(events).items()}


def calls_of(events: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Launches and synchronisations among a profile's events, given as (name, count).

    A recorded graph is one launch, however many kernels it holds.
    """
    launches = waits = 0
    for name, count in events:
        launches += count * name.startswith(LAUNCHES)
        waits += count * (name.startswith("cu") and "Synchronize" in name)
    return {"launches": launches, "synchronisations": waits}


def row_of(candidate: Candidate, counted: Counted, calls: dict[str, float]) -> dict[str, Any]:
    """Medians over the rounds, without the comparison with the full encoder."""
    frame, encoder, routing = np.median(np.array(candidate.times), axis=0).tolist()
    macs = counted.of(candidate.ran)
    return {
        "method": candidate.method,
        "budget": candidate.budget,
        "encoder_GMACs": round(macs.total / 1e9, 3),
        "encoder_GMACs_as_published": round(macs.published / 1e9, 3),
        "frame_ms": round(1000 * frame, 2),
        "encoder_ms": round(1000 * encoder, 2),
        "routing_ms": round(1000 * routing, 3),
        "routing_share": round(routing / frame, 4),
        "FPS": round(1 / frame, 3),
        **{f"{name}_a_frame": value for name, value in calls.items()},
    }


def compare(row: dict[str, Any], own: Candidate, full: dict[str, Any], beside: Candidate) -> None:
    """Add what the multiply-adds promise and what is real, against the full encoder.

    full, beside: its row, and itself. Real is the median of the rounds, each against the full
    encoder's own time in that round.
    """
    promised = full["encoder_GMACs"] / row["encoder_GMACs"]
    others = full["GMACs_beside_the_encoder"]
    whole = (full["encoder_GMACs"] + others) / (row["encoder_GMACs"] + others)
    ratios = np.array(beside.times)[:, :2] / np.array(own.times)[:, :2]
    frame, encoder = np.median(ratios, axis=0).tolist()
    row["encoder_speedup"] = {
        "promised": round(promised, 3),
        "real": round(encoder, 3),
        "ratio": round(encoder / promised, 3),
        "real_of_rounds": np.round(ratios[:, 1], 3).tolist(),
    }
    row["frame_speedup"] = {
        "promised": round(whole, 3),
        "real": round(frame, 3),
        "ratio": round(frame / whole, 3),
        "real_of_rounds": np.round(ratios[:, 0], 3).tolist(),
        # As the paper's 1.28 of 1.64: the frame against the promise of the encoder alone.
        "of_encoder_promise": round(frame / promised, 3),
    }


def rows_of(
    candidates: list[Candidate],
    counted: list[Counted],
    calls: list[dict[str, float]],
    others: float,
) -> list[dict[str, Any]]:
    """The rows of the table, the full encoder first; others: GMACs beside the encoder."""
    rows = [row_of(*each) for each in zip(candidates, counted, calls, strict=True)]
    full = {**rows[0], "GMACs_beside_the_encoder": others}
    for row, candidate in zip(rows, candidates, strict=True):
        compare(row, candidate, full, candidates[0])
    return rows


def draw(path: Path, rows: list[dict[str, Any]]) -> None:
    """Real against promised speed-up of the encoder, and frames a second against cost."""
    from studies.rds.chart import COLORS
    from tempomask.reports.figures import INK, figure_of, save, style

    figure = figure_of(4.2)
    left, right = figure.subplots(1, 2)
    for method in dict.fromkeys(row["method"] for row in rows):
        members = [row for row in rows if row["method"] == method]
        color = COLORS.get(method, INK)
        speedups = [row["encoder_speedup"] for row in members]
        look: dict[str, Any] = {"color": color, "marker": "o", "markersize": 4, "label": method}
        left.plot([s["promised"] for s in speedups], [s["real"] for s in speedups], **look)
        right.plot([r["encoder_GMACs"] for r in members], [r["FPS"] for r in members], **look)
    most = max(row["encoder_speedup"]["promised"] for row in rows)
    left.plot([1, most], [1, most], color=INK, linewidth=0.8, linestyle=":")
    left.set_xlabel("speed-up that the multiply-adds promise")
    left.set_ylabel("real speed-up")
    style(left, "Encoder", whole_numbers=False)
    right.set_xlabel("encoder, multiply-adds a frame (G)")
    right.set_ylabel("frames a second")
    style(right, "Whole frame", whole_numbers=False)
    left.legend(frameon=False, fontsize=8)
    save(figure, path)


def measure(
    model: str,
    methods: tuple[str, ...],
    budgets: tuple[float, ...],
    image_size: int | None,
    device: torch.device,
    dtype: torch.dtype,
    timed: int,
    rounds: int,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """The whole report."""
    torch.manual_seed(0)
    config = segmenter_config(model)
    base = Segmenter(config.with_image_size(image_size or config.image_size)).eval().to(device)
    base.requires_grad_(False)
    cost = frame_cost(base)
    side = base.config.image_size
    frames = noise(FULL_FROM + timed)
    resized = resize_frame(frames[FULL_FROM], side, "bicubic")
    image = network_input(resized, device)
    built = [build(m, b, base, image) for m in methods for b in sorted(budgets, reverse=True)]
    candidates = [Candidate("full", 1.0, base, None), *(c for c in built if c is not None)]
    with autocast(device, dtype):
        counted = [count(candidate, image) for candidate in candidates]
    # Counted on the plain networks, timed on the fast ones; all but SlimSAM share one.
    for network in {id(c.segmenter): c.segmenter for c in candidates}.values():
        accelerate(network, dtype)
    others = round((cost.frame() - cost.encoder()).total / 1e9, 3)
    sessions, frames = Sessions(dtype, frames[:FULL_FROM]), frames[FULL_FROM:]
    for turn in range(rounds):
        for candidate in candidates:
            say(f"round {turn + 1} of {rounds}: {candidate.method} {candidate.budget:g}")
            run_frames(candidate, sessions, frames)
    rows = rows_of(
        candidates, counted, [gpu_calls(c, sessions, frames) for c in candidates], others
    )
    return {
        "model": model,
        "image_size": side,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "frames_timed": timed * rounds,
        "GMACs_beside_the_encoder": others,
        "rows": rows,
    }


if __name__ == "__main__":
    command = parser(__doc__)
    command.add_argument("--model", default="sam2.1-large")
    command.add_argument("--methods", default=",".join(METHODS))
    command.add_argument("--budgets", default=",".join(map(str, BUDGETS)))
    command.add_argument("--image-size", type=int, default=None)
    command.add_argument("--device", default="auto")
    command.add_argument("--dtype", default="auto")
    command.add_argument("--timed", type=int, default=6, help="frames a method and round")
    command.add_argument("--rounds", type=int, default=2)
    arguments = command.parse_args()
    place = resolve_device(arguments.device)
    report = measure(
        arguments.model,
        tuple(arguments.methods.split(",")),
        tuple(float(budget) for budget in arguments.budgets.split(",")),
        arguments.image_size,
        place,
        resolve_dtype(cast(DTypeName, arguments.dtype), place),
        arguments.timed,
        arguments.rounds,
        say=lambda line: print(line, flush=True),
    )
    finish(report, arguments.out)
    if arguments.out:
        draw(arguments.out.with_suffix(".png"), report["rows"])
