"""Two trackers without a network on a DAVIS folder: the floor that any model must beat.

    python -m benchmarks.quality.davis_baselines ROOT [--flow] [--out davis_baselines.json]

"repeat": the first mask on every frame. "flow" (with --flow; needs OpenCV): the first mask warped
from frame to frame by DIS optical flow, medium preset, and cut at 0.5.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tempomask.data.davis import Davis
from tempomask.data.sequences import MaskSequence
from tempomask.files import write_json
from tempomask.metrics.region_boundary import RegionBoundary

Labels = NDArray[np.integer]


def repeated(sequence: MaskSequence) -> Iterator[Labels]:
    """The first label map, for each frame after the first."""
    first = sequence.label_map(0)
    for _ in range(1, len(sequence)):
        yield first


def warped(sequence: MaskSequence) -> Iterator[Labels]:
    """Label maps of soft masks that are fetched along the flow, for each frame after the first."""
    import cv2

    flow_of = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    ids, first = np.array(sequence.object_ids), sequence.label_map(0)
    soft = [(first == object_id).astype(np.float32) for object_id in ids]
    rows, columns = np.indices(first.shape, dtype=np.float32)
    before = None
    for frame in sequence.frames():
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        if before is not None:
            flow = flow_of.calc(grey, before, None)  # type: ignore[call-overload]
            x, y = columns + flow[..., 0], rows + flow[..., 1]
            soft = [cv2.remap(mask, x, y, cv2.INTER_LINEAR) for mask in soft]
            stacked = np.stack(soft)
            yield np.where(stacked.max(axis=0) > 0.5, ids[stacked.argmax(axis=0)], 0)
        before = grey


def score(root: Path, tracker: Callable[[MaskSequence], Iterator[Labels]]) -> dict[str, float]:
    """J&F in percent by sequence, and their mean; the first and the last frame are not scored."""
    scores = {}
    for sequence in Davis(root):
        metric = RegionBoundary(sequence.object_ids)
        for index, labels in enumerate(tracker(sequence), 1):
            if index < len(sequence) - 1:
                metric.update(labels, sequence.label_map(index))
        scores[sequence.name] = 100 * metric.compute().mean
    return scores | {"mean": float(np.mean(list(scores.values())))}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("root", type=Path, help="a DAVIS folder")
    parser.add_argument("--flow", action="store_true", help="also warp by optical flow")
    parser.add_argument("--out", type=Path, default=None, help="JSON file to write")
    arguments = parser.parse_args()
    table = {"repeat": score(arguments.root, repeated)}
    if arguments.flow:
        table["flow"] = score(arguments.root, warped)
    print(json.dumps(table, indent=2))
    if arguments.out:
        write_json(arguments.out, table)
