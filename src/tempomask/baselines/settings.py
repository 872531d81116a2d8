"""Settings of the compared methods, and of the alignment that all of them may be trained with.

The command line makes its options of these classes; torch is not needed here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from tempomask.errors import InputError


@dataclass(frozen=True)
class NumberSettings:
    """Base of settings that are numbers: none may be negative or not finite."""

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self)):
            value = getattr(self, name)
            if not (value >= 0 and math.isfinite(value)):
                kind = type(self).__name__.removesuffix("Config").lower()
                raise InputError(f"{kind}.{name} must be 0 or more, got {value:g}")


@dataclass(frozen=True)
class AlignmentConfig(NumberSettings):
    """Alignment to the untouched network, for every method or for none.

    Args:
        predictions: Weight of KL and GIoU between its masks and the student's.
        features: Weight of the MSE between its features and the student's.
    """

    predictions: float = 0.0
    features: float = 0.0


@dataclass(frozen=True)
class PBDConfig(NumberSettings):
    """PBD, which drops the block that harms least, again and again.

    Args:
        recovery: Steps of training between two drops; 0 drops all before training.
    """

    recovery: int = 0


@dataclass(frozen=True)
class SlimConfig(NumberSettings):
    """SlimSAM's two trainings, slim and slim-paper.

    Args:
        images: Images that importances are averaged over.
        distillation: Weight of the alignment of the two prunings.
        rate: Learning rate of the encoder; in slim-paper while it is aligned.
        head_rate: Learning rate of the rest in slim.
        tune_share: Share of the steps in which slim-paper trains on the task, at the end.
        tune_rate: Learning rate of the encoder in these.
        tune_head_rate: Learning rate of the rest in these.
    """

    images: int = 32
    distillation: float = 1.0
    rate: float = 1e-4
    head_rate: float = 1.67e-4
    tune_share: float = 0.33
    tune_rate: float = 3e-6
    tune_head_rate: float = 5e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.images < 1:
            raise InputError("slim.images must be 1 or more, got 0")
        if self.tune_share >= 1:
            raise InputError(f"slim.tune_share must be less than 1, got {self.tune_share:g}")


@dataclass(frozen=True)
class AdaViTConfig(NumberSettings):
    """AdaViT's usage loss; the weights are those of its release's loss.

    Args:
        gate_rate: Learning rate of the gates.
        usage: Weight of the usage loss.
        diversity: Within it, weight of every block's own usage.
        entropy: Within it, weight of the gates' entropy, which is rewarded.
    """

    gate_rate: float = 1e-3
    usage: float = 2.0
    diversity: float = 0.1
    entropy: float = 0.1


@dataclass(frozen=True)
class DyTConfig(NumberSettings):
    """DyT's usage loss; the weights are those of its release's loss.

    Args:
        gate_rate: Learning rate of gates and bottleneck adapters.
        usage: Weight of the usage loss.
        minimum: Share of an image's tokens that every MLP shall see at least.
        minimum_weight: Within the usage loss, weight of what lacks to it.
    """

    gate_rate: float = 1e-3
    usage: float = 2.0
    minimum: float = 0.1
    minimum_weight: float = 1.0


@dataclass(frozen=True)
class BaselineConfig:
    """Settings of all compared methods."""

    pbd: PBDConfig = PBDConfig()
    slim: SlimConfig = SlimConfig()
    adavit: AdaViTConfig = AdaViTConfig()
    dyt: DyTConfig = DyTConfig()
