"""A small model whose encoder is SAM 2's: the comparison's second network, whose blocks matter.

    python -m studies.rds.student --data DATA --out FOLDER

nano's stem does most of its encoder's work, so that little is lost with its blocks. Here a Hiera of
14 blocks, from random weights and without a stem, learns to give nano's features; memory and
decoder are nano's own, untouched. FOLDER/model.safetensors is then a model like any other, for
`python -m studies.rds --checkpoint` and `python -m studies.rds.block_worth --checkpoint`. The
command goes on where it was stopped.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks import common
from tempomask import load
from tempomask.data.clips import ClipMixture, collate
from tempomask.files import make_folder
from tempomask.models.config import HieraConfig
from tempomask.models.segmenter import Segmenter
from tempomask.ops.normalise import normalise
from tempomask.training.recipe import Recipe
from tempomask.training.run import AveragedRecipe, AveragedRun, batches, parameter_groups
from tempomask.training.validation import validate
from tempomask.weights import load_segmenter, save_segmenter

# SAM 2's stages in small: 4,096 tokens of 48 channels at stride 4 down to 64 of 384 at stride 32.
ENCODER = HieraConfig(
    embed_dim=48, stages=(1, 2, 9, 2), global_attention_blocks=(), window_sizes=(8, 4, 16, 8)
)
# Of the sum of the losses: stride 16, which the memory sees, then strides 4 and 8.
LEVEL_WEIGHTS = (1.0, 0.25, 0.25)
LEARNED = ("encoder.", "neck.")


@dataclass(frozen=True)
class StudentRecipe(AveragedRecipe):
    """Distillation of nano's features from single images."""

    image_size: int = 256
    steps: int = 1600
    batch_size: int = 16
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup_steps: int = 200
    decay_steps: int = 600
    validate_every: int = 500
    save_every: int = 250


def student_of(teacher: Segmenter) -> Segmenter:
    """The teacher's memory and decoder behind a fresh Hiera; only encoder and neck are trained."""
    torch.manual_seed(0)
    student = Segmenter(replace(teacher.config, name="hiera-student", encoder=ENCODER))
    kept = {k: v for k, v in teacher.state_dict().items() if not k.startswith(LEARNED)}
    student.load_state_dict(kept, strict=False)
    for name, parameter in student.named_parameters():
        parameter.requires_grad_(name.startswith(LEARNED))
    nn.init.trunc_normal_(student.encoder.position, std=0.02)  # type: ignore[arg-type]
    return student


def levels(segmenter: Segmenter, images: Tensor) -> tuple[Tensor, ...]:
    """What memory and decoder see of images: maps of strides 16, 4 and 8."""
    encoded = segmenter.encode(images)
    return (encoded.features, *encoded.high_resolution)


class Distillation(AveragedRun[StudentRecipe, Tensor, Segmenter]):
    """One run; a batch is frames (B, S, S, 3) uint8."""

    def __init__(self, recipe: StudentRecipe, data: Path, out: Path) -> None:
        super().__init__(recipe, student_of(load_segmenter("nano", None, recipe.image_size)), out)
        # The fast engine's, as it only gives features.
        self.teacher = load("nano", image_size=recipe.image_size).segmenter
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
            targets = levels(self.teacher, images)
        losses = [
            (x.float() - y.float()).square().mean() / y.float().var()
            for x, y in zip(levels(self.core, images), targets, strict=True)
        ]
        total = sum(weight * loss for weight, loss in zip(LEVEL_WEIGHTS, losses, strict=True))
        return torch.as_tensor(total), {"stride_16": losses[0].detach()}

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
