"""What the engine does against what was tried instead: ratios on the same input, in one run.

    python benchmarks/engine_trials.py --out trials.json
    python benchmarks/engine_trials.py --parts nano --out nano_trials.json

The trials stand in `trials_of_encoder.py`, `trials_of_memory.py`, `trials_of_nano.py` and
`trials_of_compiling.py`, how they are timed in `trials.py`. The type is the one that the engine
chooses on this machine. --only: those whose name holds a word; --quick: small shapes, which say
nothing about speed; --one-core: one thread, and its processor time instead of the clock's, which
other work disturbs less.
"""

from __future__ import annotations

import argparse
import time
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from trials import Clock, run
from trials_of_compiling import compiled_trials
from trials_of_encoder import QUICK, Shapes, encoder_trials
from trials_of_memory import CALLS, alone, kept_memory, memory_trials
from trials_of_nano import nano_trials

from tempomask.devices import resolve_dtype
from tempomask.files import write_json

KEPT_MEMORY = "freed memory"
PARTS = {
    "encoder": encoder_trials,
    "memory": memory_trials,
    "nano": nano_trials,
    "compiled": compiled_trials,
}


def measure(
    shapes: Shapes, dtype: torch.dtype, parts: list[str], only: str, clock: Clock
) -> dict[str, Any]:
    """Reports of the trials, by name."""
    torch.manual_seed(0)
    trials = chain.from_iterable(PARTS[part](shapes, dtype) for part in parts)
    reports = {trial.name: run(trial, clock) for trial in trials if only in trial.name}
    for part in CALLS if "memory" in parts else ():
        name = f"{KEPT_MEMORY}, {part}"
        if only in name:
            reports[name] = kept_memory(__file__, part, shapes is QUICK)
            print(name, reports[name]["milliseconds"], flush=True)
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "clock": clock.__name__,
        "torch": torch.__version__,
        "trials": reports,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", default="encoder,memory", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--only", default="")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--one-core", action="store_true")
    parser.add_argument("--alone", choices=list(CALLS), help=argparse.SUPPRESS)
    parser.add_argument("--memory", choices=["kept", "given"], help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    shapes = QUICK if arguments.quick else Shapes()
    dtype = resolve_dtype("auto", torch.device("cpu"))
    if arguments.alone:
        print(alone(shapes, dtype, arguments.alone, arguments.memory == "kept"))
        return
    if arguments.one_core:
        torch.set_num_threads(1)
    clock = time.process_time if arguments.one_core else time.perf_counter
    report = measure(shapes, dtype, arguments.parts.split(","), arguments.only, clock)
    if arguments.out:
        write_json(arguments.out, report)


if __name__ == "__main__":
    main()
