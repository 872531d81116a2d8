"""What adaptation may be asked for, as frozen dataclasses: adapters, the router's training, RDS."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from tempomask.errors import InputError, check_choice
from tempomask.routing.options import Draws, RouterInputs, WeightsForm

View = Literal["both", "global", "local"]


def check_rate(name: str, rate: float) -> None:
    """InputError for a learning rate that is not above 0, or not finite."""
    if not (rate > 0 and math.isfinite(rate)):
        raise InputError(f"{name} must be a learning rate above 0, such as 3e-4, got {rate:g}")


@dataclass(frozen=True)
class AdapterConfig:
    """I-LoRA: which blocks get adapters, and how they are trained.

    Args:
        blocks: Which, or how many in all (K_sel). None: half of the encoder's, as in the paper.
        view: The importance that ranks them, where they are not named.
        rank: Of the adapters. None: see `lora.suitable_rank`.
        scale: alpha / rank.
        rate: Learning rate of AdamW.
        decay: Weight decay.
        seed: Of the adapters' initial weights.

    Raises:
        InputError: For values outside their range.
    """

    blocks: int | tuple[int, ...] | None = None
    view: View = "both"
    rank: int | None = None
    scale: int = 1
    rate: float = 3e-4
    decay: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("importance", self.view, View)
        if self.rank is not None and self.rank < 1:
            raise InputError(f"the rank of adapters must be 1 or more, got {self.rank}")
        check_rate("rate", self.rate)
        if not (self.decay >= 0 and math.isfinite(self.decay)):
            raise InputError(f"decay must be a number from 0 up, got {self.decay:g}")


@dataclass(frozen=True)
class RouterTraining:
    """How the router of RDS is made and trained.

    Args:
        inputs: What it sees: "both", "mask" or "image".
        mask_frames: How many previous masks it sees.
        always_on: K. None: the encoder's own, see `models.encoder.always_on_blocks`.
        weights: "free" or "paper", see `routing.weights`.
        draws: "exact" runs as many blocks as in use, "bernoulli" draws each by itself.
        skipped_gradient: Compute skipped blocks too, for the router's gradient, as
            X' = r h(X) + (1 - r) X has it.
        router_rate: Learning rate of AdamW.
        first_temperature: What logits are divided by at the start.
        last_temperature: The same at the end and in use; it falls geometrically.
        importance_start: The first logit of the most important block by both views; that of the
            least important is its negative. 0: all start equal, as the paper's seem to.
        settled_share: Share of the steps, at the end, in which blocks are chosen as in use. 0: they
            are drawn to the end, as in the paper.
        learn_worth: Weight of the loss by which the router predicts what each block is worth, see
            `adaptation.worth`. 0: none.
        worth_warmup: Steps at the start in which that loss alone trains the router.

    Raises:
        InputError: For values outside their range.
    """

    inputs: RouterInputs = "both"
    mask_frames: int = 1
    always_on: tuple[int, ...] | None = None
    weights: WeightsForm = "free"
    draws: Draws = "exact"
    skipped_gradient: bool = True
    router_rate: float = 2e-3
    first_temperature: float = 1.0
    last_temperature: float = 0.2
    importance_start: float = 1.0
    settled_share: float = 0.3
    learn_worth: float = 0.0
    worth_warmup: int = 0

    def __post_init__(self) -> None:
        check_choice("inputs", self.inputs, RouterInputs)
        check_choice("weights", self.weights, WeightsForm)
        check_choice("draws", self.draws, Draws)
        check_rate("router_rate", self.router_rate)
        for name in ("first_temperature", "last_temperature"):
            value = getattr(self, name)
            if not 0.01 <= value <= 100:
                raise InputError(f"{name} must lie between 0.01 and 100, got {value:g}")
        if not math.isfinite(self.importance_start):
            raise InputError(f"importance_start must be a number, got {self.importance_start:g}")
        if not 0 <= self.settled_share <= 1:
            raise InputError(f"settled_share must lie between 0 and 1, got {self.settled_share:g}")
        if not (self.learn_worth >= 0 and math.isfinite(self.learn_worth)):
            raise InputError(f"learn_worth must be a weight from 0 up, got {self.learn_worth:g}")
        if self.worth_warmup < 0 or (self.worth_warmup and not self.learn_worth):
            raise InputError(
                "worth_warmup is a number of steps from 0 up, with a learn_worth above 0; got"
                f" {self.worth_warmup} with {self.learn_worth:g}"
            )

    def as_in_the_paper(self) -> RouterTraining:
        """The same with the paper's weights, draws and start, without what goes beyond it."""
        return replace(
            self,
            weights="paper",
            draws="bernoulli",
            first_temperature=1.0,
            last_temperature=1.0,
            importance_start=0.0,
            settled_share=0.0,
            learn_worth=0.0,
            worth_warmup=0,
        )

    def with_worth(self, steps: int) -> RouterTraining:
        """The same with worth learnt, if it is not yet: alone in the first tenth of the steps."""
        if self.learn_worth:
            return self
        return replace(self, learn_worth=1.0, worth_warmup=steps // 10)


@dataclass(frozen=True)
class RDSConfig:
    """What RDS trains: at the budget beta, a router and adapters."""

    budget: float = 0.6
    router: RouterTraining = field(default_factory=RouterTraining)
    adapters: AdapterConfig = field(default_factory=AdapterConfig)
