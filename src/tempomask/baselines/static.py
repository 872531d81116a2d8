"""Static submodels: the same blocks for every frame, with LoRA on all of them.

RDS shows with two hand-made plans, A and B, of 24 of SAM 2's 48 blocks that what suits one video
does not suit another (supplement C.2). For other encoders and budgets there are no published plans:
A then spreads its blocks evenly, and B takes others where A has a choice.

`last` is the PBD of the RDS paper (supplement A.2): it removes the last blocks, 24 of 48 there. A
block that begins a stage cannot go, since it halves the grid and doubles the width: without it the
neck would lack a level. In SAM 2's large encoder these are blocks 2, 8 and 44, so that the last 24
that can go are 23 to 43 and 45 to 47; nano has none. Features at the end of a stage are emitted
whether or not its last block ran. "I-LoRA in the remaining blocks" does not give the 7.6 M
parameters of the paper's table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from tempomask.adaptation.adapters import insert_adapters
from tempomask.adaptation.lora import export_lora, merge_lora
from tempomask.adaptation.method import Export, LoadedAdapter, Measure, Method, Prepared
from tempomask.adaptation.options import AdapterConfig
from tempomask.errors import InputError
from tempomask.models.encoder import Encoder, Policy, RoutedNetwork, always_on_blocks
from tempomask.routing.budget import block_count, check_budget
from tempomask.routing.options import Routing
from tempomask.routing.static import PLAN_A, PLAN_B, PLAN_BLOCKS, StaticPlan

Plan = Literal["a", "b", "last"]
PUBLISHED = {"a": PLAN_A, "b": PLAN_B}


def static_blocks(encoder: Encoder, plan: Plan, budget: float) -> list[int]:
    """The blocks of a plan, ascending; the published ones where they fit.

    Raises:
        InputError: The budget does not hold the blocks that always run.
    """
    count = encoder.num_blocks
    always = sorted(encoder.required_blocks) if plan == "last" else always_on_blocks(encoder)
    check_budget(budget, count, always)
    wanted = block_count(budget, count)
    others = [index for index in range(count) if index not in always]
    free = wanted - len(always)
    if plan == "last":
        return sorted([*always, *others[:free]])
    published = PUBLISHED[plan]
    if (count, wanted) == (PLAN_BLOCKS, len(published)) and set(always) <= set(published):
        return list(published)
    chosen = [others[i] for i in np.linspace(0, len(others) - 1, free).round().astype(int)]
    if plan == "b":
        # What A leaves out, and the last of A's own where that is too little.
        left = [index for index in others if index not in chosen]
        chosen = (left + chosen[::-1])[: len(chosen)]
    return sorted([*always, *chosen])


class Static(Method):
    """A static plan."""

    def __init__(self, name: str, budget: float, adapters: AdapterConfig, plan: Plan = "a") -> None:
        self.name, self.budget, self.adapters = name, budget, adapters
        self.plan: Plan = plan

    def prepare(
        self, network: RoutedNetwork, measure: Measure, state: Mapping[str, Any] | None = None
    ) -> Prepared:
        kept = static_blocks(network.encoder, self.plan, self.budget)
        return self._adapted(network, kept, StaticPlan(kept, network.encoder))

    def _adapted(self, network: RoutedNetwork, kept: list[int], policy: Policy) -> Prepared:
        """The network with adapters in the blocks that remain."""
        self._encoder, self.kept = network.encoder, kept
        group, self._rank = insert_adapters(network, kept, self.adapters)
        return Prepared(network, policy, [group])

    def export(self) -> Export:
        settings = {"budget": self.budget, "kept_blocks": self.kept, "rank": self._rank}
        return Export(settings, export_lora(self._encoder))


def attach(network: RoutedNetwork, export: Export) -> LoadedAdapter:
    """Merge the adapters; the policy runs the blocks that remain."""
    kept = export.setting("kept_blocks", lambda saved: [int(index) for index in saved])
    budget = export.setting("budget", float)
    policy = StaticPlan(kept, network.encoder)
    merge_lora(network.encoder, export.tensors)
    return LoadedAdapter(network, lambda routing: fixed(policy, routing, budget))


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
