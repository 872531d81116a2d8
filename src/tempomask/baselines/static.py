"""Static submodels A and B: the same blocks for every frame, with LoRA, trained on the task alone.

RDS shows with two hand-made plans of 24 of SAM 2's 48 blocks that what suits one video does not
suit another (supplement C.2). For other encoders and budgets there are no published plans: A then
spreads its blocks evenly, and B takes others where A has a choice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from torch import Tensor

from tempomask.adaptation.lora import export_lora, merge_lora
from tempomask.adaptation.method import (
    ClipOutputs,
    Export,
    LoadedAdapter,
    Measure,
    Prepared,
    Replay,
)
from tempomask.adaptation.rds import AdapterConfig, insert_adapters
from tempomask.errors import InputError
from tempomask.models.encoder import Encoder, Policy, always_on_blocks
from tempomask.models.segmenter import Segmenter
from tempomask.routing.budget import block_count, check_budget
from tempomask.routing.options import Routing
from tempomask.routing.static import PLAN_A, PLAN_B, PLAN_BLOCKS, StaticPlan

Letter = Literal["a", "b"]


@dataclass(frozen=True)
class StaticConfig:
    """plan: "a" or "b". budget: share of blocks. adapters: LoRA goes to every block of the plan."""

    plan: Letter = "a"
    budget: float = 0.6
    adapters: AdapterConfig = field(default_factory=AdapterConfig)


def static_blocks(encoder: Encoder, plan: Letter, budget: float) -> list[int]:
    """The blocks of a plan, ascending; the published ones where they fit.

    InputError for a budget that does not hold the blocks that always run.
    """
    count, always = encoder.num_blocks, always_on_blocks(encoder)
    check_budget(budget, count, always)
    wanted = block_count(budget, count)
    published = {"a": PLAN_A, "b": PLAN_B}[plan]
    if (
        count == PLAN_BLOCKS
        and wanted == len(published)
        and encoder.required_blocks <= set(published)
    ):
        return list(published)
    others = [index for index in range(count) if index not in always]
    spread = np.linspace(0, len(others) - 1, wanted - len(always)).round().astype(int)
    chosen = [others[i] for i in spread]
    if plan == "b":
        # What A leaves out, and the last of A's own where that is too little.
        left = [index for index in others if index not in chosen]
        chosen = (left + chosen[::-1])[: len(chosen)]
    return sorted([*always, *chosen])


class Static:
    """`adaptation.method.Method` of a static plan."""

    def __init__(self, config: StaticConfig) -> None:
        self.config = config
        self.name = f"static-{config.plan}"

    def prepare(
        self, segmenter: Segmenter, measure: Measure, state: Mapping[str, Any] | None = None
    ) -> Prepared:
        config, self._encoder = self.config, segmenter.encoder
        self._kept = static_blocks(self._encoder, config.plan, config.budget)
        group, self._rank = insert_adapters(segmenter, self._kept, config.adapters)
        return Prepared(segmenter, StaticPlan(self._kept, self._encoder), [group])

    def on_step(self, step: int) -> Prepared | None:
        """Nothing changes while it trains."""
        return None

    def extra_loss(self, outputs: ClipOutputs, replay: Replay, step: int) -> Tensor | None:
        """No loss of its own."""
        return None

    def state(self) -> dict[str, Any]:
        """Nothing is measured."""
        return {}

    def export(self) -> Export:
        settings = {
            "budget": self.config.budget,
            "kept_blocks": list(self._kept),
            "rank": self._rank,
        }
        return Export(settings, export_lora(self._encoder))


def attach(segmenter: Segmenter, export: Export) -> LoadedAdapter:
    """Merge the adapters; the policy runs the blocks that remain."""
    kept = export.setting("kept_blocks", lambda saved: [int(index) for index in saved])
    budget = export.setting("budget", float)
    policy = StaticPlan(kept, segmenter.encoder)
    merge_lora(segmenter.encoder, export.tensors)
    return LoadedAdapter(segmenter, lambda routing: fixed(policy, routing, budget))


def fixed(policy: Policy, routing: Routing, budget: float) -> Policy:
    """The policy, if nothing is asked of it that it was not trained for; InputError otherwise."""
    other = routing.budget is not None and abs(routing.budget - budget) > 1e-6
    if other or routing.fps is not None or routing.adaptive:
        raise InputError(
            f"this adapter was trained for a budget of {budget:g} and cannot change it; only"
            " adapters of method rds can"
        )
    if routing.rule != "top-k":
        raise InputError(
            f"the rule {routing.rule!r} is for adapters of method rds; leave it out with this one"
        )
    return policy
