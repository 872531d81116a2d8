"""RDS as a method: importance, then router and adapters trained jointly at a fixed budget.

No sparsity loss: the normalisation of the router's weights holds the budget (section 3 of the
paper). `FullModel` trains the same adapters without a router, for comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

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
from tempomask.adaptation.options import RDSConfig
from tempomask.adaptation.worth import measured_worth, worth_loss, worth_targets
from tempomask.errors import InputError
from tempomask.models.encoder import Encoder, Policy, RoutedNetwork, always_on_blocks
from tempomask.routing.budget import check_budget
from tempomask.routing.options import Routing
from tempomask.routing.predictive import PredictiveRouter, RouterConfig
from tempomask.routing.recurrent import recurrent_policy
from tempomask.routing.sampling import SamplingPolicy
from tempomask.schema import check

ROUTER = "router."


class FullModel(Method):
    """The network with all its blocks and the adapters of RDS: trained as long, for comparison."""

    name = "full"

    def __init__(
        self, config: RDSConfig, progress: Callable[[int, int], None] | None = None
    ) -> None:
        self.config = config
        self.adapters = ImportantAdapters(config.adapters, progress, config.router.always_on)
        self.encoder: Encoder | None = None

    def prepare(
        self, network: RoutedNetwork, measure: Measure, state: Mapping[str, Any] | None = None
    ) -> Prepared:
        self.encoder = network.encoder
        return Prepared(network, None, [self.adapters.insert(network, measure, state)])

    def state(self) -> dict[str, Any]:
        return self.adapters.state()

    def export(self) -> Export:
        if self.encoder is None:
            raise InputError(f"{self.name} has not been prepared; there is nothing to export")
        return Export(self.adapters.settings(), export_lora(self.encoder))


class RDS(FullModel):
    """Router and adapters, trained jointly at the budget.

    steps: of the whole training, which temperature and settling divide; 0 holds both at their end.
    """

    name = "rds"

    def __init__(
        self, config: RDSConfig, progress: Callable[[int, int], None] | None = None, steps: int = 0
    ) -> None:
        super().__init__(config, progress)
        self.steps = steps
        self.router: PredictiveRouter | None = None
        self.policy: SamplingPolicy | None = None

    def prepare(
        self, network: RoutedNetwork, measure: Measure, state: Mapping[str, Any] | None = None
    ) -> Prepared:
        budget, training, encoder = self.config.budget, self.config.router, network.encoder
        always_on = always_on_blocks(encoder, training.always_on)
        check_budget(budget, encoder.num_blocks, always_on)
        self.encoder, self._network = encoder, network
        ranked = training.importance_start != 0
        adapters = self.adapters.insert(network, measure, state, ranked)
        self.router = self._new_router(encoder, always_on)
        self.policy = SamplingPolicy(self.router, budget, training.draws, training.skipped_gradient)
        parameters = list(self.router.parameters())
        group = {"params": parameters, "lr": training.router_rate, "weight_decay": 0.0}
        return Prepared(network, self.policy, [adapters, group], watch=self._watch)

    def _new_router(self, encoder: Encoder, always_on: tuple[int, ...]) -> PredictiveRouter:
        """A router with logits in the order of importance."""
        training = self.config.router
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.adapters.seed)
            router = PredictiveRouter(
                RouterConfig.for_encoder(
                    encoder,
                    always_on=always_on,
                    inputs=training.inputs,
                    mask_frames=training.mask_frames,
                    weights=training.weights,
                    temperature=training.last_temperature,
                )
            )
        if self.adapters.importance is not None:
            # Whatever the view of the adapters: it varies what is adapted, and nothing else.
            order = self.adapters.importance.ordered("both")
            start = training.importance_start
            with torch.no_grad():
                router.head.bias[order] = torch.linspace(start, -start, len(order))
        return router

    def on_step(self, step: int) -> Prepared | None:
        """Lower the temperature; from a step on, choose blocks as in use."""
        training, policy = self.config.router, self.policy
        if policy is not None and self.steps:
            progress = min(1.0, step / max(1, self.steps - 1))
            fall = training.last_temperature / training.first_temperature
            policy.temperature = training.first_temperature * fall**progress
            policy.settled = step >= self.steps - int(training.settled_share * self.steps)
            policy.straight_through = step >= training.worth_warmup
        return None

    def extra_loss(self, outputs: ClipOutputs, replay: Replay, step: int) -> Tensor | None:
        """The router's error in predicting what blocks are worth, if that is learnt."""
        weight = self.config.router.learn_worth
        if not weight or self.policy is None or not self.policy.logits:
            return None
        always_on = self.policy.router.config.always_on
        free = [i for i in range(outputs.blocks.shape[-1]) if i not in always_on]
        # The first frame runs all blocks and is not planned.
        worth = measured_worth(self._network, replay)[:, 1:]
        logits = torch.stack(self.policy.logits, dim=1)
        return weight * worth_loss(logits, worth_targets(worth, free), free)

    def _watch(self) -> dict[str, float]:
        """Of the last clips' routed frames: the share of blocks that was drawn, and that of use."""
        policy = self.policy
        if policy is None or not policy.loads:
            return {}
        total = policy.router.config.num_blocks
        drawn = sum(policy.loads) / len(policy.loads)
        return {
            "load": drawn / total,
            "load_in_use": policy.load_in_use / total,
            "temperature": policy.temperature,
        }

    def export(self) -> Export:
        base = super().export()
        if self.router is None:
            raise InputError("rds has not been prepared; there is nothing to export")
        router = {f"{ROUTER}{k}": v.detach().cpu() for k, v in self.router.state_dict().items()}
        settings = {
            "budget": self.config.budget,
            "thresholds": {},
            "router": self.router.config.to_settings(),
            **base.settings,
        }
        return Export(settings, {**base.tensors, **router})


