"""What each part of the fast engine gives: times with all of them, and with each one left out.

    python benchmarks/engine_steps.py --models sam2.1-tiny,sam2.1-large --out engine_steps.json

All of them take turns. Of each are told the median, the shortest and the longest time, and the
median of its ratios to the whole engine in the same turn.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from frame_profile import memory_of
from torch import Tensor, nn

from tempomask.devices import resolve_dtype
from tempomask.engine import accelerate
from tempomask.engine.packed import fast_linear
from tempomask.files import write_json
from tempomask.models.config import segmenter_config
from tempomask.models.segmenter import Segmenter
from tempomask.ops.rope import rotate

WHOLE = 1 << 30


class _Absent(nn.Module):
    """Stands for a class that no part of a network is an instance of."""


class _InPairs(nn.Module):
    """Keys of memories that are projected, and turned pair by pair: in place of `RotatedKeys`."""

    def __init__(
        self, layer: nn.Linear, table: tuple[Tensor, Tensor], side: int, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.layer = fast_linear(layer, dtype)
        # One value for each pair.
        self.cosine, self.sine = (x[:, ::2] for x in table)

    def forward(self, memory: Tensor, out: Tensor) -> None:
        out.copy_(rotate(self.layer(memory), (self.cosine, self.sine)))


@contextmanager
def left_out(*patches: tuple[str, Any]) -> Iterator[None]:
    """The engine with some names exchanged."""
    with ExitStack() as stack:
        for name, value in patches:
            stack.enter_context(patch(f"tempomask.engine.{name}", value))
        yield


# Exchanges in force while a variant is made, and while it runs.
VARIANTS: dict[str, list[tuple[str, Any]]] = {
    "fast": [],
    "without packed layers": [("packed.can_pack", lambda layer, dtype: False)],
    "without strips": [("strips.TOKENS", WHOLE), ("memory_attention.MLP_TOKENS", WHOLE)],
    "without the fused neck": [("accelerate.FeaturePyramidNeck", _Absent)],
    "memory keys turned pair by pair": [("memory_attention.RotatedKeys", _InPairs)],
}


def calls_of(segmenter: Segmenter, image: torch.Tensor) -> dict[str, Callable[[], object]]:
    encoded = segmenter.encode(image)
    memory = memory_of(segmenter)
    return {
        "encode": lambda: segmenter.encode(image),
        "attend": lambda: segmenter.attend(encoded.features, memory),
    }


def measure(name: str, rounds: int) -> dict[str, Any]:
    """Seconds of encoding and attending, by variant, over turns."""
    dtype = resolve_dtype("auto", torch.device("cpu"))
    config = segmenter_config(name)
    image = torch.randn(1, 3, config.image_size, config.image_size)
    variants = {"plain": [], **VARIANTS}
    calls: dict[str, dict[str, Callable[[], object]]] = {}
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    autocast = torch.autocast("cpu", dtype, enabled=dtype != torch.float32)
    with torch.inference_mode(), autocast:
        for variant, patches in variants.items():
            torch.manual_seed(0)
            segmenter = Segmenter(config).eval()
            with left_out(*patches):
                if variant != "plain":
                    accelerate(segmenter, dtype)
                calls[variant] = calls_of(segmenter, image)
        for turn in range(rounds + 1):
            for variant, patches in variants.items():
                with left_out(*patches):
                    for part, call in calls[variant].items():
                        started = time.perf_counter()
                        call()
                        # The first turn fills tables and caches.
                        if turn:
                            times[variant, part].append(time.perf_counter() - started)
    parts: dict[str, dict[str, Any]] = defaultdict(dict)
    for (variant, part), seconds in times.items():
        ratios = [a / b for a, b in zip(seconds, times["fast", part], strict=True)]
        parts[variant][part] = {
            "median": round(statistics.median(seconds), 4),
            "shortest": round(min(seconds), 4),
            "longest": round(max(seconds), 4),
            "ratio": round(statistics.median(ratios), 3),
        }
    for variant, report in parts.items():
        print(name, variant, report, flush=True)
    return {"model": name, "dtype": str(dtype).removeprefix("torch."), "seconds": dict(parts)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default="sam2.1-tiny,sam2.1-large")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    models = [measure(name, arguments.rounds) for name in arguments.models.split(",")]
    report = {"threads": torch.get_num_threads(), "models": models}
    if arguments.out:
        write_json(arguments.out, report)


if __name__ == "__main__":
    main()
