"""What each part of the fast engine gives: times with all of them, and with each one left out.

    python benchmarks/engine_steps.py --models sam2.1-tiny,sam2.1-large --out engine_steps.json

The shortest of several times is taken of each.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from frame_profile import memory_of
from tempomask.api import resolve_dtype
from tempomask.engine import accelerate
from tempomask.media.atomic import write_json
from tempomask.models.config import segmenter_config
from tempomask.models.segmenter import Segmenter

WHOLE = 1 << 30


class _Absent(nn.Module):
    """Stands for a class that no part of a network is an instance of."""


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
    "without cheap rotations": [
        ("accelerate.FastMemoryAttention", lambda plain, side, dtype: plain)
    ],
}


def calls_of(segmenter: Segmenter, image: torch.Tensor) -> dict[str, Callable[[], object]]:
    encoded = segmenter.encode(image)
    memory = memory_of(segmenter)
    return {
        "encode": lambda: segmenter.encode(image),
        "attend": lambda: segmenter.attend(encoded.features, memory),
    }


def measure(name: str, rounds: int) -> dict[str, Any]:
    """Shortest seconds of encoding and attending, by variant."""
    dtype = resolve_dtype("auto", torch.device("cpu"))
    config = segmenter_config(name)
    image = torch.randn(1, 3, config.image_size, config.image_size)
    best: dict[str, dict[str, float]] = {}
    autocast = torch.autocast("cpu", dtype, enabled=dtype != torch.float32)
    with torch.inference_mode(), autocast:
        for variant in ("plain", *VARIANTS):
            torch.manual_seed(0)
            segmenter = Segmenter(config).eval()
            with left_out(*VARIANTS.get(variant, [])):
                if variant != "plain":
                    accelerate(segmenter, dtype)
                calls = calls_of(segmenter, image)
                best[variant] = {}
                for part, call in calls.items():
                    times = []
                    for _ in range(rounds + 1):
                        started = time.perf_counter()
                        call()
                        times.append(time.perf_counter() - started)
                    best[variant][part] = round(min(times[1:]), 4)
            print(name, variant, best[variant], flush=True)
    return {"model": name, "dtype": str(dtype).removeprefix("torch."), "seconds": best}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default="sam2.1-tiny,sam2.1-large")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    models = [measure(name, arguments.rounds) for name in arguments.models.split(",")]
    report = {"threads": torch.get_num_threads(), "models": models}
    if arguments.out:
        write_json(arguments.out, report)


if __name__ == "__main__":
    main()
