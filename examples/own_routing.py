"""A routing method of your own in twenty lines: all blocks on every fifth frame, half between.

python examples/own_routing.py
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from torch import Tensor

from clip import BOX, VIDEO
from tempomask import Prompt, load
from tempomask.models.encoder import Encoder, KeepPlan, Policy, always_on_blocks


class EveryFifth(Policy):
    """A policy that follows one video.

    Sessions start a fresh one for each video and tell it when a frame begins.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.encoder, self.frame = encoder, -1
        always = always_on_blocks(encoder)
        self.half: Sequence[bool] = [i in always or i % 2 == 0 for i in range(encoder.num_blocks)]

    def fresh(self) -> EveryFifth:
        """The same policy at the beginning of a video."""
        return EveryFifth(self.encoder)

    def begin_frame(self) -> None:
        """A frame has come."""
        self.frame += 1

    def plan(self, embedding: Tensor, previous_masks: Tensor | None) -> KeepPlan:
        """Which blocks run; embedding: (B, h, w, C)."""
        return KeepPlan(self.half if self.frame % 5 else [True] * self.encoder.num_blocks)


def main(arguments: list[str] | None = None) -> None:
    """Print how many blocks ran on each frame."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=24)
    frames = range(parser.parse_args(arguments).frames)

    model = load("nano")
    policy = EveryFifth(model.segmenter.encoder)
    box = Prompt(box=BOX)
    for result in model.track(VIDEO, box, frames=frames, routing=policy):
        print(result.index, f"{result.blocks.sum()} of {len(result.blocks)} blocks")


if __name__ == "__main__":
    main()
