"""Memory attention with rotations that cost two multiplications, and none for the memories' keys.

Turning a projected token by its position, R W x, is (W x) cos + (W' x) sin, where W' holds the
rows of W exchanged in pairs, one of each with its sign changed. Both products are one matrix
product, and nothing has to be taken apart into pairs. Keys of memories go further
(`engine.rotated_keys`). Values have a quarter of the channels
before their projection, which can come after the sum, in one layer with the output's; but fused
attention wants keys and values of one width, so that it depends on the CPU what is faster
(`engine.choose`). The rest is `tempomask.models.memory_attention`.

N objects, T frames, h x w the stride-16 grid, D hidden_dim and channels of a key, C channels of a
memory, K memory tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, reduce
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tempomask.engine.choose import fastest
from tempomask.engine.packed import and_turned, composed, fast_linear, in_parts, stacked
from tempomask.engine.rotated_keys import Table, rotated, rotated_keys
from tempomask.models.config import MemoryAttentionConfig, SegmenterConfig
from tempomask.models.memory_attention import (
    MemoryAttention,
    MemoryAttentionLayer,
    MemoryTokens,
    RotaryAttention,
    TokenChoice,
    take_rows,
    without_absent,
)
from tempomask.ops.attention import attention
from tempomask.ops.rope import axial_table

# Objects attend together while they have no more tokens than this.
TOKENS = 4096
MLP_TOKENS = 1024
# A tile of logits of attention to narrow values.
QUERIES, KEYS = 1024, 512
# Logits up to this have exponentials whose sums over all keys stay far from float32's ends.
SAFE_LOGIT = 60.0


class SharedTokens(NamedTuple):
    """What every layer reads of the memories of N objects, made once.

    place (N, K, memory_dim): values and positions. values (N, K', memory_dim): pooled where keys
    will be. num_spatial: leading tokens of place that are spatial. image_keys: see
    `MemoryTokens`. bias: joins the logits of the keys (1 or N, K'), or None. pooled: whether keys
    are pooled too. chosen: see `MemoryTokens`.
    """

    place: Tensor
    values: Tensor
    num_spatial: int
    image_keys: Tensor | None
    bias: Tensor | None
    pooled: bool
    chosen: TokenChoice | None


class FastMemoryAttentionLayer(nn.Module):
    """One layer, the same function as `MemoryAttentionLayer`."""

    def __init__(
        self, plain: MemoryAttentionLayer, table: Table, side: int | None, dtype: torch.dtype
    ) -> None:
        super().__init__()
        own, cross = plain.self_attention, plain.cross_attention
        self.config = plain.config
        value = (own.value.weight.data, own.value.bias.data)
        query, key, asked = (
            and_turned(layer.weight.data, layer.bias.data)
            for layer in (own.query, own.key, cross.query)
        )
        self.own = fast_linear(stacked(*query, *key, value), dtype)
        self.query = fast_linear(stacked(*asked), dtype)
        self.spatial_key = rotated_keys(cross.key, table, side, dtype)
        self.pointer_key = cross.key
        narrow = in_parts(cross.value.weight) and _narrow_is_faster(dtype)
        self.attention = narrow_attention if narrow else attention
        output = composed(cross.value, cross.output) if narrow else cross.output
        self.value = nn.Identity() if narrow else fast_linear(cross.value, dtype)
        self.image_norm, self.image_key = cross.image_norm, None
        if cross.image_key is not None:
            self.image_key = rotated_keys(cross.image_key, table, side, dtype)
        self.own_output = fast_linear(own.output, dtype)
        self.output = fast_linear(output, dtype)
        self.expand = fast_linear(plain.expand, dtype, "relu")
        self.contract = fast_linear(plain.contract, dtype)
        self.self_norm, self.cross_norm = plain.self_norm, plain.cross_norm
        self.feedforward_norm = plain.feedforward_norm

    def attend_self(self, x: Tensor, table: Table) -> Tensor:
        """Let x (N, hw, D) attend to itself; residual."""
        parts = self.own(self.self_norm(x)).chunk(5, dim=-1)
        query, query_turned, key, key_turned, value = parts
        query, key = rotated(query, query_turned, table), rotated(key, key_turned, table)
        return x + self.own_output(attention(query, key, value)).to(x.dtype)

    def attend_memory(
        self, x: Tensor, memory: SharedTokens, grid: tuple[int, int], table: Table
    ) -> Tensor:
        """Let x (1 or N, hw, D) attend to memories of N objects, then pass the MLP: (N, hw, D)."""
        query, query_turned = self.query(self.cross_norm(x)).chunk(2, dim=-1)
        query = rotated(query, query_turned, table)
        key, value = self._keys(memory, grid), self.value(memory.values)
        query = query.expand(key.shape[0], -1, -1)
        if memory.chosen is not None:
            query = take_rows(query, memory.chosen.tokens)
        attended = self.output(self.attention(query, key, value, memory.bias)).to(x.dtype)
        if memory.chosen is not None:
            attended = take_rows(attended, memory.chosen.source)
        return self._feed_forward(x + attended)

    def _feed_forward(self, x: Tensor) -> Tensor:
        """The MLP, some tokens at a time, so that its hidden layer stays in the cache."""
        if not in_parts(x):
            return x + self.contract(self.expand(self.feedforward_norm(x))).to(x.dtype)
        out = torch.empty_like(x)
        for part, target in zip(x.split(MLP_TOKENS, 1), out.split(MLP_TOKENS, 1), strict=True):
            change = self.contract(self.expand(self.feedforward_norm(part)))
            torch.add(part, change.to(x.dtype), out=target)
        return out

    def _keys(self, memory: SharedTokens, grid: tuple[int, int]) -> Tensor:
        """Rotated keys (N, K', D); with pooling one for each window."""
        place, spatial = memory.place, memory.num_spatial
        pointers = self.pointer_key(place[:, spatial:])
        keys = pointers.new_empty(*place.shape[:2], pointers.shape[2])
        keys[:, spatial:] = pointers
        self.spatial_key(place[:, :spatial], keys[:, :spatial])
        if self.image_key is not None and self.image_norm is not None:
            assert memory.image_keys is not None, "the network's memory keys see the image"
            # Of one image for all objects, or of each object's own.
            images = self.image_norm(memory.image_keys).to(keys.dtype)
            of_images = keys.new_empty(*images.shape[:2], keys.shape[2])
            self.image_key(images, of_images)
            keys[:, :spatial] += of_images
        if not memory.pooled:
            return keys
        # Pointers stay as they are, the logarithm is the pooled keys' alone.
        area = self.config.window**2
        pooled = _pooled(keys, spatial, grid, self.config.window)
        if self.config.pooling == "eq6":
            pooled[:, : spatial // area] += math.log(area)
        return pooled


def _shared(
    memory: MemoryTokens,
    config: MemoryAttentionConfig,
    grid: tuple[int, int],
    dtype: torch.dtype,
) -> SharedTokens:
    """What all layers read of the memories, in the type that they compute in."""
    spatial, window = memory.num_spatial, config.window
    # As in the plain code, a single remembered frame is not pooled.
    pooled = config.pooling != "none" and spatial > memory.grid.tokens
    values = (_pooled(memory.values, spatial, grid, window) if pooled else memory.values).to(dtype)
    bias = None
    if pooled and config.pooling == "eq5":
        bias = values.new_zeros(1, values.shape[1])
        bias[:, : spatial // window**2] = math.log(window**2)
    return SharedTokens(
        (memory.values + memory.positions).to(dtype),
        values,
        spatial,
        memory.image_keys,
        without_absent(bias, memory, values),
        pooled,
        memory.chosen,
    )


def narrow_attention(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Same as `ops.attention.attention`, for value (N, B, C) of few channels: (N, A, C).

    It computes in float32, whatever comes: products of tiles need the sums' range.
    """
    dtype = query.dtype
    query, key, value = query.float() * query.shape[2] ** -0.5, key.float(), value.float()
    bias = None if bias is None else bias.float()
    out = value.new_empty(*query.shape[:2], value.shape[2])
    with torch.autocast(query.device.type, enabled=False):
        for row in range(len(query)):
            added = None if bias is None else bias[row % len(bias)]
            largest = query[row].norm(dim=-1).max() * key[row].norm(dim=-1).max()
            way = _attention_in_tiles if largest < SAFE_LOGIT else _attention_by_rows
            way(query[row], key[row], value[row], added, out[row])
    return out.to(dtype)


def _attention_in_tiles(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, out: Tensor
) -> None:
    """exp(logits) without taking the maximum off first: one pass over tiles that fit the cache.

    A column of ones beside the values sums the weights; a bias of a key is a factor of its row.
    """
    channels = value.shape[1]
    # The ones, and as many zeros as let rows begin where vector registers want them.
    rows = F.pad(value, (0, 8))
    rows[:, channels] = 1
    if bias is not None:
        rows *= bias.exp()[:, None]
    sums = rows.new_zeros(len(query), rows.shape[1])
    tile = query.new_empty(QUERIES * KEYS)
    for part, target in zip(query.split(QUERIES), sums.split(QUERIES), strict=True):
        for keys, values in zip(key.split(KEYS), rows.split(KEYS), strict=True):
            logits = tile[: len(part) * len(keys)].view(len(part), len(keys))
            torch.mm(part, keys.T, out=logits)
            target.addmm_(logits.exp_(), values)
    torch.div(sums[:, :channels], sums[:, channels : channels + 1], out=out)


def _attention_by_rows(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, out: Tensor
) -> None:
    """The same for logits of any size."""
    for part, target in zip(query.split(KEYS), out.split(KEYS), strict=True):
        logits = part @ key.T if bias is None else torch.addmm(bias, part, key.T)
        torch.mm(torch.softmax(logits, dim=-1, out=logits), value, out=target)


@cache
def _narrow_is_faster(dtype: torch.dtype) -> bool:
    def ways() -> dict[str, Callable[[], object]]:
        query, key, value = (torch.randn(1, n, 256).to(dtype) for n in (512, 2048, 2048))
        narrow = value[..., :64].contiguous()
        return {
            "fused": lambda: attention(query, key, value),
            "narrow": lambda: narrow_attention(query, key, narrow),
        }

    name = str(dtype).removeprefix("torch.")
    return fastest(f"{name} attention to memories", ways) == "narrow"


def _pooled(x: Tensor, num_spatial: int, grid: tuple[int, int], window: int) -> Tensor:
    """Means of windows of the first num_spatial tokens of x (N, K, C), then the others."""
    if window == 1:
        return x
    size = (-1, grid[0] // window, window, grid[1] // window, window)
    maps = x[:, :num_spatial].unflatten(1, size)
    # Sums of slices: a mean over two inner dimensions is many times slower in bfloat16.
    rows = reduce(torch.add, maps.unbind(3))
    spatial = reduce(torch.add, rows.unbind(-2)).mul_(1 / window**2).flatten(1, 3)
    return torch.cat([spatial, x[:, num_spatial:]], dim=1)


def _of_objects(memory: MemoryTokens, objects: slice) -> MemoryTokens:
    """The memory of some of the objects; what is one for all stays."""

    def part(x: Tensor) -> Tensor:
        return x if len(x) == 1 else x[objects]

    return memory._replace(
        values=memory.values[objects],
        positions=part(memory.positions),
        image_keys=None if memory.image_keys is None else part(memory.image_keys),
        absent=None if memory.absent is None else part(memory.absent),
        chosen=None if memory.chosen is None else TokenChoice(*map(part, memory.chosen)),
    )


class FastMemoryAttention(MemoryAttention):
    """The same function as the plain memory attention it is made of, on one grid.

    The first layer's self-attention does not see the objects and runs once for all of them.
    It leaves out the memories that `MemoryTokens.absent` marks.
    """

    cosine: Tensor
    sine: Tensor

    def __init__(self, plain: MemoryAttention, config: SegmenterConfig, dtype: torch.dtype) -> None:
        nn.Module.__init__(self)
        layers = [layer for layer in plain.layers if isinstance(layer, MemoryAttentionLayer)]
        self.norm = plain.norm
        attention_part: RotaryAttention = layers[0].self_attention
        weight, side = attention_part.query.weight, config.image_size // 16

        def table(height: int, width: int, unplaced: int) -> Table:
            dim, theta = weight.shape[0], attention_part.theta
            pairs = axial_table(height, width, dim, theta, weight.device, unplaced)
            cosine, sine = (x.repeat_interleave(2, dim=1) for x in pairs)
            return cosine, sine

        cosine, sine = table(side, side, 0)
        of_keys, side = table(*config.memory_grid), None if config.perceiver else side
        self.layers = nn.ModuleList(
            FastMemoryAttentionLayer(layer, of_keys, side, dtype) for layer in layers
        )
        self.register_buffer("cosine", cosine.to(dtype))
        self.register_buffer("sine", sine.to(dtype))

    def forward(self, features: Tensor, position: Tensor, memory: MemoryTokens) -> Tensor:
        """Condition features (1 or N, D, h, w) at positions (D, h, w): (N, D, h, w)."""
        grid = (features.shape[2], features.shape[3])
        x = (features + MemoryAttention.POSITION_WEIGHT * position).flatten(2).transpose(1, 2)
        table, count = (self.cosine, self.sine), len(memory.values)
        x = self._layers()[0].attend_self(x, table)
        # On a CPU more objects at once only fall out of the cache.
        step = max(1, TOKENS // x.shape[1]) if in_parts(x) else count
        parts = []
        for start in range(0, count, step):
            objects = slice(start, start + step)
            some = x if len(x) == 1 else x[objects]
            parts.append(self._attend(some, _of_objects(memory, objects), grid, table))
        x = parts[0] if len(parts) == 1 else torch.cat(parts)
        return self.norm(x).transpose(1, 2).unflatten(2, grid)

    def _layers(self) -> list[FastMemoryAttentionLayer]:
        return list(self.layers)  # type: ignore[arg-type]

    def _attend(
        self, x: Tensor, memory: MemoryTokens, grid: tuple[int, int], table: Table
    ) -> Tensor:
        """All layers from the first cross-attention on: x (1 or N, hw, D) to (N, hw, D)."""
        shared = _shared(memory, self._layers()[0].config, grid, self.cosine.dtype)
        for index, layer in enumerate(self._layers()):
            if index:
                x = layer.attend_self(x, table)
            x = layer.attend_memory(x, shared, grid, table)
        return x
