"""What AdaViT and DyT share: learned yes-or-no gates, trained with LoRA by the same loop as RDS.

Gates draw by Gumbel-sigmoid in training and decide by a threshold in use (AdaViT: arXiv 2111.15668,
section 3.2; DyT: arXiv 2403.11808, section 3.2). A loss holds their share of yes near its target.
At the end the threshold is set so that the target is met when nothing is drawn: trained in so few
steps, gates are rarely sure, and the papers' threshold of one half would run everything or nothing.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tempomask.adaptation.adapters import ImportantAdapters
from tempomask.adaptation.lora import export_lora, merge_lora
from tempomask.adaptation.method import (
    ClipOutputs,
    Export,
    LoadedAdapter,
    Measure,
    Method,
    Prepared,
    Replay,
)
from tempomask.adaptation.options import AdapterConfig
from tempomask.baselines.static import fixed
from tempomask.errors import InputError, check_share
from tempomask.models.encoder import Encoder, Plan, Policy, RoutedNetwork
from tempomask.ops.modes import evaluation_mode

POLICY = "policy."
# Frames that the threshold is set on.
IMAGES = 24
# Both papers soften their decisions by this temperature.
TEMPERATURE = 5.0
# A gate starts this far from never and always, so that the other answer is still tried.
LEAST_START, MOST_START = 0.05, 0.95


def gumbel_sigmoid(logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Decisions 0 or 1, drawn with probability sigmoid(logits); gradients of the soft decision."""
    uniform = torch.rand(logits.shape, generator=generator, device=logits.device)
    uniform = uniform.clamp(1e-6, 1 - 1e-6)
    noise = uniform.log() - (-uniform).log1p()
    soft = ((logits + noise) / TEMPERATURE).sigmoid()
    hard = (soft > 0.5).to(soft.dtype)
    # In this order the sum is exactly 0 or 1.
    return hard + (soft - soft.detach())


class Gate(nn.Module):
    """Tokens (..., C) to logits (...): layer norm without parameters, then a linear layer.

    The papers apply the linear layer alone; the norm makes one learning rate fit blocks whose
    tokens differ in scale by orders of magnitude, as they do in Hiera.
    """

    def __init__(self, dim: int, start: float) -> None:
        """start: probability of yes before training."""
        super().__init__()
        self.score = nn.Linear(dim, 1)
        nn.init.trunc_normal_(self.score.weight, std=0.02)
        start = min(max(start, LEAST_START), MOST_START)
        nn.init.constant_(self.score.bias, math.log(start / (1 - start)))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.score(F.layer_norm(tokens, tokens.shape[-1:]))[..., 0]


class Decisions(NamedTuple):
    """What one gate drew in one training pass, with gradients.

    block: its index. drawn: (N, ...) of N images, 0 or 1. logits: the same shape.
    """

    block: int
    drawn: Tensor
    logits: Tensor


class GatedPolicy(nn.Module, Policy):
    """Base of policies with a gate per block.

    threshold: logits above it mean yes when not training; 0 is the papers' rule.
    training_decisions: of the passes since they were last taken, for the loss.
    """

    threshold: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("threshold", torch.zeros(()))
        self.generator: torch.Generator | None = None
        self.training_decisions: list[Decisions] = []
        self._observed: list[Tensor] | None = None

    def plan(self, embedding: Tensor, previous_masks: Tensor | None) -> Plan:
        """See `models.encoder.Policy`."""
        raise TypeError(f"{type(self).__name__} must implement plan")

    def reseed(self, seed: int) -> None:
        """Draw as in any other run with this seed."""
        device = self.threshold.device
        self.generator = torch.Generator(device).manual_seed(seed)

    def decide(self, block: int, logits: Tensor) -> Tensor:
        """0 or 1, of the shape of logits; drawn in training, by the threshold otherwise."""
        if self._observed is not None:
            self._observed.append(logits.detach().flatten())
        if not self.training:
            return (logits > self.threshold).to(logits.dtype)
        drawn = gumbel_sigmoid(logits.float(), self.generator)
        self.training_decisions.append(Decisions(block, drawn, logits.float()))
        return drawn

    def take_decisions(self) -> list[Decisions]:
        """The training decisions so far, which are then forgotten."""
        taken, self.training_decisions = self.training_decisions, []
        return taken

    @contextmanager
    def observing(self) -> Iterator[list[Tensor]]:
        """Gather the logits of every gate inside the block."""
        self._observed = []
        try:
            yield self._observed
        finally:
            self._observed = None


@torch.no_grad()
def fit_threshold(
    policy: GatedPolicy, encoder: Encoder, images: Tensor, share: float, rounds: int = 4
) -> float:
    """Set the threshold so that a share of all gates says yes on images (N, 3, S, S).

    Every block counts alike, however many tokens it decides for, as in the methods' losses.
    What a gate sees depends on the answers before it, so that the fit is repeated. Returns the
    share that was reached. Raises InputError for a share outside [0, 1].
    """
    if not 0 <= share <= 1:
        raise InputError(f"a share of gates lies between 0 and 1, got {share}")
    tried: list[tuple[float, Tensor]] = []
    with evaluation_mode(policy):
        for _ in range(rounds + 1):
            with policy.observing() as observed:
                for image in images:
                    encoder(image[None], policy)
            tried.append((share_of_yes(observed, policy.threshold), policy.threshold.clone()))
            policy.threshold.fill_(_threshold_for(observed, share))
    reached, threshold = min(tried, key=lambda found: abs(found[0] - share))
    policy.threshold.copy_(threshold)
    return reached