def attach_without_router(network: RoutedNetwork, export: Export) -> LoadedAdapter:
    """Merge the adapters; all blocks run."""
    merge_lora(network.encoder, export.tensors)
    return LoadedAdapter(network, None)


def attach(network: RoutedNetwork, export: Export) -> LoadedAdapter:
    """Merge the adapters, and rebuild the router on the network's device."""
    loaded = attach_router(network, export)
    merge_lora(network.encoder, export.tensors)
    return loaded


def attach_router(network: RoutedNetwork, export: Export) -> LoadedAdapter:
    """The router alone, for a network that has the adapters already."""
    budget, thresholds = export.setting("budget", float), export.setting("thresholds", _thresholds)
    router = read_router(network.encoder, export).to(network.device)

    def make_policy(routing: Routing) -> Policy:
        return recurrent_policy(router, routing, budget, thresholds)

    return LoadedAdapter(network, make_policy)


def _thresholds(saved: Mapping[str, Any]) -> dict[str, float]:
    check(saved, {str: float}, "thresholds")
    return dict(saved)


def read_router(encoder: Encoder, export: Export) -> PredictiveRouter:
    """The exported router in evaluation mode; InputError if it does not fit the encoder."""
    state = {
        k.removeprefix(ROUTER): x.to(torch.float32, copy=True)
        for k, x in export.tensors.items()
        if k.startswith(ROUTER)
    }
    try:
        config = RouterConfig.from_settings(export.settings["router"])
        with torch.device("meta"):  # whatever sizes it names
            router: nn.Module = PredictiveRouter(config)
        router.load_state_dict(state, assign=True)
    except (KeyError, TypeError, ValueError, RuntimeError):
        raise InputError("the adapter's router is incomplete; train or copy it again") from None
    if not config.fits(encoder):
        wanted = RouterConfig.for_encoder(encoder)
        raise InputError(
            f"the adapter's router plans {config.num_blocks} blocks of width {config.channels}, of"
            f" which {list(config.always_on)} always run; it does not fit the encoder, of"
            f" {wanted.num_blocks} blocks of width {wanted.channels}: take its own adapter"
        )
    return router.requires_grad_(False).eval()
