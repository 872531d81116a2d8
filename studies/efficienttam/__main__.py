"""EfficientTAM's ablations of memory attention (section 5.3, Figure 3) on a trained model.

    python -m studies.efficienttam DAVIS --out studies/efficienttam

Each form of attention to the memories takes the place of the full one with the same weights: J&F
on sequences of DAVIS from the first mask, and the multiply-adds of the memory attention. Figure 3:
the error of its sum over the memories, before the output projection, relative to full attention in
the Frobenius norm, over the layers and frames of the tracked sequences. OUT gets ablations.json.
"""

from __future__ import annotations

import argparse
import copy
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.common import finish, parser
from benchmarks.flops import frame_cost
from tempomask import load
from tempomask.data.davis import Davis
from tempomask.evaluation.prompts import first_frame_prompts
from tempomask.evaluation.vos import evaluate
from tempomask.files import make_folder
from tempomask.models.config import MemoryAttentionConfig, MemoryForm
from tempomask.models.memory_attention import MemoryTokens, RotaryAttention

FORMS = {
    "full": MemoryForm("none"),
    "Eq. 5, 2x2": MemoryForm("eq5"),
    "Eq. 5, 4x4": MemoryForm("eq5", 4),
    "Eq. 6, 2x2": MemoryForm("eq6"),
    "all tokens, 2x2": MemoryForm("all"),
    "no pointers": MemoryForm("none", pointers=False),
    "linear": MemoryForm("none", linear=True),
}
# Of these the error to full attention is asked for; pointers are no matter of it.
COMPARED = [name for name in FORMS if name not in ("full", "no pointers")]


class Compared(nn.Module):
    """A cross-attention that notes how far its other forms are from it."""

    def __init__(self, attention: RotaryAttention, errors: dict[str, list[float]]) -> None:
        super().__init__()
        self.attention, self.errors = attention, errors
        self.bare = copy.deepcopy(attention)
        self.bare.output = nn.Identity()  # type: ignore[assignment]

    def attend_memory(
        self, x: Tensor, memory: MemoryTokens, grid: tuple[int, int], config: MemoryAttentionConfig
    ) -> Tensor:
        """Same as in `RotaryAttention`."""
        if memory.num_spatial > memory.grid.tokens:
            full = self.bare.attend_memory(x, memory, grid, config)
            for name in COMPARED:
                other = replace(config, **asdict(FORMS[name]))
                change = self.bare.attend_memory(x, memory, grid, other) - full
                self.errors[name].append(float(change.norm() / full.norm()))
        return self.attention.attend_memory(x, memory, grid, config)


def errors_of(given: argparse.Namespace, data: Davis) -> list[dict[str, Any]]:
    """Relative errors of each form in each layer, over frames with several memories."""
    model = load(given.model, given.checkpoint, given.image_size, dtype="float32", engine="plain")
    layers = list(model.segmenter.memory_attention.layers)
    errors: list[dict[str, list[float]]] = [defaultdict(list) for _ in layers]
    for layer, found in zip(layers, errors, strict=True):
        layer.cross_attention = Compared(layer.cross_attention, found)  # type: ignore[arg-type]
    for sequence in data:
        session, first = model.session(), (sequence.label_map(0) > 0).astype(np.uint8)
        for prompt in first_frame_prompts(first, (1,), "mask", 0):
            session.add(prompt)
        for frame in sequence.frames():
            session.step(frame)
    return [
        {
            "form": name,
            "relative_error": round(float(np.mean([x for e in errors for x in e[name]])), 4),
            "by_layer": [round(float(np.mean(e[name])), 4) for e in errors],
            "greatest": round(max(x for e in errors for x in e[name]), 4),
        }
        for name in COMPARED
    ]


def rows_of(given: argparse.Namespace, data: Davis) -> Iterator[dict[str, Any]]:
    """Scores of each form."""
    for name, form in FORMS.items():
        lacking = form.linear or form.pooling == "all"
        model = load(
            given.model,
            given.checkpoint,
            given.image_size,
            engine="plain" if lacking else "fast",
            pooled_memory=form,
        )
        summary = evaluate(model, data)
        cost = frame_cost(model.segmenter).memory_attention
        row = {
            "form": name,
            "J&F": round(summary.mean, 2),
            "giga_multiply_adds": round(cost.total / 1e9, 3),
            "sequences": {key: round(x, 2) for key, x in summary.per_sequence.items()},
        }
        print(row, flush=True)
        yield row


def main() -> None:
    command = parser(__doc__, out_required=True)
    command.add_argument("root")
    command.add_argument("--model", default="nano")
    command.add_argument("--checkpoint", default=None)
    command.add_argument("--image-size", type=int, default=None)
    command.add_argument("--sequences", default=None, help="names with commas; all by default")
    command.add_argument("--max-frames", type=int, default=None)
    given = command.parse_args()
    make_folder(given.out)
    names = None if given.sequences is None else given.sequences.split(",")
    data = Davis(given.root, sequences=names, max_frames=given.max_frames)
    with torch.inference_mode():
        figure = errors_of(given, data)
    report = {
        "model": given.model,
        "sequences": [sequence.name for sequence in data],
        "max_frames": given.max_frames,
        "figure_3": figure,
        "rows": list(rows_of(given, data)),
    }
    finish(report, given.out / "ablations.json")


if __name__ == "__main__":
    main()
