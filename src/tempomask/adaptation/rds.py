"""RDS as a method: importance, then router and adapters trained jointly at a fixed budget.

No sparsity loss: the normalisation of the router's weights holds the budget (section 3 of the
paper). `FullModel` trains the same adapters without a router, for comparison.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tempomask.adaptation.importance import Importance, View, measure_importance
from tempomask.adaptation.lora import (
    add_lora,
    check_rank,
    export_lora,
    merge_lora,
    suitable_rank,
)
from tempomask.adaptation.method import (
    ClipOutputs,
    Export,
    LoadedAdapter,
    Measure,
    Prepared,
    Replay,
)
from tempomask.errors import InputError
from tempomask.models.encoder import Encoder, Policy, always_on_blocks
from tempomask.models.segmenter import Segmenter
from tempomask.routing.budget import check_budget
from tempomask.routing.options import Routing
from tempomask.routing.predictive import (
    PredictiveRouter,
    RouterConfig,
    RouterInputs,
    SamplingPolicy,
)
from tempomask.routing.recurrent import recurrent_policy

ROUTER = "router."


@dataclass(frozen=True)
class AdapterConfig:
    """I-LoRA: which blocks get adapters, and how they are trained.

    blocks: how many in all (K_sel), half of the encoder's if None, as in the paper. view: the
    importance that ranks them. rank: of the adapters, see `lora.suitable_rank` if None; scale:
    alpha / rank. rate, decay: of AdamW. seed: of the adapters' initial weights.
    """

    blocks: int | None = None
    view: View = "both"
    rank: int | None = None
    scale: int = 1
    rate: float = 3e-4
    decay: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.view not in ("both", "global", "local"):
            raise InputError(f"importance must be both, global or local, got {self.view!r}")
        if self.rank is not None and self.rank < 1:
            raise InputError(f"the rank of adapters must be 1 or more, got {self.rank}")
        check_rate("rate", self.rate)
        if not (self.decay >= 0 and math.isfinite(self.decay)):
            raise InputError(f"decay must be a number from 0 up, got {self.decay:g}")


def check_rate(name: str, rate: float) -> None:
    """InputError for a learning rate that is none."""
    if not (rate > 0 and math.isfinite(rate)):
        raise InputError(f"{name} must be a learning rate above 0, such as 3e-4, got {rate:g}")


@dataclass(frozen=True)
class RDSConfig:
    """budget: beta. inputs, mask_frames: as of `RouterConfig`. router_rate: of AdamW.

    importance_start: the router starts with logits from this, for the most important block by both
    views, down to its negative, for the least: importance is measured for the adapters anyway. 0
    starts with equal logits, as the paper seems to. settled_share: of the steps, at the end, in
    which the blocks are chosen as in use, so that the adapters learn what they will meet; 0 draws
    to the end, as the paper does. learn_missed: in training compute skipped blocks too, for the
    router's gradient alone, see `RoutedPlan`; it costs time, and gained nothing on nano.
    """

    budget: float = 0.6
    inputs: RouterInputs = "both"
    mask_frames: int = 1
    router_rate: float = 3e-4
    importance_start: float = 1.0
    settled_share: float = 0.3
    learn_missed: bool = False
    adapters: AdapterConfig = AdapterConfig()

    def __post_init__(self) -> None:
        check_rate("router_rate", self.router_rate)
        if not math.isfinite(self.importance_start):
            raise InputError(f"importance_start must be a number, got {self.importance_start:g}")
        if not 0 <= self.settled_share <= 1:
            raise InputError(f"settled_share must lie between 0 and 1, got {self.settled_share:g}")


def insert_adapters(
    segmenter: Segmenter, blocks: Collection[int], config: AdapterConfig
) -> tuple[dict[str, Any], int]:
    """Freeze a network and adapt blocks of its encoder: the adapters' optimiser group, their rank.

    The `blocks` and `view` of config are not used.
    """
    encoder = segmenter.encoder
    total = sum(p.numel() for p in segmenter.parameters())
    rank = config.rank or suitable_rank(encoder, blocks, total)
    segmenter.requires_grad_(False)
    parameters = add_lora(encoder, blocks, rank, config.scale, config.seed)
    return {"params": parameters, "lr": config.rate, "weight_decay": config.decay}, rank


class ImportantAdapters:
    """I-LoRA on one network: measured, chosen, inserted, and exported. Any method can use it."""

    def __init__(
        self, config: AdapterConfig, progress: Callable[[int, int], None] | None = None
    ) -> None:
        self.config, self._progress = config, progress
        self.importance: Importance | None = None
        self.blocks: tuple[int, ...] = ()
        self.rank = 0

    def insert(
        self, segmenter: Segmenter, measure: Measure, state: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Freeze the network, add adapters, and give their optimiser group.

        state: as of `state` in the run that is resumed.
        """
        config, encoder = self.config, segmenter.encoder
        if config.rank is not None:
            check_rank(encoder, config.rank)  # before anything is measured
        count = config.blocks
        if count is None:
            count = max(encoder.num_blocks // 2, len(always_on_blocks(encoder)))
        if state is not None:
            values = {name: tuple(value) for name, value in state["importance"].items()}
            self.importance = Importance(**values)
        else:
            self.importance = measure_importance(segmenter, measure, self._progress)
        self.blocks = self.importance.select(count, config.view)
        group, self.rank = insert_adapters(segmenter, self.blocks, config)
        return group

    def state(self) -> dict[str, Any]:
        """What was measured, for `insert` to resume."""
        if self.importance is None:
            return {}
        return {"importance": {k: list(v) for k, v in asdict(self.importance).items()}}

    def settings(self) -> dict[str, Any]:
        """For people who read an adapter's description."""
        return {"adapted_blocks": list(self.blocks), "rank": self.rank, **self.state()}


class FullModel:
    """The network with all its blocks and the adapters of RDS: trained as long, for comparison."""

    name: str = "full"

    def __init__(
        self, config: RDSConfig, progress: Callable[[int, int], None] | None = None
    ) -> None:
        self.config = config
        self.adapters = ImportantAdapters(config.adapters, progress)
        self.encoder: Encoder | None = None

    def prepare(
        self, segmenter: Segmenter, measure: Measure, state: Mapping[str, Any] | None = None
    ) -> Prepared:
        self.encoder = segmenter.encoder
        return Prepared(segmenter, None, [self.adapters.insert(segmenter, measure, state)])

    def on_step(self, step: int) -> Prepared | None:
        """Nothing changes while it trains."""
        return None

    def extra_loss(self, outputs: ClipOutputs, replay: Replay, step: int) -> Tensor | None:
        """No loss of its own: SAM 2's losses alone."""
        return None

    def state(self) -> dict[str, Any]:
        return self.adapters.state()

    def export(self) -> Export:
        if self.encoder is None:
            raise InputError(f"{self.name} has not been prepared; there is nothing to export")
        return Export(self.adapters.settings(), export_lora(self.encoder))


class RDS(FullModel):
    """Router and adapters, trained jointly at the budget. steps: of the whole training."""

    name = "rds"

    def __init__(
        self, config: RDSConfig, progress: Callable[[int, int], None] | None = None, steps: int = 0
    ) -> None:
        super().__init__(config, progress)
        self.router: PredictiveRouter | None = None
        self.policy: SamplingPolicy | None = None
        self.settled_from = steps - int(config.settled_share * steps) if steps else None

    def prepare(
        self, segmenter: Segmenter, measure: Measure, state: Mapping[str, Any] | None = None
    ) -> Prepared:
        config, encoder = self.config, segmenter.encoder
        check_budget(config.budget, encoder.num_blocks, always_on_blocks(encoder))
        prepared = super().prepare(segmenter, measure, state)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.adapters.seed)
            self.router = PredictiveRouter(
                RouterConfig.for_encoder(encoder, config.inputs, config.mask_frames)
            )
        self._start_from_importance()
        group = {
            "params": list(self.router.parameters()),
            "lr": config.router_rate,
            "weight_decay": 0.0,
        }
        self.policy = SamplingPolicy(self.router, config.budget, config.learn_missed)
        return Prepared(segmenter, self.policy, [*prepared.groups, group])

    def _start_from_importance(self) -> None:
        importance, router = self.adapters.importance, self.router
        assert importance is not None and router is not None
        # Whatever the view of the adapters: it varies what is adapted, and nothing else.
        order = importance.ordered("both")
        start = self.config.importance_start
        with torch.no_grad():
            router.head.bias[order] = torch.linspace(start, -start, len(order))

    def on_step(self, step: int) -> Prepared | None:
        """From a step on, blocks are chosen as in use."""
        if self.policy is not None and self.settled_from is not None:
            self.policy.settled = step >= self.settled_from
        return None

    def export(self) -> Export:
        base = super().export()
        if self.router is None:
            raise InputError("rds has not been prepared; there is nothing to export")
        router = {f"{ROUTER}{k}": v.detach().cpu() for k, v in self.router.state_dict().items()}
        settings = {
            "budget": self.config.budget,
            "thresholds": {},
            "router": asdict(self.router.config),
            **base.settings,
        }
        return Export(settings, {**base.tensors, **router})


