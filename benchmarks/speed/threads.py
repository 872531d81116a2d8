"""How long a frame takes with one thread and with more, while others use the machine.

    python -m benchmarks.speed.threads --busy 2 --out threads.json

Each setting runs in a process of its own, as a library reads its waiting policy when it is loaded;
the settings take turns. `--busy N` adds N processes that only count, as neighbours that never rest.
"passive" is OMP_WAIT_POLICY=PASSIVE: threads sleep, not spin, where they wait for each other;
"short spin" is GOMP_SPINCOUNT=10000: they spin for some microseconds and then sleep.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from typing import Any

from benchmarks.common import FULL_FROM, finish, noise, parser

SETTINGS: dict[str, tuple[int | None, dict[str, str]]] = {
    "one thread": (1, {}),
    "all threads": (None, {}),
    "all, passive": (None, {"OMP_WAIT_POLICY": "PASSIVE"}),
    "all, short spin": (None, {"GOMP_SPINCOUNT": "10000"}),
}


def frame_times(model: str, frames: int, threads: int | None) -> list[float]:
    """Seconds of each frame once memories are full."""
    import torch

    from benchmarks.common import randomised
    from tempomask.engine import accelerate
    from tempomask.tracking.session import Session

    if threads is not None:
        torch.set_num_threads(threads)
    session = Session(accelerate(randomised(model), torch.float32))
    session.prompt(box=(200, 100, 400, 300))
    times = []
    for frame in noise(FULL_FROM + frames):
        began = time.perf_counter()
        _ = session.step(frame).low_res_logits
        times.append(time.perf_counter() - began)
    return times[FULL_FROM:]


def measure(model: str, frames: int, rounds: int, busy: int) -> dict[str, Any]:
    neighbours = [subprocess.Popen([sys.executable, "-c", "while 1: 1"]) for _ in range(busy)]
    found: dict[str, list[float]] = {name: [] for name in SETTINGS}
    load = []
    try:
        for _ in range(rounds):
            for name, (threads, policy) in SETTINGS.items():
                code = f"from benchmarks.speed.threads import *; print(frame_times({model!r},"
                own = {k: v for k, v in os.environ.items() if k[:4] not in ("OMP_", "GOMP")}
                environment = {**own, **policy}
                command = [sys.executable, "-c", f"{code} {frames}, {threads}))"]
                text = subprocess.run(
                    command, env=environment, capture_output=True, text=True, check=True
                ).stdout
                found[name] += map(float, text.strip("[]\n").split(","))
                load.append(os.getloadavg()[0])
    finally:
        for process in neighbours:
            process.kill()
    medians = {name: statistics.median(times) for name, times in found.items()}
    return {
        "model": model,
        "cores": len(os.sched_getaffinity(0)),
        "busy": busy,
        "load": round(statistics.median(load), 1),
        "frames": frames,
        "rounds": rounds,
        "frame_ms": {name: round(1000 * seconds, 1) for name, seconds in medians.items()},
        "worst_ms": {name: round(1000 * max(times), 1) for name, times in found.items()},
        "to_one_thread": {
            name: round(seconds / medians["one thread"], 2) for name, seconds in medians.items()
        },
    }


def main() -> None:
    command = parser(__doc__)
    command.add_argument("--model", default="nano")
    command.add_argument("--frames", type=int, default=10)
    command.add_argument("--rounds", type=int, default=2)
    command.add_argument("--busy", type=int, default=0)
    arguments = command.parse_args()
    report = measure(arguments.model, arguments.frames, arguments.rounds, arguments.busy)
    finish(report, arguments.out)


if __name__ == "__main__":
    main()
