"""Rules of memories on one model: quality, look-alikes, time and memory, with and without RDS.

    python -m studies.memory_rules DAVIS --data DATA --adapter nano-rds \
        --out studies/memory_rules/results

DAVIS is a folder of that layout, DATA as in `benchmarks.nano_prompts`, whose clips of look-alikes
are tracked. OUT gets masks and scores of each setting and memory_rules.json. Time is the CPU time
of a frame with one thread, the rules in turns on the first sequence, so that other work on the
machine counts little. Without --adapter nothing is routed.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import finish
from benchmarks.nano_prompts import identity
from studies.samurai.__main__ import score
from tempomask import Model, load
from tempomask.data.davis import Davis
from tempomask.evaluation.prompts import first_frame_prompts
from tempomask.files import make_folder
from tempomask.tracking.options import TrackingOptions

RULES = {
    "recent": TrackingOptions(),
    "samurai": TrackingOptions(memory="samurai"),
    "dam4sam": TrackingOptions(memory="dam4sam"),
    "sam2long": TrackingOptions(memory="sam2long"),
}
# Frames that are timed, after those in which the memories fill.
FILL, TIMED = 20, 10


def cost(model: Model, root: str, name: str | None) -> dict[str, dict[str, Any]]:
    """CPU milliseconds of a frame, and bytes of memories, by rule; all rules on each frame."""
    sequence = next(iter(Davis(root, sequences=None if name is None else [name])))
    frames = [sequence.frame(i) for i in range(min(FILL + TIMED, len(sequence)))]
    mask = (sequence.label_map(0) > 0).astype(np.uint8)
    sessions = {rule: model.session(options=options) for rule, options in RULES.items()}
    times: dict[str, list[float]] = {rule: [] for rule in RULES}
    anchors = set[int]()
    for session in sessions.values():
        for prompt in first_frame_prompts(mask, (1,), "mask", 0):
            session.add(prompt)
    for frame in frames:
        for rule, session in sessions.items():
            started = time.process_time()
            _ = session.step(frame).masks
            times[rule].append(1000 * (time.process_time() - started))
        bank = sessions["dam4sam"]._state.objects[1].bank
        anchors |= {memory.frame for memory in bank.recent.values() if memory.anchor}
    base = np.array(times["recent"][-TIMED:])
    return {
        rule: {
            "frame_cpu_ms": round(float(np.median(times[rule][-TIMED:])), 1),
            "ratio": round(float(np.median(np.array(times[rule][-TIMED:]) / base)), 3),
            "memory_bytes": session.memory_bytes(),
            **({"anchors": len(anchors)} if rule == "dam4sam" else {}),
        }
        for rule, session in sessions.items()
    }


def run(arguments: argparse.Namespace) -> None:
    """All rows, written to the folder."""
    make_folder(arguments.out)
    first = None if arguments.sequences is None else arguments.sequences.split(",")[0]
    model = load(arguments.model, image_size=arguments.image_size, device=arguments.device)
    torch.set_num_threads(1)
    costs = cost(model, arguments.root, first)
    rows = []
    for budget in [None] if arguments.adapter is None else [None, arguments.budget]:
        adapter = None if budget is None else arguments.adapter
        routed = load(
            arguments.model,
            image_size=arguments.image_size,
            device=arguments.device,
            adapter=adapter,
        )
        for rule, options in RULES.items():
            row = score(arguments, rule, options, budget)
            if arguments.data is not None:
                row["look_alikes"] = identity(
                    routed, arguments.data, arguments.clips, options=options, routing=budget
                )
            rows.append(row)
            # After each row, as all of them take long.
            report = {
                "model": arguments.model,
                "adapter": arguments.adapter,
                "device": arguments.device,
                "clips": arguments.clips,
                "cost": costs,
                "rows": rows,
            }
            finish(report, arguments.out / "memory_rules.json")


if __name__ == "__main__":
    command = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    command.add_argument("--out", type=Path, required=True)
    command.add_argument("root")
    command.add_argument("--data", type=Path, default=None)
    command.add_argument("--clips", type=int, default=12)
    command.add_argument("--model", default="nano")
    command.add_argument("--adapter", default=None, help="adapter with the router of RDS")
    command.add_argument("--budget", type=float, default=0.6)
    command.add_argument("--sequences", default=None)
    command.add_argument("--device", default="cpu")
    command.add_argument("--quick", action="store_true", help="a small input, to try the script")
    wanted = command.parse_args()
    wanted.image_size = 64 if wanted.quick else None
    run(wanted)
