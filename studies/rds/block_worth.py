"""What a model's blocks are worth untrained: J&F with evenly spread blocks left out, on all frames.

    python -m studies.rds.block_worth DAVIS --image-size 256 --out studies/rds/block_worth.json

The static plan A at each number of blocks, from all of them down to those that always run, nothing
adapted. It says how much there is for a router or an adapter to win back.
"""

from __future__ import annotations

import argparse
from typing import Any

from benchmarks.common import model_parser
from tempomask import load
from tempomask.baselines.static import static_blocks
from tempomask.data.davis import Davis
from tempomask.evaluation.vos import evaluate
from tempomask.files import write_json
from tempomask.models.encoder import always_on_blocks
from tempomask.routing.static import StaticPlan


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """The whole report: one row a number of blocks."""
    model = load(arguments.model, checkpoint=arguments.checkpoint, image_size=arguments.image_size)
    encoder = model.segmenter.encoder
    total, least = encoder.num_blocks, len(always_on_blocks(encoder))
    names = arguments.sequences.split(",") if arguments.sequences else None
    rows = []
    for count in dict.fromkeys([total, *arguments.counts, least]):
        blocks = static_blocks(encoder, "a", count / total)
        policy = StaticPlan(blocks, encoder)
        summary = evaluate(model, Davis(arguments.root, sequences=names), routing=policy)
        rows.append({"count": count, "blocks": blocks, "J&F": round(summary.mean, 2)})
        print(rows[-1], flush=True)
    config = model.segmenter.config
    return {"model": config.name, "image_size": config.image_size, "rows": rows}


if __name__ == "__main__":
    parser = model_parser(__doc__)
    parser.add_argument("root", help="DAVIS folder")
    parser.add_argument("--counts", type=int, nargs="*", default=[11, 8, 6, 4])
    parser.add_argument("--sequences", default=None)
    given = parser.parse_args()
    report = measure(given)
    if given.out:
        write_json(given.out, report)
