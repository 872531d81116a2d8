"""nano with half of its stem: the comparison's second network, whose blocks matter.

    python -m studies.rds.student --data DATA --out FOLDER

nano's stem does most of its encoder's work, so that little is lost with its blocks. Here the stem
ends with stride 8, and twelve blocks, from random weights, learn to give nano's features of stride
16; stem, memory and decoder are nano's own, untouched. FOLDER/model.safetensors is then a model
like any other, for `python -m studies.rds --checkpoint` and `python -m studies.rds.oracle
--checkpoint`. The command goes on where it was stopped.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import common
from tempomask.data.clips import ClipMixture, collate
from tempomask.files import make_folder
from tempomask.models.config import HybridConfig
from tempomask.models.segmenter import Segmenter
from tempomask.ops.normalise import normalise
from tempomask.training.recipe import Recipe
from tempomask.training.run import AveragedRecipe, AveragedRun, batches, parameter_groups
from tempomask.training.validation import validate
from tempomask.weights import load_segmenter, save_segmenter

ENCODER = HybridConfig(depth=12, mlp_ratio=3.0, stem=(1, 2, 2))
# What nano has no weights for, or needs others.
LEARNED = ("encoder.embed", "encoder.blocks.", "encoder.norm.")


@dataclass(frozen=True)
class StudentRecipe(AveragedRecipe):
    """Distillation of nano's features from single images."""

    image_size: int = 192
    steps: int = 6000
    batch_size: int = 8
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup_steps: int = 100
    decay_steps: int = 2000
    validate_every: int = 500
    save_every: int = 100


def student_of(teacher: Segmenter) -> Segmenter:
    """The teacher's stem, memory and decoder around fresh blocks, which alone are trained."""
    torch.manual_seed(0)
    student = Segmenter(replace(teacher.config, name="nano-short-stem", encoder=ENCODER))
    own = student.state_dict().keys()
    given = teacher.state_dict()
    student.load_state_dict(
        {name: given[name] for name in own if not name.startswith(LEARNED)}, strict=False
    )
    for name, parameter in student.named_parameters():
        parameter.requires_grad_(name.startswith(LEARNED))
    return student


class Distillation(AveragedRun[StudentRecipe, Tensor, Segmenter]):
    """One run; a batch is frames (B, S, S, 3) uint8."""

    def __init__(self, recipe: StudentRecipe, data: Path, out: Path) -> None:
        super().__init__(recipe, student_of(load_segmenter("nano", None, recipe.image_size)), out)
        self.teacher = load_segmenter("nano", None, recipe.image_size)
        self.data = data
        self.held_out = Recipe().validation
        groups = parameter_groups(self.core, recipe.learning_rate, recipe.weight_decay)
        self._optimise(self.core, groups)

    def _batches(self) -> Iterator[Tensor]:
        recipe, span = self.recipe, range(self.step, self.recipe.steps)
        clips = ClipMixture(
            self.data, recipe.image_size, num_frames=1, seed=recipe.seed, held_out=self.held_out
        )
        loader = batches(clips, self.accelerator, recipe.batch_size, span, 1, collate)
        for frames, *_ in loader:
            yield frames[:, 0].to(self.accelerator.device)

    def _loss(self, batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        images = normalise(batch)
        with torch.no_grad():
            target = self.teacher.encode(images).features.float()
        error = self.core.encode(images).features.float() - target
        return error.square().mean() / target.var(), {}

    def _validate(self) -> dict[str, float]:
        with self.accelerator.autocast():
            return validate(self.average, self.data / "davis16-train-256", self.held_out)


def main() -> None:
    parser = common.parser(__doc__, out_required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder that nano was trained on")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--decay-steps", type=int)
    parser.add_argument("--batch-size", type=int)
    given = parser.parse_args()
    changes = {name: getattr(given, name) for name in ("steps", "decay_steps", "batch_size")}
    recipe = StudentRecipe().with_overrides(**changes)
    out = make_folder(given.out)
    run = Distillation(recipe, given.data, out)
    run.complete()
    save_segmenter(run.average, out / "model.safetensors")


if __name__ == "__main__":
    main()
