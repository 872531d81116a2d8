"""PBD: a static submodel, found by dropping the block that harms least, again and again.

Progressive Block Drop: harm is what J&F loses when a block goes, measured anew after every drop;
what remains gets LoRA. Its alignment to the whole network is a setting of the training, as for
every method. What the RDS paper calls PBD measures nothing, see `static.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from tempomask.adaptation.method import Export, Measure, Prepared
from tempomask.adaptation.options import AdapterConfig
from tempomask.baselines.settings import PBDConfig
from tempomask.baselines.static import Static
from tempomask.errors import InputError
from tempomask.models.encoder import (
    Encoder,
    KeepPlan,
    Plan,
    Policy,
    RoutedNetwork,
    always_on_blocks,
)
from tempomask.routing.budget import block_count, check_budget
from tempomask.routing.static import StaticPlan


class DroppedBlocks(Policy):
    """A policy that runs the blocks still in `kept`; more can be dropped while it is in use."""

    def __init__(self, encoder: Encoder) -> None:
        self.kept = [True] * encoder.num_blocks

    @property
    def indices(self) -> list[int]:
        return [index for index, kept in enumerate(self.kept) if kept]

    def drop(self, index: int) -> None:
        self.kept[index] = False

    def plan(self, embedding: Tensor, previous_masks: Tensor | None) -> Plan:
        return KeepPlan(self.kept)


def least_harmful(
    score: Callable[[Sequence[int]], float], kept: Sequence[int], required: Sequence[int]
) -> int:
    """The block of `kept` without which the score is highest; of equal ones the last.

    Args:
        score: Of a network with the given blocks.
        kept: The blocks that are left.
        required: Those that cannot go.

    Raises:
        InputError: Only required blocks are left.
    """
    candidates = [index for index in kept if index not in required]
    if not candidates:
        raise InputError(f"no block is left to drop: {list(kept)} change the feature shape")
    harmed = {index: score([i for i in kept if i != index]) for index in candidates}
    return max(candidates, key=lambda index: (harmed[index], index))


class PBD(Static):
    """Progressive block drop."""

    def __init__(
        self,
        budget: float,
        config: PBDConfig,
        adapters: AdapterConfig,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        super().__init__("pbd", budget, adapters)
        self.config, self._progress = config, progress

    def prepare(
        self, network: RoutedNetwork, measure: Measure, state: Mapping[str, Any] | None = None
    ) -> Prepared:
        encoder = network.encoder
        check_budget(self.budget, encoder.num_blocks, always_on_blocks(encoder))
        self._network, self._measure = network, measure
        self._excess = encoder.num_blocks - block_count(self.budget, encoder.num_blocks)
        self.policy, self._order = DroppedBlocks(encoder), []
        if state is None:
            self._drop_until(0)
            return self._adapted(network, self.policy.indices, self.policy)
        self._order = [int(index) for index in state["dropped"]]
        for index in self._order:
            self.policy.drop(index)
        return self._adapted(network, [int(i) for i in state["adapted"]], self.policy)

    def on_step(self, step: int) -> Prepared | None:
        """Drop what is due; the same adapters are trained on."""
        self._drop_until(step)
        return None

    def _drop_until(self, step: int) -> None:
        encoder, recovery = self._network.encoder, self.config.recovery
        due = self._excess if recovery == 0 else min(self._excess, step // recovery + 1)
        while len(self._order) < due:
            required = sorted(encoder.required_blocks)
            index = least_harmful(self._score, self.policy.indices, required)
            self.policy.drop(index)
            self._order.append(index)
            if self._progress is not None:
                self._progress(len(self._order), self._excess)

    def _score(self, kept: Sequence[int]) -> float:
        return self._measure.score(self._network, StaticPlan(kept, self._network.encoder))

    def state(self) -> dict[str, Any]:
        """What was dropped so far, and which blocks have adapters."""
        return {"dropped": list(self._order), "adapted": self.kept}

    def export(self) -> Export:
        export = super().export()
        changes = {"kept_blocks": self.policy.indices, "drop_order": list(self._order)}
        return replace(export, settings={**export.settings, **changes})
