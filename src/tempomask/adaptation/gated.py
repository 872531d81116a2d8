"""AdaViT and DyT as methods: dense routers, trained with LoRA by the same loop as RDS.

Both add a loss that holds the share of yes near its target, 2 |mean - target| for AdaViT and
2 (mean - target)^2 for DyT; DyT also aligns its masks to those of the whole network (in the paper
the whole network is trained along; here it is the untouched one, which needs no second pass with
gradients). At the end the threshold of the gates is set so that the target is met when nothing is
drawn: trained in so few steps, gates are rarely sure, and the papers' threshold of one half would
run everything or nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tempomask.adaptation.alignment import prediction_alignment
from tempomask.adaptation.drop import fixed
from tempomask.adaptation.lora import export_lora, merge_lora
from tempomask.adaptation.method import (
    ClipOutputs,
    Export,
    LoadedAdapter,
    Measure,
    Prepared,
    Replay,
)
from tempomask.adaptation.rds import AdapterConfig, ImportantAdapters
from tempomask.errors import InputError, check_share
from tempomask.models.encoder import Encoder
from tempomask.models.segmenter import Segmenter
from tempomask.ops.modes import evaluation_mode
from tempomask.routing.adavit import AdaViT
from tempomask.routing.budget import check_budget
from tempomask.routing.dyt import DyT
from tempomask.routing.gates import GatedPolicy, fit_threshold

POLICY = "policy."
# Frames that the threshold is set on.
IMAGES = 24
# Of the sparsity losses, in both papers.
SPARSITY = 2.0


@dataclass(frozen=True)
class GatedConfig:
    """Settings of AdaViT and DyT.

    budget: AdaViT's share of blocks; DyT's share of tokens that the MLPs see, as in RDS, where its
    FLOPs are then higher than the budget says (629 G at 0.6, against 500 G). gate_rate: learning
    rate of gates and DyT's adapters. alignment: weight of DyT's.
    """

    budget: float = 0.6
    gate_rate: float = 1e-3
    alignment: float = 1.0
    adapters: AdapterConfig = field(default_factory=AdapterConfig)

    def __post_init__(self) -> None:
        check_share("budget", self.budget)


class GatedMethod(ABC):
    """What the two share. A subclass names itself, makes its policy and adds its loss."""

    name: str

    def __init__(
        self, config: GatedConfig, progress: Callable[[int, int], None] | None = None
    ) -> None:
        self.config = config
        self.adapters = ImportantAdapters(config.adapters, progress)

    @abstractmethod
    def make_policy(self, encoder: Encoder) -> GatedPolicy:
        """Fresh gates for an encoder at the budget; InputError if it is too small for it."""

    @abstractmethod
    def share_of_yes(self, policy: GatedPolicy) -> float:
        """How many of all gates shall say yes."""

    @abstractmethod
    def extra_loss(self, outputs: ClipOutputs, replay: Replay, step: int) -> Tensor | None: ...

    def prepare(
        self, segmenter: Segmenter, measure: Measure, state: Mapping[str, Any] | None = None
    ) -> Prepared:
        self._segmenter, self._measure = segmenter, measure
        device = segmenter.no_memory.device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.adapters.seed)
            self.policy = self.make_policy(segmenter.encoder).to(device)
        adapters = self.adapters.insert(segmenter, measure, state)
        gates = {
            "params": list(self.policy.parameters()),
            "lr": self.config.gate_rate,
            "weight_decay": 0.0,
        }
        return Prepared(segmenter, self.policy, [adapters, gates])

    def on_step(self, step: int) -> Prepared | None:
        """Nothing changes while it trains."""
        return None

    def _mean_decision(self) -> Tensor:
        """Mean of the decisions of the step, with gradients; each pass of a gate counts alike."""
        taken = self.policy.take_decisions()
        return torch.stack([decisions.mean() for decisions in taken]).mean()

    def state(self) -> dict[str, Any]:
        return self.adapters.state()

    def export(self) -> Export:
        images, encoder = self._measure.images(IMAGES), self._segmenter.encoder
        share = self.share_of_yes(self.policy)
        with evaluation_mode(self._segmenter):
            reached = fit_threshold(self.policy, encoder, images, share)
        state = self.policy.state_dict()
        tensors = {f"{POLICY}{name}": x.detach().cpu() for name, x in state.items()}
        settings = {
            "budget": self.config.budget,
            "share_of_yes": {"wanted": share, "reached": reached},
            **self.adapters.settings(),
        }
        return Export(settings, {**export_lora(encoder), **tensors})


class AdaViTMethod(GatedMethod):
    """A router before every block."""

    name = "adavit"

    def make_policy(self, encoder: Encoder) -> AdaViT:
        always = sorted({0, *encoder.required_blocks})
        check_budget(self.config.budget, encoder.num_blocks, always)
        return AdaViT(encoder, self.config.budget)

    def share_of_yes(self, policy: GatedPolicy) -> float:
        assert isinstance(policy, AdaViT)
        return policy.share_of_gates(self.config.budget)

    def extra_loss(self, outputs: ClipOutputs, replay: Replay, step: int) -> Tensor | None:
        return SPARSITY * (self._mean_decision() - self.share_of_yes(self.policy)).abs()


class DyTMethod(GatedMethod):
    """A gate for every token before every MLP."""

    name = "dyt"

    def make_policy(self, encoder: Encoder) -> DyT:
        return DyT(encoder, self.config.budget)

    def share_of_yes(self, policy: GatedPolicy) -> float:
        return self.config.budget

    def prepare(
        self, segmenter: Segmenter, measure: Measure, state: Mapping[str, Any] | None = None
    ) -> Prepared:
        self._teacher = deepcopy(segmenter).eval().requires_grad_(False)
        return super().prepare(segmenter, measure, state)

    def extra_loss(self, outputs: ClipOutputs, replay: Replay, step: int) -> Tensor | None:
        sparsity = SPARSITY * (self._mean_decision() - self.config.budget).square()
        aligned = prediction_alignment(outputs, replay(self._teacher, None))
        return sparsity + self.config.alignment * aligned


def attach_adavit(segmenter: Segmenter, export: Export) -> LoadedAdapter:
    """Merge the adapters and rebuild the routers."""
    budget = export.setting("budget", float)
    return _attach(segmenter, export, AdaViT(segmenter.encoder, budget), budget)


def attach_dyt(segmenter: Segmenter, export: Export) -> LoadedAdapter:
    """Merge the adapters and rebuild the token gates."""
    budget = export.setting("budget", float)
    return _attach(segmenter, export, DyT(segmenter.encoder, budget), budget)


def _attach(
    segmenter: Segmenter, export: Export, policy: GatedPolicy, budget: float
) -> LoadedAdapter:
    state = {k.removeprefix(POLICY): x for k, x in export.tensors.items() if k.startswith(POLICY)}
    try:
        policy.load_state_dict(state)
    except RuntimeError:
        raise InputError("the adapter's gates do not fit this encoder; take its own") from None
    merge_lora(segmenter.encoder, export.tensors)
    policy = policy.to(segmenter.no_memory.device).requires_grad_(False).eval()
    return LoadedAdapter(segmenter, lambda routing: fixed(policy, routing, budget))
