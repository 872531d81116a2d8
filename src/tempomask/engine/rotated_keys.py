"""Keys of memories that are turned by their place as they are projected.

Half of a key's channels turn by an angle that depends on the column alone, the other half on the
row. All tokens of a column, of all frames, are therefore projected by the same turned weights,
R_x W, and those of a row by R_y W: nothing is left to do to the keys themselves.

N objects, T frames, h x w the stride-16 grid, D channels of a key, C channels of a memory.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tempomask.engine.packed import and_turned, fast_linear, stacked, turned

# Cosine and sine, each (tokens, D), every value twice, as a pair of channels turns by one angle.
Table = tuple[Tensor, Tensor]


def rotated(plain: Tensor, other: Tensor, table: Table) -> Tensor:
    """Products with a weight and with its turned twin, of tokens that turn as the table says."""
    return (plain * table[0]).addcmul_(other, table[1])


def rotated_keys(
    layer: nn.Linear, table: Table, side: int | None, dtype: torch.dtype
) -> TurnedKeys | RotatedKeys:
    """A linear layer and `RotaryAttention.rotate` after it.

    table: of the tokens of a frame. side: of their square, None for those of a perceiver.
    """
    if side is None:
        return TurnedKeys(layer, table, dtype)
    return RotatedKeys(layer, table, side, dtype)


class TurnedKeys(nn.Module):
    """Keys of a perceiver's tokens, which are few: projected twice, and turned as queries are."""

    cosine: Tensor
    sine: Tensor

    def __init__(self, layer: nn.Linear, table: Table, dtype: torch.dtype) -> None:
        super().__init__()
        self.layer = fast_linear(stacked(*and_turned(layer.weight.data, layer.bias.data)), dtype)
        for name, part in zip(("cosine", "sine"), table, strict=True):
            self.register_buffer(name, part.to(dtype))

    def forward(self, memory: Tensor, out: Tensor) -> None:
        """Same as in `RotatedKeys`."""
        frames = (-1, len(self.cosine))
        plain, other = self.layer(memory).unflatten(1, frames).chunk(2, dim=-1)
        out.unflatten(1, frames).copy_(rotated(plain, other, (self.cosine, self.sine)))


class RotatedKeys(nn.Module):
    """A linear layer and `RotaryAttention.rotate` after it, on a square grid.

    table: cosine and sine, each (side * side, D), every value twice.
    """

    column_weight: Tensor
    column_bias: Tensor
    row_weight: Tensor
    row_bias: Tensor

    def __init__(
        self, layer: nn.Linear, table: tuple[Tensor, Tensor], side: int, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.side = side
        # (side, side, D): rows, columns
        cosine, sine = (x.float().unflatten(0, (side, side)) for x in table)
        weight = layer.weight.detach()
        bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach()
        half = len(weight) // 2
        parts = {
            "column": (slice(None, half), cosine[0], sine[0]),
            "row": (slice(half, None), cosine[:, 0], sine[:, 0]),
        }
        for name, (channels, cos, sin) in parts.items():
            cos, sin = cos[:, channels], sin[:, channels]
            product = cos[..., None] * weight[channels] + sin[..., None] * turned(weight)[channels]
            shift = cos * bias[channels] + sin * turned(bias)[channels]
            # (side, C, D / 2) and (side, 1, D / 2)
            self.register_buffer(f"{name}_weight", product.mT.contiguous().to(dtype))
            self.register_buffer(f"{name}_bias", shift[:, None].to(dtype))

    def forward(self, memory: Tensor, out: Tensor) -> None:
        """Write the keys of memory (N, T h w, C), of the type of the weights, to out (N, T h w, D).

        out may be a part of a larger tensor.
        """
        side = self.side
        maps = memory.unflatten(1, (-1, side, side))
        count, frames = maps.shape[:2]
        by_column, by_row = out.unflatten(1, (-1, side, side)).chunk(2, dim=-1)
        columns = maps.permute(3, 0, 1, 2, 4).flatten(1, 3)
        columns = torch.baddbmm(self.column_bias, columns, self.column_weight)
        by_column.copy_(columns.unflatten(1, (count, frames, side)).permute(1, 2, 3, 0, 4))
        rows = maps.permute(2, 0, 1, 3, 4).flatten(1, 3)
        rows = torch.baddbmm(self.row_bias, rows, self.row_weight)
        by_row.copy_(rows.unflatten(1, (count, frames, side)).permute(1, 2, 0, 3, 4))
