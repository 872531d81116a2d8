"""Memory attention with rotations that cost two multiplications, frame by frame in the cache.

Turning a projected token by its position, R W x, is (W x) cos + (W' x) sin, where W' holds the
rows of W exchanged in pairs, one of each with its sign changed. Both products are one matrix
product, and nothing has to be taken apart into pairs. The rest is `tempomask.models.memory_attention`.

N objects, h x w the stride-16 grid, D hidden_dim, K memory tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tempomask.engine.packed import fast_linear, stacked, turned
from tempomask.models.config import Pooling
from tempomask.models.memory_attention import (
    MemoryAttention,
    MemoryAttentionLayer,
    MemoryTokens,
    RotaryAttention,
)
from tempomask.models.pooled_memory_attention import pooled_attention
from tempomask.ops.attention import attention
from tempomask.ops.rope import axial_table


def _and_turned(layer: nn.Linear) -> list[tuple[Tensor, Tensor | None]]:
    weight, bias = layer.weight.data, None if layer.bias is None else layer.bias.data
    return [(weight, bias), (turned(weight), None if bias is None else turned(bias))]


class FastMemoryAttentionLayer(nn.Module):
    """One layer, the same function as `MemoryAttentionLayer`."""

    def __init__(self, plain: MemoryAttentionLayer, dtype: torch.dtype) -> None:
        super().__init__()
        own, cross = plain.self_attention, plain.cross_attention
        self.pooling: Pooling = plain.pooling
        value = (own.value.weight.data, own.value.bias.data)
        own_parts = [*_and_turned(own.query), *_and_turned(own.key), value]
        self.own = fast_linear(stacked(*own_parts), dtype)
        self.query = fast_linear(stacked(*_and_turned(cross.query)), dtype)
        self.key = fast_linear(stacked(*_and_turned(cross.key)), dtype)
        self.pointer_key, self.value = cross.key, fast_linear(cross.value, dtype)
        self.image_key: nn.Module | None = None
        if hasattr(cross, "image_key"):
            self.image_norm = cross.image_norm
            self.image_key = fast_linear(stacked(*_and_turned(cross.image_key)), dtype)
        self.own_output = fast_linear(own.output, dtype)
        self.output = fast_linear(cross.output, dtype)
        self.expand = fast_linear(plain.expand, dtype)
        self.contract = fast_linear(plain.contract, dtype)
        self.self_norm, self.cross_norm = plain.self_norm, plain.cross_norm
        self.feedforward_norm = plain.feedforward_norm

    def forward(
        self, x: Tensor, memory: MemoryTokens, grid: tuple[int, int], table: tuple[Tensor, Tensor]
    ) -> Tensor:
        """x (1 or N, hw, D): (N, hw, D)."""
        x = x + self._attend_self(self.self_norm(x), table)
        x = x + self._attend_memory(self.cross_norm(x), memory, grid, table)
        return x + self.contract(self.expand(self.feedforward_norm(x)).relu_())

    def _attend_self(self, x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
        query, query_turned, key, key_turned, value = self.own(x).chunk(5, dim=-1)
        query, key = _rotated(query, query_turned, table), _rotated(key, key_turned, table)
        return self.own_output(attention(query, key, value))

    def _attend_memory(
        self, x: Tensor, memory: MemoryTokens, grid: tuple[int, int], table: tuple[Tensor, Tensor]
    ) -> Tensor:
        query = _rotated(*self.query(x).chunk(2, dim=-1), table)
        key, value = self._keys(memory, table), self.value(memory.values)
        query = query.expand(key.shape[0], -1, -1)
        if self.pooling == "none":
            return self.output(attention(query, key, value))
        return self.output(
            pooled_attention(query, key, value, memory.num_spatial, grid, self.pooling)
        )

    def _keys(self, memory: MemoryTokens, table: tuple[Tensor, Tensor]) -> Tensor:
        """Rotated keys (N, K, D), written frame by frame."""
        place = memory.values + memory.positions
        size, spatial = table[0].shape[0], memory.num_spatial
        pointers = self.pointer_key(place[:, spatial:])
        keys = pointers.new_empty(*place.shape[:2], pointers.shape[2])
        keys[:, spatial:] = pointers
        for start in range(0, spatial, size):
            frame = slice(start, start + size)
            pair = self.key(place[:, frame])
            if self.image_key is not None and memory.image_keys is not None:
                pair = pair + self.image_key(self.image_norm(memory.image_keys[:, frame]))
            plain, turned = pair.chunk(2, dim=-1)
            torch.mul(plain, table[0], out=keys[:, frame]).addcmul_(turned, table[1])
        return keys


def _rotated(plain: Tensor, turned: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    return (plain * table[0]).addcmul_(turned, table[1])


class FastMemoryAttention(nn.Module):
    """The same function as the plain memory attention it is made of, on one grid.

    The first layer's self-attention does not see the objects and runs once for all of them.
    """

    cosine: Tensor
    sine: Tensor

    def __init__(self, plain: MemoryAttention, side: int, dtype: torch.dtype) -> None:
        super().__init__()
        layers = [layer for layer in plain.layers if isinstance(layer, MemoryAttentionLayer)]
        self.layers = nn.ModuleList(FastMemoryAttentionLayer(layer, dtype) for layer in layers)
        self.norm = plain.norm
        attention_part: RotaryAttention = layers[0].self_attention
        weight = attention_part.query.weight
        tables = axial_table(side, side, weight.shape[0], attention_part.theta, weight.device)
        for name, table in zip(("cosine", "sine"), tables, strict=True):
            self.register_buffer(name, table.repeat_interleave(2, dim=1).to(dtype))

    def forward(self, features: Tensor, position: Tensor, memory: MemoryTokens) -> Tensor:
        """features (1 or N, D, h, w), position (D, h, w): conditioned features (N, D, h, w)."""
        grid = (features.shape[2], features.shape[3])
        x = (features + MemoryAttention.POSITION_WEIGHT * position).flatten(2).transpose(1, 2)
        for layer in self.layers:
            x = layer(x, memory, grid, (self.cosine, self.sine))
        return self.norm(x).transpose(1, 2).unflatten(2, grid)