def attach_without_router(segmenter: Segmenter, export: Export) -> LoadedAdapter:
    """Merge the adapters; all blocks run."""
    merge_lora(segmenter.encoder, export.tensors)
    return LoadedAdapter(segmenter, None)


def attach(segmenter: Segmenter, export: Export) -> LoadedAdapter:
    """Merge the adapters, and rebuild the router on the network's device."""
    budget, thresholds = export.setting("budget", float), export.setting("thresholds", _thresholds)
    router = read_router(segmenter.encoder, export)
    merge_lora(segmenter.encoder, export.tensors)
    router = router.to(segmenter.device)

    def make_policy(routing: Routing) -> Policy:
        return recurrent_policy(router, routing, budget, thresholds)

    return LoadedAdapter(segmenter, make_policy)


def _thresholds(saved: Mapping[str, Any]) -> dict[str, float]:
    return {budget: float(tau) for budget, tau in saved.items()}


def read_router(encoder: Encoder, export: Export) -> PredictiveRouter:
    """The exported router in evaluation mode; InputError if it does not fit the encoder."""
    state = {k.removeprefix(ROUTER): x for k, x in export.tensors.items() if k.startswith(ROUTER)}
    try:
        values = export.settings["router"]
        config = RouterConfig(**{**values, "always_on": tuple(values["always_on"])})
        router: nn.Module = PredictiveRouter(config)
        router.load_state_dict(state)
    except (KeyError, TypeError, RuntimeError):
        raise InputError("the adapter's router is incomplete; train or copy it again") from None
    wanted = RouterConfig.for_encoder(encoder)
    same = (config.num_blocks, config.channels, config.always_on, config.mask_stride) == (
        wanted.num_blocks,
        wanted.channels,
        wanted.always_on,
        wanted.mask_stride,
    )
    if not same:
        raise InputError(
            f"the adapter's router plans {config.num_blocks} blocks of width {config.channels}, but"
            f" the encoder has {wanted.num_blocks} of width {wanted.channels}; take its own adapter"
        )
    return router.requires_grad_(False).eval()
