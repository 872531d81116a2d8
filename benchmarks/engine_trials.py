"""What the engine does against what was tried instead: ratios on the same input, in one run.

    python benchmarks/engine_trials.py --out trials.json

The trials stand in `trials_of_encoder.py` and `trials_of_memory.py`, how they are timed in
`trials.py`. The type is the one that the engine chooses on this machine. --only: those whose name
holds a word; --quick: small shapes, which say nothing about speed.
"""

from __future__ import annotations

import argparse
import json
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from tempomask.api import resolve_dtype
from tempomask.media.atomic import replacing
from trials import run
from trials_of_encoder import QUICK, Shapes, encoder_trials
from trials_of_memory import encode_seconds, kept_memory, memory_trials

KEPT_MEMORY = "freed memory"


def measure(shapes: Shapes, dtype: torch.dtype, only: str) -> dict[str, Any]:
    """Reports of the trials, by name."""
    torch.manual_seed(0)
    both = chain(encoder_trials(shapes, dtype), memory_trials(shapes, dtype))
    reports = {trial.name: run(trial) for trial in both if only in trial.name}
    if only in KEPT_MEMORY:
        reports[KEPT_MEMORY] = kept_memory(__file__, shapes is QUICK)
        print(KEPT_MEMORY, reports[KEPT_MEMORY]["milliseconds"], flush=True)
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "trials": reports,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--encode-alone", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    shapes = QUICK if arguments.quick else Shapes()
    dtype = resolve_dtype("auto", torch.device("cpu"))
    if arguments.encode_alone:
        print(encode_seconds(shapes, dtype))
        return
    report = measure(shapes, dtype, arguments.only)
    if arguments.out:
        with replacing(arguments.out) as path:
            path.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
