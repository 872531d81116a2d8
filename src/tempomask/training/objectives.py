"""What a network is adapted for: how its clips become losses, and how it is scored.

The loop (`adapt.py`), the measure (`calibration.py`) and every method work on any `Objective`:
tracking with a segmenter, or label propagation with an encoder alone.

T frames, S image side.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from tempomask.adaptation.method import Method, Prepared
from tempomask.errors import InputError
from tempomask.models.encoder import Policy, RoutedNetwork
from tempomask.models.segmenter import as_segmenter
from tempomask.propagation.network import PatchEncoder
from tempomask.propagation.options import PropagationOptions
from tempomask.training.losses import LossWeights
from tempomask.training.prompts import PromptSampling
from tempomask.training.propagation import (
    PropagationClips,
    PropagationLoss,
    propagate_sequence,
)
from tempomask.training.unroll import ClipModel
from tempomask.training.unrolled_clips import UnrolledClips
from tempomask.training.validation import track_sequence
from tempomask.weights import load_segmenter
from tempomask.weights.dinov3 import load_dinov3
from tempomask.weights.zoo import DINOV3_MODELS

ObjectiveName = Literal["tracking", "propagation"]
OBJECTIVES: tuple[ObjectiveName, ...] = get_args(ObjectiveName)
# Side of the images in training for propagation: half of what is used, as attention is quadratic.
PROPAGATION_SIDE = 480
# How clips are prompted: by their first masks, as in semi-supervised use, or by everything.
PROMPTS = {"mask": PromptSampling(mask=1.0, box=0.0), "mixed": PromptSampling()}


class Objective(Protocol):
    """What a network is trained and measured for; a frozen dataclass of the settings."""

    @property
    def name(self) -> ObjectiveName:
        """As users write it."""
        ...

    def clip_model(self, prepared: Prepared, method: Method | None = None) -> UnrolledClips:
        """What is trained over clips, with the objective's losses, see `UnrolledClips`."""
        ...

    def follow(
        self,
        network: RoutedNetwork,
        frames: Tensor,
        first: Tensor,
        policy: Policy | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Masks bool (T - 1, S, S) of the frames after the first, from its mask.

        Args:
            network: In evaluation mode.
            frames: (T, S, S, 3), uint8.
            first: (S, S), zeros and ones.
            policy: Routes the encoder.
            dtype: Of the computation, by autocast.
        """
        ...


@dataclass(frozen=True)
class TrackingObjective:
    """Tracking as SAM 2 does, with a segmenter."""

    name: ObjectiveName = "tracking"
    losses: LossWeights = field(default_factory=LossWeights)
    prompts: PromptSampling = PROMPTS["mask"]

    def clip_model(self, prepared: Prepared, method: Method | None = None) -> UnrolledClips:
        """Same as in `Objective`."""
        segmenter, policy, task = as_segmenter(prepared.network), prepared.policy, prepared.task
        return ClipModel(segmenter, self.losses, self.prompts, policy, method, task)

    def follow(
        self,
        network: RoutedNetwork,
        frames: Tensor,
        first: Tensor,
        policy: Policy | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Same as in `Objective`."""
        reduced = dtype != torch.float32
        with torch.autocast(frames.device.type, dtype, enabled=reduced):
            return track_sequence(as_segmenter(network), frames, first, policy)


@dataclass(frozen=True)
class PropagationObjective:
    """Label propagation, with an encoder alone."""

    name: ObjectiveName = "propagation"
    options: PropagationOptions = field(
        default_factory=lambda: PropagationOptions(short_side=PROPAGATION_SIDE)
    )
    loss: PropagationLoss = field(default_factory=PropagationLoss)

    def clip_model(self, prepared: Prepared, method: Method | None = None) -> UnrolledClips:
        """Same as in `Objective`."""
        network, policy, task = prepared.network, prepared.policy, prepared.task
        return PropagationClips(network, self.options, self.loss, policy, method, task)

    def follow(
        self,
        network: RoutedNetwork,
        frames: Tensor,
        first: Tensor,
        policy: Policy | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Same as in `Objective`."""
        return propagate_sequence(network, frames, first, self.options, policy, dtype)


def load_for(
    objective: ObjectiveName | None,
    name: str | None = None,
    checkpoint: str | Path | None = None,
    image_size: int | None = None,
    prompts: PromptSampling = PROMPTS["mask"],
) -> tuple[RoutedNetwork, Objective, int]:
    """A network with its weights, ready to be adapted.

    Args:
        objective: What for; None for what the model can do, tracking where it can do both.
        name: Of a model, None for what the checkpoint holds, or nano.
        checkpoint: A file, a folder or a Hub id; None for the model's own.
        image_size: Side of the square images that it is trained on; None for the model's own in
            tracking, and for `PROPAGATION_SIDE`.
        prompts: Of clips in tracking; labels are always propagated from masks.

    Returns:
        The network, its objective, and that side.

    Raises:
        InputError: For an unknown objective, tracking with DINOv3, a side that the encoder cannot
            take, and as the loaders do.
    """
    if objective is not None and objective not in OBJECTIVES:
        raise InputError(f"unknown objective {objective!r}; choose from {', '.join(OBJECTIVES)}")
    if name in DINOV3_MODELS:
        if objective == "tracking":
            raise InputError(
                f"{name} is an encoder alone and cannot track; leave the objective out"
            )
        network = PatchEncoder(load_dinov3(name, checkpoint), name)
    elif objective == "propagation":
        segmenter = load_segmenter(name, checkpoint)
        network = PatchEncoder(segmenter.encoder, segmenter.name)
    else:
        segmenter = load_segmenter(name, checkpoint, image_size)
        return segmenter, TrackingObjective(prompts=prompts), segmenter.config.image_size
    side = image_size or PROPAGATION_SIDE
    if side < 1 or side % network.multiple:
        raise InputError(
            f"images of {side} pixels do not fit {network.name}; give a multiple of"
            f" {network.multiple}"
        )
    return network, PropagationObjective(options=PropagationOptions(short_side=side)), side
