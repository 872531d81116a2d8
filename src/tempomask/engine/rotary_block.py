"""nano's transformer block with packed weights and rotations that cost two multiplications.

The trick is that of `engine.memory_attention`: W x and its turned twin come out of one product.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tempomask.engine.packed import fast_linear, stacked, turned
from tempomask.models.encoder import RoutedBlock
from tempomask.models.hybrid import TransformerBlock
from tempomask.ops.attention import multi_head_attention


class FastTransformerBlock(RoutedBlock):
    """The same function as the `TransformerBlock` it is made of."""

    def __init__(self, plain: TransformerBlock, dtype: torch.dtype) -> None:
        super().__init__()
        weights = plain.qkv.weight.data.chunk(3)
        biases = plain.qkv.bias.data.chunk(3)
        (query, key, value), (query_bias, key_bias, value_bias) = weights, biases
        self.qkv = fast_linear(
            stacked(
                (query, query_bias),
                (turned(query), turned(query_bias)),
                (key, key_bias),
                (turned(key), turned(key_bias)),
                (value, value_bias),
            ),
            dtype,
        )
        self.plain, self.dtype, self.num_heads = plain, dtype, plain.num_heads
        self.output = fast_linear(plain.output, dtype)
        self.expand = fast_linear(plain.expand, dtype, "gelu")
        self.contract = fast_linear(plain.contract, dtype)
        self._tables: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def attend(self, x: Tensor) -> Tensor:
        """x (B, h, w, C), same shape."""
        batch, height, width, _ = x.shape
        parts = self.qkv(self.plain.attention_norm(x))
        parts = parts.reshape(batch, height * width, 5, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        query, query_turned, key, key_turned, value = parts
        cosine, sine = self._table(height, width, query.shape[-1], x.device)
        query = (query * cosine).addcmul_(query_turned, sine)
        key = (key * cosine).addcmul_(key_turned, sine)
        attended = multi_head_attention(query, key, value)
        return x + self.output(attended.transpose(1, 2).reshape(batch, height, width, -1))

    def _table(
        self, height: int, width: int, head_dim: int, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Cosine and sine, each (hw, head_dim), or (heads, hw, head_dim) where heads differ."""
        if (height, width) not in self._tables:
            cosine, sine = self.plain.rotations(height, width, head_dim, device)
            doubled = [x.repeat_interleave(2, dim=-1).to(self.dtype) for x in (cosine, sine)]
            self._tables[height, width] = (doubled[0], doubled[1])
        return self._tables[height, width]

    def feed_forward(self, x: Tensor) -> Tensor:
        """x (B, h, w, C), same shape."""
        return x + self.contract(self.expand(self.plain.mlp_norm(x)))
