"""Which of several exact ways is fastest on this CPU: measured once, then remembered.

No name of a processor tells: one multiplies faster by torch's own products, another by packed ones.
What was measured lies in kernels.json beside the weights (`weights.zoo.home`), by processor,
instructions, threads and version of torch, so that a machine always takes the same way.
TEMPOMASK_KERNELS=default takes torch's own and measures nothing.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from tempomask.errors import InputError
from tempomask.files import write_json
from tempomask.weights.zoo import home

Way = Callable[[], object]
# Another way than the first must take at most this share of its time.
CLEARLY = 0.93
TURNS = 3


def fastest(name: str, ways: Callable[[], Mapping[str, Way]]) -> str:
    """The name of the fastest way; the first is torch's own, taken where none is clearly faster.

    Args:
        name: What is computed, as it is remembered.
        ways: Makes them; called only if nothing is remembered.
    """
    if os.environ.get("TEMPOMASK_KERNELS") == "default":
        return ""
    path, key = home() / "kernels.json", f"{name} on {_machine()}"
    remembered = _read(path)
    known = remembered.get(key)
    if known is None:
        known = remembered[key] = _measured(ways())
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, remembered)
        except (OSError, InputError):
            pass  # then it is measured again
    return known


@torch.inference_mode()
def _measured(ways: Mapping[str, Way]) -> str:
    """In turns, as what else the machine does changes; the shortest time of each counts."""
    times = {name: [] for name in ways}
    for turn in range(TURNS + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            if turn:
                times[name].append(time.perf_counter() - started)
    shortest = {name: min(found) for name, found in times.items()}
    first, best = next(iter(ways)), min(shortest, key=lambda name: shortest[name])
    return best if shortest[best] < CLEARLY * shortest[first] else first


def _machine() -> str:
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{_processor()}, {capability}, {torch.get_num_threads()} threads, {torch.__version__}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _read(path: Path) -> dict[str, str]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
