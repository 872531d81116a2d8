"""Latency on a CUDA GPU: eager, compiled, beside transformers, and with blocks left out; one run.

    python -m benchmarks.speed.gpu_latency --model sam2.1-large --out gpu_latency.json

Every row tracks the same frames with the same random weights in bfloat16 (the released ones give
the same times). A frame's latency lasts from the image at video size to its low-resolution masks
on the host; transformers gets its images resized and on the device beforehand, which is to its
advantage. Percentiles are over frames with full memories. "waits" is how often the host waits for
the device in such a frame before its masks are asked for, as CUDA itself counts it. Static plans
keep evenly spaced blocks: their gain in time is put beside their gain in FLOPs, for the encoder
alone and for the frame. Two more rows are of the compiled network: with `session.prepare` outside
the clock, so that images are resized and on the device as transformers' are; and through
`Model.track`, which prepares a frame while the one before is tracked, by the time from one result
to the next.

`--device cpu` is for trying the script out, with `--tiny` in seconds; it says nothing of GPUs.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.common import HEIGHT, WIDTH, autocast, finish, parser, randomised, wait
from benchmarks.flops import FrameCost, frame_cost
from benchmarks.speed.against_transformers import Task, their_model
from benchmarks.speed.synchronisations import Synchronisations
from tempomask.engine import accelerate
from tempomask.model import Model
from tempomask.models.config import (
    HybridConfig,
    MaskDecoderConfig,
    MemoryAttentionConfig,
    SegmenterConfig,
)
from tempomask.models.encoder import always_on_blocks
from tempomask.models.segmenter import Segmenter
from tempomask.prompts import Prompt
from tempomask.routing.static import StaticPlan
from tempomask.tracking.frames import network_input, resize_frame
from tempomask.tracking.options import TrackingOptions
from tempomask.tracking.session import Session
from tempomask.tracking.warmup import frames_until_full

SIZE = HEIGHT, WIDTH
TINY = SegmenterConfig(
    name="tiny",
    encoder=HybridConfig(dim=32, num_heads=2, depth=4),
    image_size=64,
    hidden_dim=32,
    memory_dim=16,
    memory_frames=3,
    max_pointers=3,
    memory_attention=MemoryAttentionConfig(layers=1, feedforward_dim=32),
    mask_decoder=MaskDecoderConfig(num_heads=4, feedforward_dim=32, iou_hidden_dim=16),
)
Frames = list[NDArray[np.uint8]]


def images(count: int) -> Frames:
    """Noise in which a bright square moves."""
    rng = np.random.default_rng(0)
    background = rng.integers(0, 120, (*SIZE, 3)).astype(np.uint8)
    frames = []
    for t in range(count):
        frame = background.copy()
        frame[100:250, 100 + 3 * (t % 150) : 250 + 3 * (t % 150)] = 220
        frames.append(frame)
    return frames


def percentiles(seconds: list[float]) -> dict[str, float]:
    """Of a frame's time, in milliseconds."""
    return {f"p{q}_ms": round(1000 * float(np.percentile(seconds, q)), 3) for q in (50, 99)} | {
        "frames": len(seconds)
    }


def timed(calls: Iterator[Callable[[], Any]], skipped: int, device: torch.device) -> list[float]:
    """Seconds of each call but the first ones; each has to bring its result to the host."""
    times = []
    for call in calls:
        wait(device)
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return times[skipped:]


