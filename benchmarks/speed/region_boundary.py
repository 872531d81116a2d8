"""Speed of J&F against the public vos-benchmark package: same masks, one process, one run.

    python -m benchmarks.speed.region_boundary [--root DAVIS] [--out region_boundary.json]

Masks are 854 x 480: drawn objects that move and deform over 40 frames, predicted by the true masks
of three frames before; with --root also the sequences of a DAVIS folder. Both programs take turns,
and the fastest of three turns counts. vos-benchmark is measured with OpenCV's own choice of threads
and with one; ours uses one. Exits with 1 if scores differ by over 1e-6 or the ratio is below 5.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from vos_benchmark.evaluator import Evaluator

from tempomask.data.davis import Davis
from tempomask.files import write_json
from tempomask.metrics.region_boundary import RegionBoundary

HEIGHT, WIDTH, FRAMES, DELAY, TURNS = 480, 854, 40, 3, 3
LEAST_RATIO, TOLERANCE = 5.0, 1e-6
Clip = list[NDArray[np.uint8]]
Scores = dict[int, tuple[float, float]]


def drawn(objects: int) -> Clip:
    """Label maps of round shapes with wavy outlines that circle and deform."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    clip = []
    for t in range(FRAMES):
        labels = np.zeros((HEIGHT, WIDTH), np.uint8)
        for k in range(objects):
            angle = 0.05 * t + 2 * np.pi * k / objects
            x = columns - (427 + (280 if objects > 1 else 60) * np.cos(angle))
            y = rows - (240 + 120 * np.sin(angle))
            waves = 1 + 0.2 * np.sin(7 * np.arctan2(y, x) + 0.1 * t)
            labels[np.hypot(x, y) < (110 if objects > 1 else 150) * waves] = k + 1
        clip.append(labels)
    return clip


def clips(root: Path | None) -> Iterator[tuple[str, Clip]]:
    """Named clips: drawn ones, and those of a DAVIS folder."""
    for objects in (1, 3, 6):
        yield f"drawn, objects: {objects}", drawn(objects)
    for sequence in Davis(root) if root else ():
        length = min(FRAMES, len(sequence))
        yield sequence.name, [sequence.label_map(index) for index in range(length)]


def ours(predictions: Clip, truths: Clip) -> Scores:
    metric = RegionBoundary()
    for prediction, truth in zip(predictions, truths, strict=True):
        metric.update(prediction, truth)
    objects = metric.compute().objects
    return {s.object_id: (100 * s.region.mean, 100 * s.boundary.mean) for s in objects}


def theirs(predictions: Clip, truths: Clip) -> Scores:
    evaluator = Evaluator()
    for prediction, truth in zip(predictions, truths, strict=True):
        evaluator.feed_frame(prediction, truth)
    region, boundary = evaluator.conclude()
    return {object_id: (region[object_id], boundary[object_id]) for object_id in region}


def theirs_on_one_thread(predictions: Clip, truths: Clip) -> Scores:
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    scores = theirs(predictions, truths)
    cv2.setNumThreads(threads)
    return scores


PROGRAMS: dict[str, Callable[[Clip, Clip], Scores]] = {
    "ours": ours,
    "vos_benchmark": theirs,
    "vos_benchmark_one_thread": theirs_on_one_thread,
}


def compare(clip: Clip) -> dict[str, float]:
    """Milliseconds a frame of each program, ratios to ours, and the largest difference."""
    predictions, truths = clip[:-DELAY], clip[DELAY:]
    seconds = dict.fromkeys(PROGRAMS, float("inf"))
    scores: dict[str, Scores] = {}
    for _ in range(TURNS):
        for name, program in PROGRAMS.items():
            started = time.perf_counter()
            scores[name] = program(predictions, truths)
            seconds[name] = min(seconds[name], time.perf_counter() - started)
    assert scores["ours"].keys() == scores["vos_benchmark"].keys()
    difference = max(
        float(np.abs(np.subtract(scores["ours"][k], scores["vos_benchmark"][k])).max())
        for k in scores["ours"]
    )
    return {
        **{f"{name}_ms": 1000 * value / len(truths) for name, value in seconds.items()},
        "ratio": seconds["vos_benchmark"] / seconds["ours"],
        "ratio_one_thread": seconds["vos_benchmark_one_thread"] / seconds["ours"],
        "difference_percent": difference,
    }


def report(root: Path | None) -> dict[str, object]:
    """Rows by clip, and the worst of them."""
    rows = {}
    for name, clip in clips(root):
        rows[name] = compare(clip)
        print(
            f"{name:22} ours {rows[name]['ours_ms']:7.2f} ms  vos-benchmark"
            f" {rows[name]['vos_benchmark_ms']:7.2f} ms  {rows[name]['ratio']:5.1f} x"
        )
    return {
        "clips": rows,
        "least_ratio": min(row["ratio"] for row in rows.values()),
        "largest_difference_percent": max(row["difference_percent"] for row in rows.values()),
        "machine": platform.machine(),
        "numpy": np.__version__,
        "opencv_threads": cv2.getNumThreads(),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--root", type=Path, default=None, help="a DAVIS folder")
    parser.add_argument("--out", type=Path, default=None, help="JSON file to write")
    arguments = parser.parse_args()
    table = report(arguments.root)
    print(f"least ratio {table['least_ratio']:.1f}, at least {LEAST_RATIO} wanted")
    if arguments.out:
        write_json(arguments.out, table)
    ratio, difference = table["least_ratio"], table["largest_difference_percent"]
    sys.exit(int(ratio < LEAST_RATIO or difference > TOLERANCE))  # type: ignore[operator]
