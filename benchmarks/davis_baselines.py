"""Scores of repeating the first mask on a DAVIS root: the floor that any tracker must beat.

python benchmarks/davis_baselines.py ROOT [--out FILE.json]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from tempomask.data.davis import Davis
from tempomask.metrics.region_boundary import RegionBoundary


def repeat_first_mask(root: Path) -> dict[str, float]:
    """J&F in percent by sequence, and their mean."""
    scores = {}
    for sequence in Davis(root):
        first = sequence.label_map(0)
        metric = RegionBoundary(int(i) for i in np.unique(first) if i)
        for index in range(1, len(sequence) - 1):
            metric.update(first, sequence.label_map(index))
        scores[sequence.name] = 100 * metric.compute().mean
    return scores | {"mean": float(np.mean(list(scores.values())))}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    table = {"repeat the first mask": repeat_first_mask(arguments.root)}
    text = json.dumps(table, indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")
