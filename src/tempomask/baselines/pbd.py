"""PBD: a static submodel, found by dropping the block that harms least, again and again.

Progressive Block Drop (as RDS compares with it, supplement A.2): harm is what J&F loses when a
block goes, measured anew after every drop; what remains gets LoRA, and is aligned to the whole
network: predictions by KL and GIoU, features by MSE, beside the task's own losses.

The supplement of RDS instead removes "the last 24 blocks" of SAM 2's 48. That cannot hold: it would
take block 44, which begins stage 4, with all of that stage, so that the neck would lack its
stride-32 level, and "I-LoRA in the remaining blocks" would then not give the 7.6 M parameters of
the paper's table. Blocks that change the shape are never dropped here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from tempomask.adaptation.lora import export_lora
from tempomask.adaptation.method import ClipOutputs, Export, Measure, Prepared, Replay
from tempomask.adaptation.rds import AdapterConfig, insert_adapters
from tempomask.baselines.alignment import feature_error, prediction_alignment
from tempomask.errors import InputError
from tempomask.models.encoder import Encoder, KeepPlan, Plan, Policy, always_on_blocks
from tempomask.models.segmenter import Segmenter
from tempomask.routing.budget import block_count, check_budget
from tempomask.routing.static import StaticPlan


@dataclass(frozen=True)
class DropConfig:
    """Settings of PBD.

    budget: share of blocks that remain. recovery: steps of training between two drops; 0 drops all
    blocks before training. prediction, features: weights of the alignment losses. adapters: LoRA
    goes to every block that remains; its `blocks` and `view` are not used.
    """

    budget: float = 0.6
    recovery: int = 0
    prediction: float = 1.0
    features: float = 1.0
    adapters: AdapterConfig = field(default_factory=AdapterConfig)

    def __post_init__(self) -> None:
        if self.recovery < 0:
            raise InputError(f"recovery is a number of steps, 0 or more, got {self.recovery}")


class DroppedBlocks(Policy):
    """A policy that runs the blocks still in `kept`; more can be dropped while it is in use."""

    def __init__(self, kept: Sequence[int], encoder: Encoder) -> None:
        self.kept = list(StaticPlan(kept, encoder).keep)

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

    score: of a network with the given blocks. Raises InputError if only required blocks are left.
    """
    candidates = [index for index in kept if index not in required]
    if not candidates:
        raise InputError(f"no block is left to drop: {list(kept)} change the feature shape")
    harmed = {index: score([i for i in kept if i != index]) for index in candidates}
    return max(candidates, key=lambda index: (harmed[index], index))


class PBD:
    """`adaptation.method.Method` of progressive block drop."""

    name = "pbd"

    def __init__(
        self, config: DropConfig, progress: Callable[[int, int], None] | None = None
    ) -> None:
        self.config, self._progress = config, progress
        self._adapted: list[int] = []
        self._order: list[int] = []

    def prepare(
        self, segmenter: Segmenter, measure: Measure, state: Mapping[str, Any] | None = None
    ) -> Prepared:
        encoder, config = segmenter.encoder, self.config
        check_budget(config.budget, encoder.num_blocks, always_on_blocks(encoder))
        self._segmenter, self._measure = segmenter, measure
        self._teacher = deepcopy(segmenter).eval().requires_grad_(False)
        self._target = block_count(config.budget, encoder.num_blocks)
        self.policy = DroppedBlocks(range(encoder.num_blocks), encoder)
        self._order = []
        if state is None:
            self._drop_until(0)
            self._adapted = self.policy.indices
        else:
            self._order = [int(index) for index in state["dropped"]]
            for index in self._order:
                self.policy.drop(index)
            self._adapted = [int(index) for index in state["adapted"]]
        group, self._rank = insert_adapters(segmenter, self._adapted, config.adapters)
        return Prepared(segmenter, self.policy, [group])

    def on_step(self, step: int) -> Prepared | None:
        """Drop what is due; the same adapters are trained on."""
        self._drop_until(step)
        return None

    def _drop_until(self, step: int) -> None:
        encoder, recovery = self._segmenter.encoder, self.config.recovery
        wanted = encoder.num_blocks - self._target
        due = wanted if recovery == 0 else min(wanted, step // recovery + 1)
        while len(self._order) < due:
            required = sorted(encoder.required_blocks)
            index = least_harmful(self._score, self.policy.indices, required)
            self.policy.drop(index)
            self._order.append(index)
            if self._progress is not None:
                self._progress(len(self._order), wanted)

    def _score(self, kept: Sequence[int]) -> float:
        return self._measure.score(self._segmenter, StaticPlan(kept, self._segmenter.encoder))

    def extra_loss(self, outputs: ClipOutputs, replay: Replay, step: int) -> Tensor | None:
        whole = replay(self._teacher, None)
        predictions = prediction_alignment(outputs, whole)
        features = feature_error(outputs.features, whole.features)
        return self.config.prediction * predictions + self.config.features * features

    def state(self) -> dict[str, Any]:
        return {"dropped": list(self._order), "adapted": list(self._adapted)}

    def export(self) -> Export:
        settings = {
            "budget": self.config.budget,
            "kept_blocks": self.policy.indices,
            "drop_order": list(self._order),
            "rank": self._rank,
        }
        return Export(settings, export_lora(self._segmenter.encoder))
