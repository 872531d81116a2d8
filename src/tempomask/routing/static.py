"""Static plans: the same blocks run for every frame (RDS, supplement: plans A and B)."""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor

from tempomask.errors import InputError
from tempomask.models.encoder import Encoder, KeepPlan, Policy, check_block_indices, check_keep

# Plans A and B are 24 of the 48 blocks of SAM 2's large encoder, chosen by hand in the supplement
# of RDS.
PLAN_BLOCKS = 48
# fmt: off
PLAN_A = (0, 1, 2, 3, 4, 6, 7, 8, 12, 13, 15, 18, 21, 25, 28, 32, 34, 35, 38, 39, 42, 43, 44, 47)
PLAN_B = (0, 1, 2, 3, 4, 5, 7, 8, 13, 14, 16, 19, 20, 26, 27, 28, 33, 34, 36, 37, 42, 43, 44, 47)
# fmt: on
STATIC_PLANS = {"plan-a": PLAN_A, "plan-b": PLAN_B}


class StaticPlan(Policy):
    """Runs the blocks of the given indices and no others.

    >>> from tempomask.models.config import HIERA_SIZES
    >>> from tempomask.models.hiera import Hiera
    >>> StaticPlan([0, 1, 3, 10, 11], Hiera(HIERA_SIZES["tiny"])).keep.count(True)
    5
    """

    def __init__(self, blocks: Collection[int], encoder: Encoder) -> None:
        """InputError for indices that the encoder does not have, or lacks if it is to work."""
        check_block_indices(blocks, encoder)
        self.keep = tuple(index in blocks for index in range(encoder.num_blocks))
        check_keep(self.keep, encoder)

    def __repr__(self) -> str:
        return f"StaticPlan({[index for index, kept in enumerate(self.keep) if kept]})"

    @property
    def fixed_keep(self) -> tuple[bool, ...]:
        return self.keep

    def plan(self, embedding: Tensor, previous_masks: Tensor | None) -> KeepPlan:
        """The same plan for every frame."""
        return KeepPlan(self.keep)


def static_plan(name: str, encoder: Encoder) -> StaticPlan:
    """A plan that needs no adapter, by name; InputError for an encoder of another size."""
    if encoder.num_blocks != PLAN_BLOCKS:
        raise InputError(
            f"{name} is for encoders of {PLAN_BLOCKS} blocks (SAM 2's large one); this one has"
            f" {encoder.num_blocks}: use an adapter, or router none"
        )
    return StaticPlan(STATIC_PLANS[name], encoder)
