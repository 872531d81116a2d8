"""Many short videos: one `tempomask track` after the other, and `tempomask batch`, in turns.

    python -m benchmarks.speed.batch_throughput --data DAVIS --out batch_throughput.json

A side is "track", a process for each video with all threads, or WORKERSxTHREADS of `batch`. Each
round does all sides on the same clips, the order moving on by one; a ratio is "track" over a side
in the same round, whole commands with start-up and loading.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common import finish, parser


def clips(data: Path, count: int, frames: int) -> list[dict[str, Any]]:
    """Jobs: the first sequences of DAVIS from their first masks on."""
    images, masks = data / "JPEGImages" / "480p", data / "Annotations" / "480p"
    names = [folder.name for folder in sorted(images.iterdir()) if (masks / folder.name).is_dir()]
    return [
        {
            "source": str(images / name),
            "mask": str(masks / name / "00000.png"),
            "end": frames,
            "save": "masks",
        }
        for name in names[:count]
    ]


def tempomask(*words: object, threads: int) -> None:
    """Call the command line in a process of its own."""
    command = [sys.executable, "-m", "tempomask", *map(str, words), "--quiet"]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": str(threads)})


def seconds(side: str, jobs: list[dict[str, Any]], given: argparse.Namespace) -> float:
    """Of a side, from the call to the end."""
    with tempfile.TemporaryDirectory() as name:
        folder, began = Path(name), time.perf_counter()
        if side == "track":
            for job in jobs:
                flags = [f"--{key}={value}" for key, value in job.items() if key != "source"]
                out = folder / Path(job["source"]).name
                words = "track", job["source"], *flags, "--model", given.model, "--out", out
                tempomask(*words, threads=given.cores)
        else:
            workers, threads = map(int, side.split("x"))
            (folder / "jobs.jsonl").write_text("".join(json.dumps(job) + "\n" for job in jobs))
            words = "batch", folder / "jobs.jsonl", "--each", f"model={given.model}"
            tempomask(*words, "--workers", workers, "--out", folder / "out", threads=threads)
        return time.perf_counter() - began


def main() -> None:
    """Measure."""
    asked = parser(__doc__)
    asked.add_argument("--data", type=Path, required=True, help="root of DAVIS")
    asked.add_argument("--model", default="nano")
    asked.add_argument("--clips", type=int, default=6)
    asked.add_argument("--frames", type=int, default=30)
    asked.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    asked.add_argument("--sides", default="track,1x1,1x2,2x1,2x2")
    asked.add_argument("--rounds", type=int, default=3)
    given = asked.parse_args()
    sides, jobs = given.sides.split(","), clips(given.data, given.clips, given.frames)
    found: dict[str, list[float]] = {side: [] for side in sides}
    for turn in range(given.rounds):
        for side in sides[turn % len(sides) :] + sides[: turn % len(sides)]:
            found[side].append(round(seconds(side, jobs, given), 2))
    frames = len(jobs) * given.frames
    report = {
        "model": given.model,
        "clips": len(jobs),
        "frames_each": given.frames,
        "cores": given.cores,
        "seconds": found,
        "frames_per_second": {s: round(frames / median(times), 2) for s, times in found.items()},
        "times_as_fast_as_track": {
            side: round(median(a / b for a, b in zip(found["track"], times, strict=True)), 3)
            for side, times in found.items()
        },
        "load_average": os.getloadavg()[0],
    }
    finish(report, given.out)


if __name__ == "__main__":
    main()
