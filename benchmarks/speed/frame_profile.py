"""Where a frame's time goes, and how near the encoder is to what the machine allows.

    python -m benchmarks.speed.frame_profile --model sam2.1-large --out profile.json

The floor is the sum, over matrix products, of the longer of FLOPs / peak and bytes / bandwidth, and
over fused attentions of FLOPs / their own peak; norms, activations and sums count as free. Peaks
are of large products, one large attention and a copy beyond all caches. A machine's speed drifts,
and bursts are faster than what it can keep up: peaks are sustained for as long as an encode takes,
and take turns with it; each turn gives a share of the floor, and the median is told.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmarks.common import autocast, finish, full_memory, parser, random_image, shortest
from tempomask.devices import resolve_dtype
from tempomask.engine import accelerate
from tempomask.models.config import segmenter_config
from tempomask.models.segmenter import Segmenter

ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    torch.ops.aten._scaled_dot_product_fused_attention_overrideable.default,
}

# How often peaks and the encoder take turns.
TURNS = 7


def sustained(function: Callable[[], object], seconds: float) -> float:
    """Seconds of a call, by the mean over so many seconds."""
    calls, started = 0, time.perf_counter()
    while (spent := time.perf_counter() - started) < seconds or not calls:
        function()
        calls += 1
    return spent / calls


class Peaks:
    """FLOP/s of large products and of attention, bytes/s of a copy."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.square = torch.randn(4096, 4096, dtype=dtype)
        self.query = torch.randn(1, 8, 4096, 96, dtype=dtype)
        self.source = torch.randn(64 * 2**20)
        self.target = torch.empty_like(self.source)

    def measure(self, seconds: float) -> dict[str, float]:
        """Sustained for so many seconds each."""
        q, work = self.query, 4 * 8 * 4096**2 * 96
        product = sustained(lambda: self.square @ self.square, seconds)
        attention = sustained(lambda: F.scaled_dot_product_attention(q, q, q), seconds)
        copy = sustained(lambda: self.target.copy_(self.source), seconds)
        return {
            "products": 2 * 4096**3 / product,
            "attention": work / attention,
            "bandwidth": 2 * self.source.nbytes / copy,
        }


class Recorder(TorchDispatchMode):
    """Notes FLOPs and bytes of every product and attention that runs under it."""

    def __init__(self) -> None:
        super().__init__()
        self.products: list[tuple[int, int]] = []
        self.attentions: list[int] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in ATTENTION:
            query, key = args[0], args[1]
            self.attentions.append(4 * query.shape[:-1].numel() * key.shape[-2] * query.shape[-1])
        elif func._overloadpacket in flop_registry:
            result = out if isinstance(out, Tensor) else out[0]
            flops = flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=out)
            moved = sum(x.nbytes for x in (*args, result) if isinstance(x, Tensor))
            self.products.append((flops, moved))
        return out

    @property
    def flops(self) -> int:
        """Of all."""
        return sum(flops for flops, _ in self.products) + sum(self.attentions)

    def floor(self, peak: dict[str, float]) -> dict[str, float]:
        """Seconds that all take at these peaks."""
        return {
            "products": sum(
                max(flops / peak["products"], moved / peak["bandwidth"])
                for flops, moved in self.products
            ),
            "attention": sum(self.attentions) / peak["attention"],
        }


def floor_report(encode: Callable[[], object], recorder: Recorder, peaks: Peaks) -> dict[str, Any]:
    """The encoder's share of the floor, turn by turn, and medians of what it is made of."""
    seconds = shortest(encode, 3)
    turns: dict[str, list[float]] = defaultdict(list)
    for _ in range(TURNS):
        peak = peaks.measure(seconds)
        floor, spent = recorder.floor(peak), sustained(encode, 2 * seconds)
        for name, value in peak.items():
            turns[name].append(value)
        for name, value in floor.items():
            turns[f"floor of {name}"].append(value)
        turns["encode"].append(spent)
        turns["share"].append(sum(floor.values()) / spent)
    median = {name: statistics.median(values) for name, values in turns.items()}
    return {
        "peak_gflops": {k: round(median[k] / 1e9) for k in ("products", "attention")},
        "bandwidth_gb": round(median["bandwidth"] / 1e9, 1),
        "encoder_gflops": round(recorder.flops / 1e9),
        "encoder_seconds": round(median["encode"], 4),
        "encoder_floor_seconds": {
            k: round(median[f"floor of {k}"], 4) for k in ("products", "attention")
        },
        "encoder_share_of_floor": round(median["share"], 3),
        "encoder_share_of_floor_by_turn": [round(share, 3) for share in turns["share"]],
    }


def profile(name: str, dtype: torch.dtype) -> dict[str, Any]:
    """Seconds of each part, plain and fast, and the encoder's floor."""
    torch.manual_seed(0)
    segmenter = Segmenter(segmenter_config(name)).eval()
    image = random_image(segmenter.config.image_size)
    parts: dict[str, dict[str, float]] = {}
    recorder = Recorder()
    # Not in inference mode, which hides what linear layers and attention are made of.
    cpu = torch.device("cpu")
    with torch.no_grad(), autocast(cpu, dtype), recorder:
        segmenter.encode(image)
    with torch.inference_mode(), autocast(cpu, dtype):
        for engine in ("plain", "fast"):
            if engine == "fast":
                accelerate(segmenter, dtype)
            parts[engine] = part_seconds(segmenter, image)
        floor = floor_report(lambda: segmenter.encode(image), recorder, Peaks(dtype))
    return {
        "model": name,
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "seconds": parts,
        **floor,
    }


def part_seconds(segmenter: Segmenter, image: Tensor) -> dict[str, float]:
    """Of each part of a frame with full memories, the shortest of three."""
    memory = full_memory(segmenter)
    encoded = segmenter.encode(image)
    features = segmenter.attend(encoded.features, memory)
    decoded = segmenter.decode(features, encoded.high_resolution)
    calls: dict[str, Callable[[], object]] = {
        "encode": lambda: segmenter.encode(image),
        "attend": lambda: segmenter.attend(encoded.features, memory),
        "decode": lambda: segmenter.decode(features, encoded.high_resolution),
        "encode_memory": lambda: segmenter.encode_memory(
            encoded.features, decoded.logits, decoded.object_score
        ),
    }
    return {part: round(shortest(call, 3), 4) for part, call in calls.items()}


def main() -> None:
    command = parser(__doc__)
    command.add_argument("--model", default="sam2.1-tiny")
    arguments = command.parse_args()
    report = profile(arguments.model, resolve_dtype("auto", torch.device("cpu")))
    finish(report, arguments.out)


if __name__ == "__main__":
    main()
