"""What benchmarks and studies share: the command line, frames, random weights, clocks."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tempomask.devices import processor
from tempomask.files import make_folder, write_json
from tempomask.models.config import segmenter_config
from tempomask.models.segmenter import MemoryInputs, Segmenter

# A frame of DAVIS at 480p.
HEIGHT, WIDTH = 480, 854
# Seven memories are full from this frame on, and so is everything but the list of pointers.
FULL_FROM = 8


# What keeps a CPU to older instructions; the libraries read it once, before they are loaded.
KINDS = {
    "avx2": {
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    }
}


class _Parser(argparse.ArgumentParser):
    """Starts the program anew where `--kind` asks for variables that are not set."""

    def parse_args(self, *given: Any, **named: Any) -> Any:
        arguments = super().parse_args(*given, **named)
        wanted = KINDS.get(arguments.kind, {})
        if any(os.environ.get(name) != value for name, value in wanted.items()):
            command = [sys.executable, *sys.orig_argv[1:]]
            os.execve(sys.executable, command, {**os.environ, **wanted})
        return arguments


def parser(description: str | None, out_required: bool = False) -> argparse.ArgumentParser:
    """A command line whose help is a module's docstring, with `--out` and `--kind`."""
    made = _Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--out", type=Path, required=out_required, help="file or folder to write")
    made.add_argument(
        "--kind", choices=KINDS, default=None, help="as a CPU that has no newer instructions"
    )
    return made


def model_parser(description: str | None, out_required: bool = False) -> argparse.ArgumentParser:
    """The same with `--model`, `--checkpoint` and `--image-size`, each None by default."""
    made = parser(description, out_required)
    made.add_argument("--model", default=None, help="nano if neither this nor --checkpoint")
    made.add_argument("--checkpoint", default=None)
    made.add_argument("--image-size", type=int, default=None)
    return made


def finish(report: dict[str, Any], out: Path | None) -> None:
    """Print a report with the machine it is of, and write it where the command line says."""
    report = {**report, "processor": processor(), "machine": machine()}
    print(json.dumps(report, indent=2))
    if out is not None:
        make_folder(out.parent)
        write_json(out, report)


def machine() -> dict[str, Any]:
    """What torch makes of the processor: kind, threads, and the rate of a product to check it by.

    kind: AVX2, AVX-512 or AMX (`processor` also tells of bfloat16); emulated: made so by `--kind`.
    """
    kind = torch.backends.cpu.get_cpu_capability()
    emulated = any(all(os.environ.get(n) == v for n, v in x.items()) for x in KINDS.values())
    if "AMX" in processor() and not emulated:
        kind = "AMX"
    a = torch.randn(1024, 1024)
    seconds = shortest(lambda: a @ a, 9)
    return {
        "kind": {"AVX512": "AVX-512"}.get(kind, kind),
        "emulated": emulated,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "float32_product_gflops": round(2 * 1024**3 / seconds / 1e9, 1),
    }


def noise(count: int) -> list[NDArray[np.uint8]]:
    """Frames (HEIGHT, WIDTH, 3) of noise, always the same."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8) for _ in range(count)]


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """As a session casts: nothing in float32."""
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def randomised(model: str) -> Segmenter:
    """A segmenter with random weights that keep activations near unit scale."""
    torch.manual_seed(0)
    segmenter = Segmenter(segmenter_config(model)).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in segmenter.named_parameters():
            values = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim < 2 and ("norm" in name or name.endswith("scale")):
                parameter.copy_((1.0 if name.endswith("weight") else 0.1) + 0.1 * values)
            elif parameter.ndim < 2 or "position" in name or "embedding" in name:
                parameter.copy_(0.2 * values)
            else:
                parameter.copy_(values * (1.0 / parameter[0].numel() ** 0.5))
        last = cast(nn.Linear, segmenter.mask_decoder.object_score_head.layers[-1])
        nn.init.constant_(last.bias, 2.0)
    return segmenter


def full_memory(segmenter: Segmenter) -> MemoryInputs:
    """Seven memories of random content, and sixteen pointers."""
    config, side = segmenter.config, segmenter.config.image_size // 16
    images = torch.randn(1, 7, config.hidden_dim, side, side)
    return MemoryInputs(
        torch.randn(1, 7, *config.memory_shape),
        images if config.memory_attention.image_keys else None,
        torch.tensor([6, 5, 4, 3, 2, 1, 0]),
        torch.randn(1, 16, config.hidden_dim),
        torch.arange(16) / 15.0,
    )


class Clock:
    """Seconds between two places: of the processor, or of the GPU without waiting for it."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.spans: list[tuple[Any, Any]] = []

    def now(self) -> Any:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    @contextmanager
    def span(self) -> Iterator[None]:
        started = self.now()
        yield
        self.spans.append((started, self.now()))

    def seconds(self) -> float:
        """The sum of all spans so far, which are then forgotten."""
        spans, self.spans = self.spans, []
        if self.device.type != "cuda":
            return sum(end - start for start, end in spans)
        torch.cuda.synchronize()
        return sum(start.elapsed_time(end) for start, end in spans) / 1000


@contextmanager
def timed_calls(clock: Clock, modules: list[nn.Module]) -> Iterator[None]:
    """Time every call of the modules."""
    starts: list[Any] = []
    handles = []
    for module in modules:
        handles.append(module.register_forward_pre_hook(lambda *_: starts.append(clock.now())))
        handles.append(
            module.register_forward_hook(lambda *_: clock.spans.append((starts.pop(), clock.now())))
        )
    yield
    for handle in handles:
        handle.remove()


def wait(device: torch.device) -> None:
    """Until a GPU is done; nothing on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(call: Callable[[], object], device: torch.device | None = None) -> float:
    """Seconds of one call, its work on a GPU included."""
    started = time.perf_counter()
    call()
    if device is not None:
        wait(device)
    return time.perf_counter() - started


def shortest(call: Callable[[], object], repeats: int) -> float:
    """Shortest seconds of some calls, after one that does not count."""
    call()
    return min(seconds_of(call) for _ in range(repeats))


def random_image(side: int) -> Tensor:
    """A normalised image (1, 3, side, side) of noise."""
    return torch.randn(1, 3, side, side)
