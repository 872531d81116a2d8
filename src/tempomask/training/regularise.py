"""What training adds around a network's parts, which stay pure: dropout, drop-path, recomputation.

Noise is torch's own, so that a step's seed repeats it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tempomask.models.encoder import Encoder, KeepPlan, Plan, Policy, RoutedBlock
from tempomask.models.memory_attention import MemoryAttention, MemoryAttentionLayer


class _Dropped:
    """A forward hook that, in training, drops a layer's values, or all of a sample's."""

    def __init__(self, share: float, whole: bool) -> None:
        self.share, self.whole = share, whole

    def __call__(self, module: nn.Module, _: Any, output: Tensor) -> Tensor:
        if not self.whole:
            return F.dropout(output, self.share, module.training)
        if not module.training:
            return output
        shape = (len(output),) + (1,) * (output.ndim - 1)
        kept = torch.rand(shape, device=output.device) >= self.share
        return output * (kept / (1 - self.share)).to(output.dtype)


def add_drop_path(encoder: Encoder, share: float) -> None:
    """Leave out the halves of blocks for samples at random, ever more of them towards the last.

    share: of the last block (arXiv 1603.09382).
    """
    last = max(1, encoder.num_blocks - 1)
    for index, block in enumerate(encoder.blocks):
        assert isinstance(block, RoutedBlock)
        for layers in (block.attention_layers, block.feed_forward_layers):
            if layers and share * index:
                part = _Dropped(share * index / last, whole=True)
                block.get_submodule(layers[-1]).register_forward_hook(part)


def add_dropout(attention: MemoryAttention, share: float) -> None:
    """Drop values of what memory attention's layers add."""
    for layer in attention.layers if share else ():
        assert isinstance(layer, MemoryAttentionLayer)
        for part in (layer.self_attention.output, layer.cross_attention.output, layer.contract):
            part.register_forward_hook(_Dropped(share, whole=False))


class Recomputed(Policy):
    """All blocks run, and run again for their gradient instead of keeping what is inside them."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks

    def plan(self, embedding: Tensor, previous_masks: Tensor | None) -> Plan:
        return _RecomputedPlan([True] * self.num_blocks)


class _RecomputedPlan(KeepPlan):
    def apply(self, index: int, block: RoutedBlock, x: Tensor) -> Tensor:
        return checkpoint(block, x, use_reentrant=False)
