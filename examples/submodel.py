"""Run a share of the encoder's blocks, chosen frame by frame: how many ran, and what it cost.

python examples/submodel.py --budgets 1.0,0.6,0.4
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from clip import BOX, VIDEO, exact_masks, iou
from tempomask import Prompt, load


def main(arguments: list[str] | None = None) -> None:
    """Track the bundled clip at each budget."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budgets", default="1.0,0.6,0.4")
    parser.add_argument("--frames", type=int, default=96)
    given = parser.parse_args(arguments)

    model = load("nano", adapter="nano-rds")
    box = Prompt(box=BOX)
    truth = exact_masks()
    for budget in map(float, given.budgets.split(",")):
        scores, shares, started = [], [], time.perf_counter()
        frames = range(given.frames)
        for result in model.track(VIDEO, box, frames=frames, routing=budget):
            scores.append(iou(result.masks[0], truth[result.index]))
            shares.append(result.blocks.mean())
        speed = given.frames / (time.perf_counter() - started)
        print(
            f"budget {budget:g}: {np.mean(shares):.0%} of the blocks, IoU {np.mean(scores):.3f},"
            f" {speed:.1f} frames a second"
        )


if __name__ == "__main__":
    main()