class Runs:
    """What all rows share: arguments, frames, weights, and the cost of a frame."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments, self.device = arguments, torch.device(arguments.device)
        self.dtype = torch.float32 if self.device.type == "cpu" else torch.bfloat16
        self.plain = Segmenter(TINY).eval() if arguments.tiny else randomised(arguments.model)
        self.cost: FrameCost = frame_cost(self.plain)
        self.skipped = min(
            frames_until_full(self.plain, TrackingOptions()) + 1, arguments.frames - 1
        )
        self.frames = images(arguments.frames)

    def model(self, compiled: bool, plan: StaticPlan | None = None) -> Model:
        """The fast engine on the device, warmed up for these frames."""
        arguments = self.arguments
        fast = accelerate(copy.deepcopy(self.plain).to(self.device), self.dtype)
        model, started = Model(fast, self.dtype), time.perf_counter()
        if compiled:
            model = model.compile(SIZE, arguments.objects, routing=plan, backend=arguments.backend)
        else:
            model.warmup(SIZE, arguments.objects, routing=plan)
        print(f"warm-up: {time.perf_counter() - started:.1f} s", flush=True)
        return model

    def prompts(self) -> list[Prompt]:
        return [
            Prompt(object_id=number, box=(100, 100, 250 + 20 * number, 250))
            for number in range(1, self.arguments.objects + 1)
        ]

    def row(
        self, name: str, model: Model, plan: StaticPlan | None = None, prepared: bool = False
    ) -> dict[str, Any]:
        """prepared: images are resized and sent before the clock starts."""
        session = model.session(routing=plan)
        for prompt in self.prompts():
            session.prompt(object_id=prompt.object_id, box=prompt.box)
        frames = map(session.prepare, self.frames) if prepared else iter(self.frames)
        calls = (lambda frame=f: session.step(frame).low_res_logits for f in frames)
        row = {"name": name, **percentiles(timed(calls, self.skipped, self.device))}
        row["waits"] = self.waits(session)
        return row | {"encode_p50_ms": self.encoder_time(model, plan)}

    def track_row(self, name: str, model: Model) -> dict[str, Any]:
        """From one result of `Model.track` to the next."""
        stamps = []
        for result in model.track(self.frames, self.prompts()):
            result.low_res_logits  # noqa: B018  (brought to the host)
            stamps.append(time.perf_counter())
        seconds = np.diff(stamps[self.skipped - 1 :]).tolist()
        return {"name": name, **percentiles(seconds), "fps": round(1 / float(np.mean(seconds)), 2)}

    def waits(self, session: Session) -> int | None:
        """How often the host waits for a GPU in a frame, by CUDA's own count; None elsewhere."""
        if self.device.type != "cuda":
            return None
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                session.step(self.frames[-1])
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return sum("synchronizing CUDA operation" in str(w.message) for w in caught)

    def watched_waits(self) -> list[str]:
        """Where the host waits in a tracked frame, found by watching its operations."""
        session = Session(accelerate(copy.deepcopy(self.plain).to("meta")))
        session.prompt(box=(100, 100, 250, 250))
        with Synchronisations() as waits:
            for frame in self.frames[:2]:
                session.step(frame)
            before = len(waits.found)
            session.step(self.frames[2])
        return [f"{wait.operation}: {wait.where}" for wait in waits.found[before:]]

    def encoder_time(self, model: Model, plan: StaticPlan | None) -> float:
        """Median milliseconds of the encoder alone."""
        side = model.config.image_size
        resized = resize_frame(self.frames[0], side, "bilinear")
        image = network_input(resized, self.device)

        def encode() -> None:
            model.segmenter.encode(image, plan)
            wait(self.device)

        with torch.inference_mode(), autocast(self.device, self.dtype):
            times = timed((encode for _ in self.frames), self.skipped, self.device)
        return percentiles(times)["p50_ms"]

    def plan(self, share: float) -> StaticPlan:
        """The blocks that must run, and evenly spaced others up to a share of all."""
        encoder = self.plain.encoder
        always = always_on_blocks(encoder)
        others = [i for i in range(encoder.num_blocks) if i not in always]
        count = max(0, round(share * encoder.num_blocks) - len(always))
        chosen = [others[i * len(others) // count] for i in range(count)] if count else []
        return StaticPlan(sorted({*always, *chosen}), encoder)

    def gains(self, row: dict[str, Any], full: dict[str, Any], plan: StaticPlan) -> dict[str, Any]:
        """How many times less a plan costs than all blocks, in FLOPs and in time."""
        cost, objects = self.cost, self.arguments.objects
        encoder = cost.encoder().flops / cost.encoder(plan.keep).flops
        frame = cost.frame(None, objects).flops / cost.frame(plan.keep, objects).flops
        return {
            "blocks": sum(plan.keep),
            "encoder_flop_gain": round(encoder, 3),
            "encoder_time_gain": round(full["encode_p50_ms"] / row["encode_p50_ms"], 3),
            "frame_flop_gain": round(frame, 3),
            "frame_time_gain": round(full["p50_ms"] / row["p50_ms"], 3),
        }


def transformers_row(runs: Runs) -> dict[str, Any]:
    """Sam2VideoModel with the same weights, in the same type, on the same device."""
    import transformers
    from transformers.models.sam2_video import modeling_sam2_video as modeling

    arguments, device = runs.arguments, runs.device
    dtype = str(runs.dtype).removeprefix("torch.")
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.pt"
        torch.save(runs.plain.state_dict(), weights)
        task = Task("transformers", dtype, arguments.model, "", Path(), 0, 0, weights, Path(folder))
        model = their_model(task).to(device)
    inputs = [network_input(resize_frame(f, 1024, "bilinear"), device)[0] for f in runs.frames]
    session = modeling.Sam2VideoInferenceSession(
        video=torch.stack(inputs).to(runs.dtype),
        video_height=SIZE[0],
        video_width=SIZE[1],
        dtype=runs.dtype,
        inference_device=device,
    )
    processor = object.__new__(transformers.Sam2VideoProcessor)
    processor.target_size, processor.point_pad_value = 1024, -10
    mask = np.zeros(SIZE, dtype=bool)
    mask[100:250, 100:250] = True
    ids = list(range(1, arguments.objects + 1))
    with torch.inference_mode():
        processor.add_inputs_to_inference_session(
            session, frame_idx=0, obj_ids=ids, input_masks=[mask] * len(ids)
        )
        calls = (
            lambda index=i: model(session, frame_idx=index).pred_masks.float().cpu()
            for i in range(len(runs.frames))
        )
        return {"name": "transformers", **percentiles(timed(calls, runs.skipped, device))}


def report(arguments: argparse.Namespace) -> dict[str, Any]:
    runs = Runs(arguments)
    rows = []

    def add(row: dict[str, Any]) -> dict[str, Any]:
        if rows:
            row["faster_than_the_first"] = round(rows[0]["p50_ms"] / row["p50_ms"], 3)
        rows.append(row)
        print(row, flush=True)
        return row

    if arguments.transformers:
        add(transformers_row(runs))
    add(runs.row("eager", runs.model(compiled=False)))
    compiled = runs.model(compiled=True)
    full = add(runs.row("compiled", compiled))
    add(runs.row("compiled, frames prepared before", compiled, prepared=True))
    add(runs.track_row("compiled, Model.track", compiled))
    for share in arguments.shares:
        plan = runs.plan(share)
        row = runs.row(f"compiled, {share:g} of the blocks", runs.model(True, plan), plan)
        add(row | runs.gains(row, full, plan))
    cuda = runs.device.type == "cuda"
    return {
        "model": runs.plain.config.name,
        "device": torch.cuda.get_device_name(runs.device) if cuda else "cpu",
        "dtype": str(runs.dtype).removeprefix("torch."),
        "objects": arguments.objects,
        "watched_waits": runs.watched_waits(),
        "torch": torch.__version__,
        "rows": rows,
    }


def main() -> None:
    command = parser(__doc__)
    command.add_argument("--model", default="sam2.1-large")
    command.add_argument("--device", default="cuda")
    command.add_argument("--frames", type=int, default=400)
    command.add_argument("--objects", type=int, default=1)
    command.add_argument("--shares", type=float, nargs="*", default=[0.75, 0.5])
    command.add_argument("--backend", default="inductor", help="of torch.compile")
    command.add_argument("--transformers", action=argparse.BooleanOptionalAction, default=True)
    command.add_argument("--tiny", action="store_true", help="a tiny network, to try it out")
    arguments = command.parse_args()
    if arguments.frames < 3 or arguments.objects < 1:
        command.error("need at least 3 frames and 1 object")
    if torch.device(arguments.device).type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("gpu_latency.py needs a CUDA GPU, and none is here; --device cpu --tiny")
    result = report(arguments)
    finish(result, arguments.out)


if __name__ == "__main__":
    main()
