"""Windowed attention in which the zeros beyond the map are counted instead of computed.

Windows of 14 on a map of 32 reach to 42: they hold 1,764 tokens, of which 1,024 are the image's.
The others are zeros when they reach the projection, so all have the same key and value, its biases;
n such keys weigh as much as one whose logit is larger by log n. Their queries are never read.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from tempomask.models.windowed_block import WindowedBlock, max_pool
from tempomask.ops.attention import multi_head_attention


class Region(NamedTuple):
    """Windows of one size: how many, their height and width within the map."""

    windows: int
    height: int
    width: int


class Cut(NamedTuple):
    """A map cut into windows: order (h * w,), its tokens window by window; place, the inverse."""

    order: Tensor
    place: Tensor
    regions: tuple[Region, ...]


@lru_cache(maxsize=64)
def cut_windows(height: int, width: int, window: int) -> Cut:
    """The windows of a map, those that lie within it first, on the CPU."""
    tokens = torch.arange(height * width).view(height, width)
    order, regions = [], []
    for band in tokens.split(_whole_and_rest(height, window), dim=0):
        for part in band.split(_whole_and_rest(width, window), dim=1):
            high, wide = min(window, part.shape[0]), min(window, part.shape[1])
            cells = part.unflatten(0, (-1, high)).unflatten(2, (-1, wide)).transpose(1, 2)
            order.append(cells.flatten())
            regions.append(Region(cells.shape[0] * cells.shape[1], high, wide))
    joined = torch.cat(order)
    return Cut(joined, joined.argsort(), tuple(regions))


def _whole_and_rest(length: int, window: int) -> list[int]:
    rest = length % window
    return [part for part in (length - rest, rest) if part]


def is_ragged(block: WindowedBlock, height: int, width: int) -> bool:
    """Whether windows reach beyond a map of this size, and what they hold of it can be pooled."""
    window = block.window_size
    if not window:
        return False
    below, right = height % window, width % window
    even = not (below % 2 or right % 2 or window % 2)
    return bool(below or right) and (even or not block.pool)


def attend_ragged(block: WindowedBlock, x: Tensor) -> Tensor:
    """Attend within x (B, h, w, dim), as in `WindowedBlock.attend`."""
    batch, height, width, _ = x.shape
    normed = block.attention_norm(x)
    shortcut = x if block.shortcut is None else block.shortcut(normed)
    if block.pool:
        shortcut = max_pool(shortcut)
    cut = cut_windows(height, width, block.window_size)
    projected = block.qkv(normed.flatten(1, 2).index_select(1, cut.order))
    sizes = [region.windows * region.height * region.width for region in cut.regions]
    parts = [
        _attend_region(block, part.reshape(batch * region.windows, region.height, region.width, -1))
        .reshape(batch, -1, projected.shape[-1] // 3)
        for region, part in zip(cut.regions, projected.split(sizes, dim=1), strict=True)
    ]  # fmt: skip
    if block.pool:
        cut = cut_windows(height // 2, width // 2, block.window_size // 2)
    attended = torch.cat(parts, dim=1).index_select(1, cut.place)
    return shortcut + block.output(attended.view(*shortcut.shape[:3], -1))


def _attend_region(block: WindowedBlock, projected: Tensor) -> Tensor:
    """Attention within windows of one size: (N, a, b, 3C) to (N, tokens, C), zeros counted."""
    count, height, width, _ = projected.shape
    query, key, value = projected.chunk(3, dim=-1)
    if block.pool:
        query = max_pool(query)
    query, key, value = (x.reshape(count, -1, x.shape[-1]) for x in (query, key, value))
    zeros = block.window_size**2 - height * width
    mask = None
    if zeros:
        _, key_of_zero, value_of_zero = block.qkv.bias.chunk(3)  # type: ignore[operator]
        key = torch.cat([key, key_of_zero.expand(count, 1, -1)], dim=1)
        value = torch.cat([value, value_of_zero.expand(count, 1, -1)], dim=1)
        # bfloat16 would round the logarithm.
        mask = query.new_zeros((1, 1, 1, key.shape[1]), dtype=torch.float32)
        mask[..., -1] = math.log(zeros)
    query, key, value = (
        x.unflatten(-1, (block.num_heads, -1)).transpose(1, 2) for x in (query, key, value)
    )
    return multi_head_attention(query, key, value, mask).transpose(1, 2).flatten(2)
