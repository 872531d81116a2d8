"""What SAMURAI adds to a frame: its own steps against the whole frame, at the size of a model.

    python -m studies.samurai.cost --model sam2.1-large --out samurai_cost.json

Weights are random, which costs the same as trained ones. The frame is encode, attend (seven
memories, sixteen pointers), decode, remember; SAMURAI's own steps are the boxes of three masks
at network resolution with the filter and the choice, and what its selection takes longer than
SAM 2's. The fast engine runs the network. Medians; on a GPU with synchronisation after each step.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.common import autocast, finish, parser
from tempomask.devices import resolve_device, resolve_dtype
from tempomask.engine import accelerate
from tempomask.models.config import HIERA_SIZES, segmenter_config
from tempomask.models.segmenter import Encoded, MemoryInputs, Segmenter
from tempomask.tracking.kalman import BoxFilter
from tempomask.tracking.memory_bank import Memory, MemoryBank
from tempomask.tracking.options import SamuraiConfig
from tempomask.tracking.rules import MotionRule
from tempomask.tracking.samurai import Motion, MotionAwareMemories
from tempomask.tracking.selection import RecentMemories
from tempomask.tracking.state import Request


def median_ms(run: Callable[[], Any], repeats: int, device: torch.device) -> float:
    """Median milliseconds of a step, after one that does not count."""
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(1000 * (time.perf_counter() - started))
    return float(np.median(times[1:]))


def blob_logits(side: int, device: torch.device) -> Tensor:
    """(1, 4, side, side): a disc each, so that masks have boxes of ordinary size."""
    places = torch.arange(side, device=device)
    squares = [(places - side * centre).square() for centre in (0.4, 0.45, 0.5, 0.55)]
    discs = torch.stack([(side / 6) ** 2 - x[:, None] - x[None] for x in squares])
    return (discs / side)[None]


class Frame:
    """The steps of one frame with one object, on random inputs of the right shapes."""

    def __init__(self, segmenter: Segmenter, device: torch.device) -> None:
        config = self.config = segmenter.config
        self.segmenter, self.device = segmenter, device
        side, grid = config.image_size, config.image_size // 16
        self.image = torch.randn(1, 3, side, side, device=device)
        self.encoded: Encoded = segmenter.encode(self.image)
        frames, pointers = config.memory_frames, config.max_pointers
        self.memory = MemoryInputs(
            spatial=torch.randn(1, frames, config.memory_dim, grid, grid, device=device),
            images=None,
            temporal_index=torch.tensor([frames - 1, *range(frames - 2, -1, -1)], device=device),
            pointers=torch.randn(1, pointers, config.hidden_dim, device=device),
            pointer_distance=torch.linspace(0, 1, pointers, device=device),
        )
        self.features = segmenter.attend(self.encoded.features, self.memory)
        self.decoded = segmenter.decode(self.features, self.encoded.high_resolution, multimask=True)
        self.logits = blob_logits(config.image_size // 4, device)[:, 1:]

    def steps(self) -> dict[str, Callable[[], Any]]:
        """The four steps of the network."""
        segmenter, encoded = self.segmenter, self.encoded
        score = torch.ones(1, device=self.device)
        return {
            "encode": lambda: segmenter.encode(self.image),
            "attend": lambda: segmenter.attend(encoded.features, self.memory),
            "decode": lambda: segmenter.decode(
                self.features, encoded.high_resolution, multimask=True
            ),
            "encode_memory": lambda: segmenter.encode_memory(
                encoded.features, self.decoded.logits, score
            ),
        }

    def choosing(self) -> Callable[[], Any]:
        """Boxes, filter and choice, as a session does them."""
        rule = MotionRule(SamuraiConfig.for_model(self.config.name))
        decoded = self.decoded._replace(all_logits=self.logits)
        centre = self.config.image_size / 2
        start = BoxFilter.start((centre - 80, centre - 60, centre + 80, centre + 60))
        requests = [Request(motion=Motion(start, 15))]
        return lambda: rule.judge(decoded, requests)

    def selecting(self) -> tuple[Callable[[], Any], Callable[[], Any]]:
        """SAM 2's selection and SAMURAI's, from a bank of sixteen frames."""
        bank, none = MemoryBank(), torch.zeros(1)
        for t in range(16):
            bank.store(Memory(t, none, none, 5.0, 0.9, 0.5), conditioning=t == 0)
        recent = RecentMemories(self.config.memory_frames, self.config.max_pointers)
        aware = MotionAwareMemories(recent, SamuraiConfig.for_model(self.config.name))
        return lambda: recent.select(bank, 16, False), lambda: aware.select(bank, 16, False)


def measure(segmenter: Segmenter, device: torch.device, repeats: int) -> dict[str, Any]:
    """Milliseconds by step, and SAMURAI's share of the frame in percent."""
    frame = Frame(segmenter, device)
    network = {n: median_ms(step, repeats, device) for n, step in frame.steps().items()}
    chosen = median_ms(frame.choosing(), max(20, repeats), device)
    plain, aware = (median_ms(step, 200, device) for step in frame.selecting())
    total, own = sum(network.values()), chosen + max(aware - plain, 0.0)
    return {
        "model": segmenter.config.name,
        "image_size": segmenter.config.image_size,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "network_ms": {name: round(value, 3) for name, value in network.items()},
        "frame_ms": round(total, 3),
        "samurai_ms": {"choose": round(chosen, 4), "select": round(aware - plain, 4)},
        "share_percent": round(100 * own / total, 4),
    }


if __name__ == "__main__":
    command = parser(__doc__)
    command.add_argument("--model", default="sam2.1-large")
    command.add_argument("--device", default="cpu")
    command.add_argument("--repeats", type=int, default=3)
    command.add_argument("--quick", action="store_true", help="a small network, to try the script")
    arguments = command.parse_args()
    chosen_config = segmenter_config(arguments.model)
    if arguments.quick:
        small = replace(HIERA_SIZES["tiny"], stages=(1, 1, 1, 1), global_attention_blocks=(2,))
        chosen_config = replace(chosen_config, encoder=small, image_size=128)
    place = resolve_device(arguments.device)
    dtype = resolve_dtype("auto", place)
    torch.manual_seed(0)
    network_ = Segmenter(chosen_config).eval().to(place)
    accelerate(network_, dtype)
    with torch.inference_mode(), autocast(place, dtype):
        report = measure(network_, place, 1 if arguments.quick else arguments.repeats)
    report["dtype"] = str(dtype).removeprefix("torch.")
    finish(report, arguments.out)