def share_of_yes(observed: Sequence[Tensor], threshold: Tensor) -> float:
    """The mean over blocks of the share of their logits that say yes."""
    return torch.stack([(x.float() > threshold).double().mean() for x in observed]).mean().item()


def _threshold_for(observed: Sequence[Tensor], share: float) -> float:
    """The threshold at which `share_of_yes` comes nearest to a share."""
    logits = torch.cat(list(observed)).float()
    weights = torch.cat([torch.full_like(x, 1 / len(x), dtype=torch.double) for x in observed])
    ordered, order = logits.sort(descending=True)
    yes = torch.cat([weights.new_zeros(1), weights[order].cumsum(0) / len(observed)])
    count = int((yes - share).abs().argmin())
    if count == 0:
        return ordered[0].item()
    if count == len(ordered):
        return torch.finfo(torch.float32).min
    return ((ordered[count - 1] + ordered[count]) / 2).item()


def means_of_blocks(taken: Sequence[Decisions]) -> Tensor:
    """(blocks with a gate,): the mean decision of each, over images and passes."""
    by_block: dict[int, list[Tensor]] = {}
    for decisions in taken:
        by_block.setdefault(decisions.block, []).append(decisions.drawn.mean())
    return torch.stack([torch.stack(means).mean() for means in by_block.values()])


def token_widths(encoder: Encoder) -> list[int]:
    """Channels of the tokens before the first block and after every block, from the contract."""
    stages = encoder.channels[-len(encoder.feature_blocks) :]
    widths = [encoder.patch_channels]
    for index in range(encoder.num_blocks):
        widths.append(stages[sum(required <= index for required in encoder.required_blocks)])
    return widths


class GatedMethod(Method):
    """What the two share. A subclass names itself, makes its policy and adds its loss."""

    def __init__(
        self,
        budget: float,
        gate_rate: float,
        adapters: AdapterConfig,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        check_share("budget", budget)
        self.budget, self.gate_rate = budget, gate_rate
        self.adapters = ImportantAdapters(adapters, progress)

    @abstractmethod
    def make_policy(self, encoder: Encoder) -> GatedPolicy:
        """Fresh gates for an encoder at the budget; InputError if it is too small for it."""

    @abstractmethod
    def share_of_yes(self, policy: GatedPolicy) -> float:
        """How many of all gates shall say yes."""

    @abstractmethod
    def usage_loss(self, taken: Sequence[Decisions], wanted: float) -> Tensor:
        """Of the decisions of a step, of which a share `wanted` shall be yes."""

    def extra_loss(self, outputs: ClipOutputs, replay: Replay, step: int) -> Tensor | None:
        return self.usage_loss(self.policy.take_decisions(), self.share_of_yes(self.policy))

    def prepare(
        self, network: RoutedNetwork, measure: Measure, state: Mapping[str, Any] | None = None
    ) -> Prepared:
        self._network, self._measure = network, measure
        device = network.device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.adapters.config.seed)
            self.policy = self.make_policy(network.encoder).to(device)
        adapters = self.adapters.insert(network, measure, state)
        gates = {
            "params": list(self.policy.parameters()),
            "lr": self.gate_rate,
            "weight_decay": 0.0,
        }
        return Prepared(network, self.policy, [adapters, gates])

    def state(self) -> dict[str, Any]:
        return self.adapters.state()

    def export(self) -> Export:
        images, encoder = self._measure.images(IMAGES), self._network.encoder
        share = self.share_of_yes(self.policy)
        with evaluation_mode(self._network):
            reached = fit_threshold(self.policy, encoder, images, share)
        state = self.policy.state_dict()
        tensors = {f"{POLICY}{name}": x.detach().cpu() for name, x in state.items()}
        settings = {
            "budget": self.budget,
            "share_of_yes": {"wanted": share, "reached": reached},
            **self.adapters.settings(),
        }
        return Export(settings, {**export_lora(encoder), **tensors})


def attach_gates(
    network: RoutedNetwork, export: Export, policy: GatedPolicy, budget: float
) -> LoadedAdapter:
    """Merge the adapters, and load the gates of an export into a fresh policy."""
    state = {k.removeprefix(POLICY): x for k, x in export.tensors.items() if k.startswith(POLICY)}
    try:
        policy.load_state_dict(state)
    except RuntimeError:
        raise InputError("the adapter's gates do not fit this encoder; take its own") from None
    merge_lora(network.encoder, export.tensors)
    policy = policy.to(network.device).requires_grad_(False).eval()
    return LoadedAdapter(network, lambda routing: fixed(policy, routing, budget))
