"""Where a frame's time goes, and how near the encoder is to what the machine allows.

    python benchmarks/frame_profile.py --model sam2.1-large --out profile.json

The floor is the sum, over matrix products, of the longer of FLOPs / peak and bytes / bandwidth, and
over fused attentions of FLOPs / their own peak; norms, activations and sums count as free. Peaks
are measured in the same run: large products, one large attention, a copy beyond all caches.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from tempomask.api import resolve_dtype
from tempomask.engine import accelerate
from tempomask.media.atomic import write_json
from tempomask.models.config import segmenter_config
from tempomask.models.segmenter import MemoryInputs, Segmenter

ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    torch.ops.aten._scaled_dot_product_fused_attention_overrideable.default,
}


def best(function: Callable[[], object], repeats: int = 5) -> float:
    """Shortest seconds of a few calls."""
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return min(times[1:])


def peaks(dtype: torch.dtype) -> dict[str, float]:
    """FLOP/s of large products and of attention, bytes/s of a copy."""
    a = torch.randn(4096, 4096, dtype=dtype)
    q = torch.randn(1, 8, 4096, 96, dtype=dtype)
    source = torch.randn(64 * 2**20)
    target = torch.empty_like(source)
    return {
        "products": 2 * 4096**3 / best(lambda: a @ a),
        "attention": 4 * 8 * 4096**2 * 96 / best(lambda: F.scaled_dot_product_attention(q, q, q)),
        "bandwidth": 2 * source.nbytes / best(lambda: target.copy_(source)),
    }


class Recorder(TorchDispatchMode):
    """Adds up the floor of every product and attention that runs under it."""

    def __init__(self, peak: dict[str, float]) -> None:
        super().__init__()
        self.peak, self.seconds, self.flops = peak, {"products": 0.0, "attention": 0.0}, 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in ATTENTION:
            query, key = args[0], args[1]
            flops = 4 * query.shape[:-1].numel() * key.shape[-2] * query.shape[-1]
            self.seconds["attention"] += flops / self.peak["attention"]
            self.flops += flops
        elif func._overloadpacket in flop_registry:
            result = out if isinstance(out, Tensor) else out[0]
            flops = flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=out)
            moved = sum(x.nbytes for x in (*args, result) if isinstance(x, Tensor))
            floor = max(flops / self.peak["products"], moved / self.peak["bandwidth"])
            self.seconds["products"] += floor
            self.flops += flops
        return out


def memory_of(segmenter: Segmenter) -> MemoryInputs:
    """Seven memories of random content, and sixteen pointers."""
    config, side = segmenter.config, segmenter.config.image_size // 16
    images = torch.randn(1, 7, config.hidden_dim, side, side)
    return MemoryInputs(
        torch.randn(1, 7, config.memory_dim, side, side),
        images if config.memory_attention.image_keys else None,
        torch.tensor([6, 5, 4, 3, 2, 1, 0]),
        torch.randn(1, 16, config.hidden_dim),
        torch.arange(16) / 15.0,
    )


def profile(name: str, dtype: torch.dtype) -> dict[str, Any]:
    """Seconds of each part, plain and fast, and the encoder's floor."""
    torch.manual_seed(0)
    segmenter = Segmenter(segmenter_config(name)).eval()
    peak = peaks(dtype)
    image = torch.randn(1, 3, segmenter.config.image_size, segmenter.config.image_size)
    parts: dict[str, dict[str, float]] = {}
    recorder = Recorder(peak)
    # Not in inference mode, which hides what linear layers and attention are made of.
    with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32), recorder:
        segmenter.encode(image)
    with torch.inference_mode(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        for engine in ("plain", "fast"):
            if engine == "fast":
                accelerate(segmenter, dtype)
            memory = memory_of(segmenter)
            encoded = segmenter.encode(image)
            features = segmenter.attend(encoded.features, memory)
            decoded = segmenter.decode(features, encoded.high_resolution)
            calls = {
                "encode": lambda: segmenter.encode(image),
                "attend": lambda e=encoded, m=memory: segmenter.attend(e.features, m),
                "decode": lambda e=encoded, f=features: segmenter.decode(f, e.high_resolution),
                "memorise": lambda e=encoded, d=decoded: segmenter.memorise(
                    e.features, d.logits, d.object_score
                ),
            }
            parts[engine] = {part: round(best(call, 3), 4) for part, call in calls.items()}
    floor = sum(recorder.seconds.values())
    return {
        "model": name,
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "peak_gflops": {k: round(peak[k] / 1e9) for k in ("products", "attention")},
        "bandwidth_gb": round(peak["bandwidth"] / 1e9, 1),
        "seconds": parts,
        "encoder_gflops": round(recorder.flops / 1e9),
        "encoder_floor_seconds": {k: round(v, 4) for k, v in recorder.seconds.items()},
        "encoder_share_of_floor": round(floor / parts["fast"]["encode"], 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="sam2.1-tiny")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    report = profile(arguments.model, resolve_dtype("auto", torch.device("cpu")))
    print(json.dumps(report, indent=2))
    if arguments.out:
        write_json(arguments.out, report)


if __name__ == "__main__":
    main()
