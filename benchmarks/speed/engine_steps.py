"""What each part of the fast engine gives: times with all of them, and with each one left out.

    python -m benchmarks.speed.engine_steps --models sam2.1-tiny,sam2.1-large \
        --out engine_steps.json

All of them take turns. Of each are told the median, the shortest and the longest time, and the
median of its ratios to the whole engine in the same turn.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from benchmarks.common import autocast, finish, full_memory, parser, random_image, seconds_of
from tempomask.devices import resolve_dtype
from tempomask.engine import accelerate
from tempomask.engine.packed import fast_linear
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
    "without strips": [("trunk.TOKENS", WHOLE), ("memory_attention.MLP_TOKENS", WHOLE)],
    "without the fused neck": [("accelerate.FeaturePyramidNeck", _Absent)],
    "memory keys turned pair by pair": [("rotated_keys.RotatedKeys", _InPairs)],
}


def calls_of(segmenter: Segmenter, image: torch.Tensor) -> dict[str, Callable[[], object]]:
    encoded = segmenter.encode(image)
    memory = full_memory(segmenter)
    return {
        "encode": lambda: segmenter.encode(image),
        "attend": lambda: segmenter.attend(encoded.features, memory),
    }


def measure(name: str, rounds: int) -> dict[str, Any]:
    """Seconds of encoding and attending, by variant, over turns."""
    dtype = resolve_dtype("auto", torch.device("cpu"))
    config = segmenter_config(name)
    image = random_image(config.image_size)
    variants = {"plain": [], **VARIANTS}
    calls: dict[str, dict[str, Callable[[], object]]] = {}
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    with torch.inference_mode(), autocast(torch.device("cpu"), dtype):
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
                        seconds = seconds_of(call)
                        # The first turn fills tables and caches.
                        if turn:
                            times[variant, part].append(seconds)
    parts: dict[str, dict[str, Any]] = defaultdict(dict)
    for (variant, part), spent in times.items():
        ratios = [a / b for a, b in zip(spent, times["fast", part], strict=True)]
        parts[variant][part] = {
            "median": round(statistics.median(spent), 4),
            "shortest": round(min(spent), 4),
            "longest": round(max(spent), 4),
            "ratio": round(statistics.median(ratios), 3),
        }
    for variant, report in parts.items():
        print(name, variant, report, flush=True)
    return {"model": name, "dtype": str(dtype).removeprefix("torch."), "seconds": dict(parts)}


def main() -> None:
    command = parser(__doc__)
    command.add_argument("--models", default="sam2.1-tiny,sam2.1-large")
    command.add_argument("--rounds", type=int, default=9)
    arguments = command.parse_args()
    models = [measure(name, arguments.rounds) for name in arguments.models.split(",")]
    report = {"threads": torch.get_num_threads(), "models": models}
    finish(report, arguments.out)


if __name__ == "__main__":
    main()
