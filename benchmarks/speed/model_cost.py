"""What a model costs: parameters by part, and the multiply-adds of a frame, from shapes alone.

    python -m benchmarks.speed.model_cost --models sam2.1-large,nano --out model_cost.json

"weights": multiply-adds of activations with weights, which is what RDS counts as FLOPs; "all" adds
the two products inside attention. See `benchmarks/flops.py`.
"""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.common import finish, parser
from benchmarks.flops import Macs, frame_cost
from tempomask.models.config import segmenter_config
from tempomask.models.segmenter import Segmenter


def giga(macs: Macs) -> dict[str, float]:
    return {"weights": round(macs.weights / 1e9, 1), "all": round(macs.total / 1e9, 1)}


def cost_of(name: str) -> dict[str, Any]:
    """Millions of parameters, and 1e9 multiply-adds of the encoder with its neck and of a frame."""
    with torch.device("meta"):
        segmenter = Segmenter(segmenter_config(name))
    parts = {part: _millions(module) for part, module in segmenter.named_children()}
    inside = {part: _millions(module) for part, module in segmenter.encoder.named_children()}
    cost = frame_cost(segmenter)
    return {
        "model": name,
        "image_size": segmenter.config.image_size,
        "million_parameters": {"whole": _millions(segmenter), **parts, "of the encoder": inside},
        "giga_multiply_adds": {"encoder": giga(cost.encoder()), "frame": giga(cost.frame())},
    }


def _millions(module: torch.nn.Module) -> float:
    return round(sum(parameter.numel() for parameter in module.parameters()) / 1e6, 3)


def main() -> None:
    command = parser(__doc__)
    command.add_argument("--models", default="sam2.1-large,nano")
    arguments = command.parse_args()
    report = {"models": [cost_of(name) for name in arguments.models.split(",")]}
    finish(report, arguments.out)


if __name__ == "__main__":
    main()
