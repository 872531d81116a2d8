"""J&F of ours against the public vos-benchmark package: same masks, one process, one run.

python benchmarks/region_boundary.py ROOT [--out FILE.json]   (ROOT in the DAVIS layout)

The prediction is the true mask three frames earlier, so that boundaries are as long as in real use.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from vos_benchmark.evaluator import Evaluator

from tempomask.data.davis import Davis
from tempomask.metrics.region_boundary import RegionBoundary

DELAY, FRAMES = 3, 24


def compare(root: Path) -> dict[str, float]:
    """Seconds of both, their ratio, and the largest difference of any object's score."""
    ours_seconds, theirs_seconds, difference, count = 0.0, 0.0, 0.0, 0
    for sequence in Davis(root):
        truths = [sequence.label_map(i) for i in range(min(FRAMES, len(sequence)))]
        pairs = list(zip(truths, truths[DELAY:], strict=False))
        ours, theirs = RegionBoundary(), Evaluator()
        started = time.perf_counter()
        for prediction, truth in pairs:
            ours.update(prediction, truth)
        result = ours.compute()
        middle = time.perf_counter()
        for prediction, truth in pairs:
            theirs.feed_frame(prediction, truth)
        region, boundary = theirs.conclude()
        theirs_seconds += time.perf_counter() - middle
        ours_seconds += middle - started
        count += len(pairs)
        for score in result.objects:
            difference = max(
                difference,
                abs(100 * score.region.mean - region[score.object_id]),
                abs(100 * score.boundary.mean - boundary[score.object_id]),
            )
    return {
        "frames": count,
        "ours_ms_per_frame": 1000 * ours_seconds / count,
        "vos_benchmark_ms_per_frame": 1000 * theirs_seconds / count,
        "ratio": theirs_seconds / ours_seconds,
        "largest_difference_percent": difference,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    table = compare(arguments.root)
    print(json.dumps(table, indent=2))
    if arguments.out:
        arguments.out.write_text(json.dumps(table, indent=2) + "\n")
