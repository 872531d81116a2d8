"""Correct a mask: a click that misses a part, and a second one on what it missed.

python examples/correct_mask.py

Prints how well the masks agree with the exact ones of the bundled clip, before and after.
"""

from __future__ import annotations

import argparse

import numpy as np

from clip import CLICK, VIDEO, exact_masks, iou
from tempomask import Model, Prompt, load


def mean_iou(model: Model, prompts: list[Prompt], frames: range) -> float:
    """Of the saucer's masks with the exact ones."""
    truth = exact_masks()
    results = model.track(VIDEO, prompts, frames=frames)
    return float(np.mean([iou(result.masks[0], truth[result.index]) for result in results]))


def main(arguments: list[str] | None = None) -> None:
    """Track twice."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=96)
    frames = range(parser.parse_args(arguments).frames)

    model = load("nano")
    click = Prompt(frame=0, points=[CLICK], labels=[1])
    # Prompts on one frame act one after the other; label 0 would say: not here.
    missed = Prompt(frame=0, points=[(60, 86)], labels=[1])
    print(f"one click:      IoU {mean_iou(model, [click], frames):.3f}")
    print(f"and a second:   IoU {mean_iou(model, [click, missed], frames):.3f}")


if __name__ == "__main__":
    main()
