"""Which encoder blocks matter, and so get adapters: I-LoRA of RDS (section 3, supplement B.2).

Global importance is the drop in J&F when a block is removed, local importance how much a block
turns its input: I_L = 1 - E[cos(X_i, X_i+1)]. Blocks are ranked by the sum of their two ranks.

L encoder blocks, K the blocks that always run, which are selected without being measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from tempomask.adaptation.method import Measure
from tempomask.adaptation.options import View
from tempomask.errors import InputError
from tempomask.models.encoder import (
    Encoder,
    KeepPlan,
    Policy,
    RoutedBlock,
    RoutedNetwork,
    always_on_blocks,
)
from tempomask.routing.static import StaticPlan

# Images that local importance is averaged over, and how many pass the encoder at once.
IMAGES, BATCH = 16, 4


@dataclass(frozen=True)
class Importance:
    """Both importances of blocks 0 ... L - 1; always_on: K, whose values are 0 and not used."""

    global_drops: tuple[float, ...]
    local_changes: tuple[float, ...]
    always_on: tuple[int, ...]

    def select(self, count: int, view: View = "both") -> tuple[int, ...]:
        """K and the best others, `count` blocks in all, ascending.

        The best have the greatest s(i) = -(r_G(i) + r_L(i)), with ranks in descending importance;
        of equal ones the earlier block comes first. InputError if K alone is more, or L is fewer.
        """
        check_count(count, len(self.global_drops), self.always_on)
        ordered = self.ordered(view)
        return tuple(sorted([*self.always_on, *ordered[: count - len(self.always_on)]]))

    def ordered(self, view: View = "both") -> list[int]:
        """All blocks but K, the most important first."""
        others = [i for i in range(len(self.global_drops)) if i not in self.always_on]
        ranks = {
            "global": _ranks(others, self.global_drops),
            "local": _ranks(others, self.local_changes),
        }
        used = [ranks[name] for name in (("global", "local") if view == "both" else (view,))]
        return sorted(others, key=lambda i: (sum(rank[i] for rank in used), i))


def check_count(count: int, total: int, always_on: Sequence[int]) -> None:
    """InputError for fewer adapted blocks than K has, or more than there are."""
    if not len(always_on) <= count <= total:
        raise InputError(
            f"cannot adapt {count} blocks: give {len(always_on)} (those that always run) to"
            f" {total} (all)"
        )


def _ranks(blocks: Sequence[int], values: Sequence[float]) -> dict[int, int]:
    """Rank 1 for the greatest value."""
    ordered = sorted(blocks, key=lambda i: (-values[i], i))
    return {block: rank for rank, block in enumerate(ordered, start=1)}


def measure_importance(
    network: RoutedNetwork,
    measure: Measure,
    progress: Callable[[int, int], None] | None = None,
    always_on: Sequence[int] | None = None,
) -> Importance:
    """Both importances on calibration data.

    progress: called with the number of blocks removed so far, and of all that will be. always_on:
    K, the encoder's own if None.
    """
    encoder = network.encoder
    core = always_on_blocks(encoder, always_on)
    drops = global_drops(encoder, lambda p: measure.score(network, p), core, progress)
    changes = local_changes(encoder, measure.images(IMAGES), core)
    return Importance(tuple(drops), tuple(changes), core)


def global_drops(
    encoder: Encoder,
    score: Callable[[Policy | None], float],
    always_on: Sequence[int],
    progress: Callable[[int, int], None] | None = None,
) -> list[float]:
    """I_G(i) = score of the whole network - score without block i; 0 for blocks of K."""
    others = [i for i in range(encoder.num_blocks) if i not in always_on]
    whole = score(None)
    drops = [0.0] * encoder.num_blocks
    for done, index in enumerate(others, start=1):
        keep = [i for i in range(encoder.num_blocks) if i != index]
        drops[index] = whole - score(StaticPlan(keep, encoder))
        if progress is not None:
            progress(done, len(others))
    return drops


@torch.no_grad()
def local_changes(encoder: Encoder, images: Tensor, always_on: Sequence[int]) -> list[float]:
    """I_L of every block over images (N, 3, S, S); the mean over patches and images, 0 for K."""
    observer = _CosineObserver(encoder.num_blocks)
    for batch in images.split(BATCH):
        encoder(batch, observer)
    changes = (1 - observer.total / len(images)).tolist()
    for index in always_on:
        changes[index] = 0.0
    return changes


class _CosineObserver(Policy):
    """Runs every block, and sums the mean cosine of its input and output over the samples."""

    def __init__(self, num_blocks: int) -> None:
        self.total = torch.zeros(num_blocks, dtype=torch.float64)
        self._all = KeepPlan([True] * num_blocks)

    def plan(self, embedding: Tensor, previous_masks: Tensor | None) -> _CosineObserver:
        return self

    def apply(self, index: int, block: RoutedBlock, x: Tensor) -> Tensor:
        y = block(x)
        if x.shape == y.shape:
            before, after = block.image_tokens(x).float(), block.image_tokens(y).float()
            cosine = F.cosine_similarity(before, after, dim=-1)
            self.total[index] += cosine.mean(dim=1).sum().double().cpu()
        return y

    @property
    def blocks(self) -> Tensor:
        return self._all.blocks
