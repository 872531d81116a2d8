"""Trials of the encoder: attention in windows, linear layers, strips. See `engine_trials.py`.

The shapes are those of SAM 2.1-L at 1024 pixels: its third stage has 4,096 tokens of 576 channels,
windows of 16 x 16 and eight heads of 72.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from trials import Trial

from tempomask.engine.neck import FusedNeck
from tempomask.engine.packed import fast_linear
from tempomask.engine.strips import StripBlock
from tempomask.models.config import MaskDecoderConfig
from tempomask.models.mask_decoder import MaskDecoder
from tempomask.models.neck import FeaturePyramidNeck
from tempomask.models.windowed_block import WindowedBlock, max_pool
from tempomask.ops.attention import multi_head_attention
from tempomask.ops.windows import partition

WHOLE = 1 << 30


@dataclass(frozen=True)
class Shapes:
    """side: of the stride-16 grid; dim, heads, window: of the third stage; objects that attend."""

    side: int = 64
    dim: int = 576
    heads: int = 8
    window: int = 16
    objects: int = 5


QUICK = Shapes(side=16, dim=32, heads=2, window=4, objects=2)


def encoder_trials(shapes: Shapes, dtype: torch.dtype) -> Iterator[Trial]:
    """All of them."""
    layers = (head_trials, linear_trials, mlp_trials, gelu_trials, residual_trials)
    for trials in (*layers, window_trials, block_trials, neck_trials):
        yield from trials(shapes, dtype)


def by_hand(query: Tensor, key: Tensor, value: Tensor, rows: int) -> Tensor:
    """Attention through matrix products, head by head, some queries at a time."""
    out, scale = torch.empty_like(query), query.shape[-1] ** -0.5
    for index in range(len(query)):
        for head in range(query.shape[1]):
            keys, values = key[index, head].T, value[index, head]
            parts = query[index, head].split(rows)
            for part, target in zip(parts, out[index, head].split(rows), strict=True):
                torch.matmul(((part * scale) @ keys).softmax(dim=-1), values, out=target)
    return out


def head_trials(shapes: Shapes, dtype: torch.dtype) -> Iterator[Trial]:
    """Attention within windows and over the whole grid, as a fused kernel and otherwise."""
    head_dim = shapes.dim // shapes.heads
    for name, tokens in (("windows", shapes.window**2), ("global", shapes.side**2)):
        count = shapes.side**2 // tokens
        joint = torch.randn(count, tokens, 3 * shapes.dim, dtype=dtype)
        parts = (x.unflatten(-1, (shapes.heads, -1)) for x in joint.chunk(3, dim=-1))
        q, k, v = (x.transpose(1, 2) for x in parts)
        wide = -(-head_dim // 32) * 32
        padded = [F.pad(x, (0, wide - head_dim)).contiguous() for x in (q, k, v)]

        def plainly(q: Tensor = q, k: Tensor = k, v: Tensor = v) -> Tensor:
            return (q @ k.transpose(2, 3) * q.shape[-1] ** -0.5).softmax(dim=-1) @ v

        def widened(padded: list[Tensor] = padded) -> Tensor:
            out = F.scaled_dot_product_attention(*padded, scale=head_dim**-0.5)
            return out[..., :head_dim]

        scores = torch.randn(count, shapes.heads, min(tokens, 512), tokens, dtype=dtype)
        yield Trial(
            f"attention, {name}",
            f"{count} x {shapes.heads} heads, {tokens} tokens of {head_dim} channels",
            {
                "fused": lambda q=q, k=k, v=v: multi_head_attention(q, k, v),
                "by hand, at once": plainly,
                "by hand, 512 queries at a time": lambda q=q, k=k, v=v: by_hand(q, k, v, 512),
                f"heads padded to {wide} channels": widened,
            },
            {f"softmax alone, of {scores.numel():,} scores": lambda s=scores: s.softmax(dim=-1)},
            flops=4.0 * shapes.heads * count * tokens**2 * head_dim,
        )


def linear_trials(shapes: Shapes, dtype: torch.dtype) -> Iterator[Trial]:
    """Query, key and value of a block in one layer: packed, plain, cast at every call."""
    dim, tokens = shapes.dim, shapes.side**2
    x = torch.randn(tokens, dim, dtype=dtype)
    plain = nn.Linear(dim, 3 * dim)
    stored, packed = nn.Linear(dim, 3 * dim, dtype=dtype), fast_linear(plain, dtype)
    stored.load_state_dict(plain.state_dict())

    def cast() -> Tensor:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            return plain(x)

    yield Trial(
        "linear layer",
        f"{tokens} tokens of {dim} channels to {3 * dim}",
        {"packed": lambda: packed(x), "plain": lambda: stored(x), "weights cast each time": cast},
        flops=6.0 * tokens * dim**2,
    )


def mlp_trials(shapes: Shapes, dtype: torch.dtype) -> Iterator[Trial]:
    """The MLP of a block; where its GELU happens."""
    dim, tokens = shapes.dim, shapes.side**2
    x = torch.randn(tokens, dim, dtype=dtype)
    expand, contract = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
    fused, narrow = fast_linear(expand, dtype, "gelu"), fast_linear(contract, dtype)
    a, b = expand.to(dtype), contract.to(dtype)
    yield Trial(
        "MLP",
        f"{tokens} tokens of {dim} channels",
        {
            "packed, GELU inside": lambda: narrow(fused(x)),
            "plain, GELU in place": lambda: b(torch.ops.aten.gelu_(a(x))),
            "plain, GELU apart": lambda: b(F.gelu(a(x))),
        },
        flops=16.0 * tokens * dim**2,
    )


def gelu_trials(shapes: Shapes, dtype: torch.dtype) -> Iterator[Trial]:
    """What GELU costs inside the product before it, at stride 4 and 16 of SAM 2's tiny encoder."""
    strip, grid = 2 * shapes.side**2, shapes.side**2
    for width, tokens in ((shapes.dim // 6, strip), (shapes.dim * 2 // 3, grid)):
        x, expand = torch.randn(tokens, width, dtype=dtype), nn.Linear(width, 4 * width)
        fused, bare = fast_linear(expand, dtype, "gelu"), fast_linear(expand.to(dtype), dtype)
        yield Trial(
            f"GELU inside a product of {width} channels",
            f"{tokens} tokens of {width} channels to {4 * width}",
            {"with GELU": lambda fused=fused, x=x: fused(x)},
            {"without": lambda bare=bare, x=x: bare(x)},
        )


def residual_trials(shapes: Shapes, dtype: torch.dtype) -> Iterator[Trial]:
    """The residual sum of an MLP, after its last product or inside it."""
    dim, tokens = shapes.dim, shapes.side**2
    layer = fast_linear(nn.Linear(4 * dim, dim), dtype)
    if not hasattr(layer, "packed"):
        return
    x, hidden = torch.randn(tokens, dim, dtype=dtype), torch.randn(tokens, 4 * dim, dtype=dtype)
    out, inside = torch.empty_like(x), torch.ops.mkldnn._linear_pointwise.binary
    yield Trial(
        "residual sum",
        f"{tokens} tokens of {4 * dim} channels to {dim}",
        {
            "after the product": lambda: torch.add(x, layer(hidden), out=out),
            "inside the product": lambda: inside(hidden, x, layer.packed, layer.bias, "add"),
        },
    )


def window_trials(shapes: Shapes, dtype: torch.dtype) -> Iterator[Trial]:
    """One row of windows, which could stay a view; and the pooling of queries."""
    dim, window = shapes.dim, shapes.window
    strip = torch.randn(1, window, shapes.side, dim, dtype=dtype)
    layer = nn.Linear(dim, 3 * dim, dtype=dtype)

    def viewed() -> Tensor:
        x = strip.view(1, 1, window, -1, window, dim).transpose(2, 3)
        return layer(x.view(-1, window, window, dim))

    yield Trial(
        "windows before a linear layer",
        f"{window} x {shapes.side} tokens of {dim} channels, plain layer",
        {"contiguous": lambda: layer(partition(strip, window)), "a view": viewed},
    )
    query = torch.randn(64, 8, 8, 3 * dim // 2, dtype=dtype).chunk(3, dim=-1)[0]
    yield Trial(
        "2x2 max-pooling",
        f"64 windows of 8 x 8 tokens, {dim // 2} channels last",
        {
            "by slices": lambda: max_pool(query),
            "max_pool2d": lambda: F.max_pool2d(query.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1),
        },
    )


def block_trials(shapes: Shapes, dtype: torch.dtype) -> Iterator[Trial]:
    """Blocks of L's third and first stage: what norms and sums take, and the size of strips."""
    dim, side = shapes.dim, shapes.side
    plain = WindowedBlock(dim, dim, shapes.heads, shapes.window).eval()
    block = StripBlock(plain, dtype).to(dtype)
    x = torch.randn(1, side, side, dim, dtype=dtype)

    def norms_and_sums() -> None:
        block.block.attention_norm(x).add(x)
        block.block.mlp_norm(x).add(x)

    yield Trial(
        "block of the third stage",
        f"{side} x {side} tokens of {dim} channels",
        {"block": lambda: block.feed_forward(block.attend(x))},
        {"its two norms and two sums": norms_and_sums},
    )
    fine = StripBlock(WindowedBlock(dim // 4, dim // 4, shapes.heads // 4 or 1, 8), dtype).to(dtype)
    wide = torch.randn(1, 4 * side, 4 * side, dim // 4, dtype=dtype)

    def of_size(tokens: int) -> Callable[[], Tensor]:
        def call() -> Tensor:
            with patch("tempomask.engine.strips.TOKENS", tokens):
                return fine(wide)

        return call

    small = StripBlock(WindowedBlock(192, 192, 3, 14).eval(), dtype).to(dtype)
    tokens = torch.randn(1, side // 2, side // 2, 192, dtype=dtype)
    yield Trial(
        "windows beyond the map",
        f"{side // 2} x {side // 2} tokens of 192 channels, windows of 14, EfficientTAM-Ti at 512",
        {
            "zeros counted": lambda: small.attend(tokens),
            "zeros computed": lambda: small.block.attend(tokens),
        },
    )

    sizes = {"strips of 8,192 tokens": 8192, "1,024": 1024, "4,096": 4096, "whole": WHOLE}
    yield Trial(
        "strips of a block of the first stage",
        f"{4 * side} x {4 * side} tokens of {dim // 4} channels",
        {name: of_size(tokens) for name, tokens in sizes.items()}
        | {"attention of all strips first": lambda: fine.feed_forward(fine.attend(wide))},
    )


def neck_trials(shapes: Shapes, dtype: torch.dtype) -> Iterator[Trial]:
    """SAM 2.1-T's neck and the decoder's narrowing convolutions, as one product or two."""
    finest, side = shapes.dim // 6, 4 * shapes.side
    channels = (finest, 2 * finest, 4 * finest, 8 * finest)
    neck = FeaturePyramidNeck(channels, 256).eval()
    decoder = MaskDecoder(MaskDecoderConfig(), 256, True).eval()
    fused = FusedNeck(neck, decoder, dtype).to(dtype)
    neck, decoder = neck.to(dtype), decoder.to(dtype)
    sizes = [side >> level for level in range(4)]
    # Channels last, as the encoder leaves them.
    maps = [
        torch.randn(1, size, size, count, dtype=dtype).permute(0, 3, 1, 2)
        for size, count in zip(sizes, channels, strict=True)
    ]

    def apart() -> Tensor:
        wide = neck(maps)
        return decoder.project_high_resolution(wide[0], wide[1])[0]

    yield Trial(
        "neck",
        f"maps of {', '.join(f'{size} x {size}' for size in sizes)}; the finest of the output",
        {"fused with the narrowing": lambda: fused(maps)[0], "apart": apart},
    )
