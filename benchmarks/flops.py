"""Multiply-adds of a frame, part by part: one counter for every method, on torch's flop counter.

Papers call two things FLOPs. The GFLOPs of RDS (819 for SAM 2's large encoder) are multiply-adds of
the products with weights: fvcore, which reports them, counts a multiply-add once and does not see
the two products inside fused attention. This counter keeps both kinds apart, so that either number
can be given: `Macs.published` for comparison with papers, `Macs.flops` for all the arithmetic.
Norms, activations, softmax and resizing, well below 1%, are left out, as torch does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, bmm_flop, sdpa_flop_count

from tempomask.errors import InputError
from tempomask.models.encoder import Policy, RoutedBlock
from tempomask.models.segmenter import MemoryInputs, Segmenter
from tempomask.weights.pruned import fit_widths


@dataclass(frozen=True)
class Macs:
    """Multiply-adds of two kinds.

    Attributes:
        weights: Of activations with weights, in linear layers and convolutions.
        products: Of activations with each other, in attention.
    """

    weights: int = 0
    products: int = 0

    @property
    def total(self) -> int:
        """Both kinds."""
        return self.weights + self.products

    @property
    def flops(self) -> int:
        """Multiplications and additions, each counted as one operation."""
        return 2 * self.total

    @property
    def published(self) -> int:
        """As the GFLOPs in RDS: multiply-adds, without the products inside attention."""
        return self.weights

    def __add__(self, other: Macs) -> Macs:
        return Macs(self.weights + other.weights, self.products + other.products)

    def __sub__(self, other: Macs) -> Macs:
        return Macs(self.weights - other.weights, self.products - other.products)


class Counted:
    """The result of `counting`: macs is complete when its block has ended."""

    macs: Macs = Macs()


@contextmanager
def counting() -> Iterator[Counted]:
    """Count everything that torch computes inside the block, on any device, also on meta.

    >>> with counting() as counted:
    ...     _ = torch.nn.Linear(8, 4)(torch.ones(3, 8))
    >>> counted.macs.total
    96
    """
    counted, formulas = Counted(), _Formulas()
    with FlopCounterMode(display=False, custom_mapping=formulas.by_operation()) as counter:
        yield counted
    by_operation = counter.get_flop_counts().get("Global", {})
    products = sum(count for name, count in by_operation.items() if _is_product(str(name)))
    products -= formulas.with_weights
    counted.macs = Macs((counter.get_total_flops() - products) // 2, products // 2)


class _Formulas:
    """What torch's counter lacks.

    Attributes:
        with_weights: FLOPs of batched products one of whose sides is the same for the whole batch:
            so torch computes a linear layer on tokens that do not lie in one piece.
    """

    def __init__(self) -> None:
        self.with_weights = 0

    def by_operation(self) -> dict[Any, Any]:
        def batched_product(a: Tensor, b: Tensor, *_: Any, **__: Any) -> int:
            flops = bmm_flop(a.shape, b.shape)
            if a.shape[0] > 1 and 0 in (a.stride(0), b.stride(0)):
                self.with_weights += flops
            return flops

        batched_product._get_raw = True  # type: ignore[attr-defined]
        return {
            torch.ops.aten.bmm: batched_product,
            # Every other fused attention is known to torch.
            torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _fused_attention,
        }


def _fused_attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """FLOPs from the shapes of the three."""
    return sdpa_flop_count(query, key, value)


def _is_product(operation: str) -> bool:
    return "attention" in operation or operation.removeprefix("aten.") in ("bmm", "baddbmm")


def total(costs: Iterable[Macs]) -> Macs:
    """The sum, Macs() of nothing."""
    return sum(costs, Macs())


@dataclass(frozen=True)
class BlockCost:
    """The two halves of a routed block."""

    attend: Macs
    feed_forward: Macs

    @property
    def macs(self) -> Macs:
        """Of the whole block."""
        return self.attend + self.feed_forward


@dataclass(frozen=True)
class FrameCost:
    """What one tracked frame costs.

    Attributes:
        embedding: Of the encoder outside its blocks (patch embedding, stem).
        blocks: Of the encoder.
        neck: With the decoder's convolutions that run once a frame.
        memory_attention: For one object.
        decoder: For one object.
        memory_encoder: For one object.
    """

    embedding: Macs
    blocks: tuple[BlockCost, ...]
    neck: Macs
    memory_attention: Macs
    decoder: Macs
    memory_encoder: Macs

    def encoder(self, keep: Sequence[bool] | None = None) -> Macs:
        """The image encoder with its neck, all blocks or those marked True.

        Raises:
            InputError: `keep` has another length than the encoder.
        """
        keep = [True] * len(self.blocks) if keep is None else keep
        if len(keep) != len(self.blocks):
            raise InputError(
                f"the plan names {len(keep)} blocks; the encoder has {len(self.blocks)}"
            )
        ran = total(block.macs for block, kept in zip(self.blocks, keep, strict=True) if kept)
        return self.embedding + ran + self.neck

    def frame(self, keep: Sequence[bool] | None = None, objects: int = 1) -> Macs:
        """The whole frame with so many objects."""
        each = self.memory_attention + self.decoder + self.memory_encoder
        return self.encoder(keep) + total([each] * objects)


def frame_cost(
    segmenter: Segmenter, memories: int | None = None, pointers: int | None = None
) -> FrameCost:
    """Count a frame of a segmenter's configuration at its image size, from shapes alone.

    Args:
        segmenter: Whose configuration is counted.
        memories: That the frame attends to, by default as many as there can be.
        pointers: Likewise.
    """
    config, (shadow, image) = segmenter.config, _shadow(segmenter)
    memories = config.memory_frames if memories is None else memories
    pointers = config.max_pointers if pointers is None else pointers
    blocks = _CountingPlan()
    with torch.no_grad():
        with counting() as encoder:
            output = shadow.encoder(image, blocks)
        shadow.encoder.forward = lambda *_: output  # what follows is the neck's alone
        with counting() as neck:
            encoded = shadow.encode(image)
        memory = _memory_inputs(segmenter, encoded.features, memories, pointers)
        with counting() as attended:
            features = shadow.attend(encoded.features, memory)
        with counting() as decoded:
            result = shadow.decode(features, encoded.high_resolution)
        with counting() as memorised:
            shadow.encode_memory(encoded.features, result.logits, result.object_score)
    return FrameCost(
        embedding=encoder.macs - total(cost.macs for cost in blocks.costs),
        blocks=tuple(blocks.costs),
        neck=neck.macs,
        memory_attention=attended.macs,
        decoder=decoded.macs,
        memory_encoder=memorised.macs,
    )


def encoder_cost(segmenter: Segmenter) -> Macs:
    """The image encoder with its neck, all blocks: `frame_cost(segmenter).encoder()`, sooner."""
    shadow, image = _shadow(segmenter)
    with torch.no_grad(), counting() as counted:
        shadow.encode(image)
    return counted.macs


def _shadow(segmenter: Segmenter) -> tuple[Segmenter, Tensor]:
    """A network of the same shapes on the meta device, and an image (1, 3, S, S) for it."""
    side = segmenter.config.image_size
    with torch.device("meta"):
        shadow = fit_widths(Segmenter(segmenter.config), segmenter.state_dict())
        image = torch.zeros(1, 3, side, side)
    return shadow.eval().requires_grad_(False), image


class _CountingPlan(Policy):
    """A policy and its plan: runs every block and notes what each half costs."""

    def __init__(self) -> None:
        self.costs: list[BlockCost] = []

    def plan(self, embedding: Tensor, previous_masks: Tensor | None) -> _CountingPlan:
        return self

    def apply(self, index: int, block: RoutedBlock, x: Tensor) -> Tensor:
        with counting() as attend:
            x = block.attend(x)
        with counting() as feed_forward:
            x = block.feed_forward(x)
        self.costs.append(BlockCost(attend.macs, feed_forward.macs))
        return x

    @property
    def blocks(self) -> Tensor:
        return torch.ones(len(self.costs), dtype=torch.bool)


def _memory_inputs(
    segmenter: Segmenter, features: Tensor, memories: int, pointers: int
) -> MemoryInputs:
    """Memories of the right shapes for features (1, C, h, w), on the meta device."""
    config, (_, channels, height, width) = segmenter.config, features.shape
    shape = (1, memories, channels, height, width)
    return MemoryInputs(
        spatial=torch.zeros(1, memories, *config.memory_shape, device="meta"),
        images=torch.zeros(shape, device="meta") if config.memory_attention.image_keys else None,
        temporal_index=torch.zeros(memories, dtype=torch.long, device="meta"),
        pointers=torch.zeros(1, pointers, config.hidden_dim, device="meta"),
        pointer_distance=torch.zeros(pointers, device="meta"),
    )
