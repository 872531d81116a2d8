"""The transfer table of RDS with SAMURAI: a model with and without it, full and routed.

    python -m studies.samurai ROOT --adapter nano-rds --out studies/samurai/transfer

ROOT is a DAVIS folder. OUT gets a folder of masks and scores for each setting, transfer.json, and
images of the sequences that motion helps and hurts most (all blocks run): frames with the masks
of the plain memory above those of SAMURAI's. Without --adapter nothing is routed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import finish
from tempomask import load
from tempomask.data.davis import Davis
from tempomask.data.sequences import MaskSequence
from tempomask.evaluation.vos import evaluate
from tempomask.files import make_folder
from tempomask.io.images import read_image, read_mask, save_png
from tempomask.io.overlay import (
    DrawnMasks,
    contact_sheet,
    draw_overlay,
    evenly_spaced,
)
from tempomask.tracking.options import SamuraiConfig, TrackingOptions

CELLS = 4
MEMORIES = {
    "recent": TrackingOptions(),
    "samurai": TrackingOptions(memory="samurai"),
    # As published: the filter chooses among three masks on every frame.
    "samurai-three-masks": TrackingOptions(memory="samurai", samurai=SamuraiConfig()),
}
TITLES = {"recent": "SAM 2's memory", "samurai": "SAMURAI", "samurai-three-masks": "three masks"}


def score(
    arguments: argparse.Namespace, memory: str, options: TrackingOptions, budget: float | None
) -> dict[str, Any]:
    """One row of the table."""
    name = memory if budget is None else f"{memory}-rds-{budget:g}"
    model = load(
        arguments.model,
        image_size=arguments.image_size,
        device=arguments.device,
        adapter=None if budget is None else arguments.adapter,
    )
    sequences = arguments.sequences.split(",") if arguments.sequences else None
    summary = evaluate(
        model,
        Davis(arguments.root, sequences=sequences),
        out=arguments.out / name,
        options=options,
        routing=budget,
    )
    return {
        "name": name,
        "J&F": round(summary.mean, 2),
        "J": round(summary.scores["J"], 2),
        "F": round(summary.scores["F"], 2),
        "FPS": None if summary.fps is None else round(summary.fps, 3),
        "blocks_run": summary.blocks_run,
        "sequences": {name: round(value, 2) for name, value in summary.per_sequence.items()},
    }


def draw(out: Path, sequence: MaskSequence, memories: Sequence[str], path: Path) -> None:
    """A sheet of frames: a row of masks for each memory."""
    places = [place + 1 for place in evenly_spaced(len(sequence) - 1, CELLS)]
    cells, captions = [], []
    for memory in memories:
        for place in places:
            image = sequence.images[place]
            labels = read_mask(out / memory / "masks" / sequence.name / f"{image.stem}.png")
            ids = [int(i) for i in np.unique(labels) if i]
            masks = np.stack([labels == i for i in ids]) if ids else np.zeros((0, *labels.shape))
            drawn = DrawnMasks(sequence.size, ids, masks.astype(bool))
            cells.append(draw_overlay(read_image(image), drawn, tags=False))
            captions.append(f"{TITLES[memory]}, frame {place}")
    save_png(path, contact_sheet(cells, captions, columns=CELLS))


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """All rows, and the images."""
    out = make_folder(arguments.out)
    budgets = [None] if arguments.adapter is None else [None, arguments.budget]
    rows = [score(arguments, *rule, budget) for budget in budgets for rule in MEMORIES.items()]
    scores = {row["name"]: row["sequences"] for row in rows}
    gains = {
        memory: {
            name: round(value - scores["recent"][name], 2) for name, value in scores[memory].items()
        }
        for memory in MEMORIES
        if memory != "recent"
    }
    ranked = sorted(
        (gain, name, memory) for memory in gains for name, gain in gains[memory].items()
    )
    for word, (_, name, memory) in {"helps": ranked[-1], "hurts": ranked[0]}.items():
        (sequence,) = Davis(arguments.root, sequences=[name])
        draw(out, sequence, ("recent", memory), out / f"motion_{word}_{name}.png")
    return {
        "model": arguments.model,
        "adapter": arguments.adapter,
        "device": arguments.device,
        "rows": rows,
        "gain_of_motion": gains,
    }


if __name__ == "__main__":
    command = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    command.add_argument("--out", type=Path, required=True)
    command.add_argument("root")
    command.add_argument("--model", default="nano")
    command.add_argument("--adapter", default=None, help="adapter with the router of RDS")
    command.add_argument("--budget", type=float, default=0.6)
    command.add_argument("--sequences", default=None)
    command.add_argument("--device", default="cpu")
    command.add_argument("--quick", action="store_true", help="a small input, to try the script")
    wanted = command.parse_args()
    wanted.image_size = 64 if wanted.quick else None
    report = run(wanted)
    finish(report, wanted.out / "transfer.json")
