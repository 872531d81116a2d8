"""EfficientTAM against a naive re-derivation of its equations, in loops and complex numbers.

There is no other implementation to compare with, so everything here is written from the paper
(arXiv 2411.18933) and SAM 2's definitions, in float64, sharing no code with the package.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tempomask.models.config import (
    WINDOWS,
    MemoryAttentionConfig,
    MemoryForm,
    TokenGrid,
    ViTConfig,
    segmenter_config,
)
from tempomask.models.memory_attention import MemoryAttentionLayer, MemoryTokens
from tempomask.models.neck import SingleLevelNeck
from tempomask.models.segmenter import Segmenter
from tempomask.models.vit import ViT

DIM, MEMORY_DIM, GRID = 16, 8, (4, 8)
TOKENS = GRID[0] * GRID[1]


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def randomised(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        scale = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.5
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return module.double().eval()


def rotated(x: Tensor, theta: float = 10000.0) -> Tensor:
    """RoPE of tokens (K, DIM) on the grid, token by token, as complex numbers."""
    out = torch.empty_like(x)
    quarter = x.shape[1] // 4
    for token in range(x.shape[0]):
        place = token % TOKENS
        column, row = place % GRID[1], place // GRID[1]
        for pair in range(2 * quarter):
            position = column if pair < quarter else row
            angle = position * theta ** (-4 * (pair % quarter) / x.shape[1])
            number = complex(x[token, 2 * pair], x[token, 2 * pair + 1])
            number *= complex(math.cos(angle), math.sin(angle))
            out[token, 2 * pair], out[token, 2 * pair + 1] = number.real, number.imag
    return out


def pooled(x: Tensor, frames: int, side: int) -> Tensor:
    """Means within each frame: (frames * TOKENS, D) to (frames * TOKENS / side^2, D)."""
    means = []
    for frame in range(frames):
        for row in range(0, GRID[0], side):
            for column in range(0, GRID[1], side):
                window = [
                    x[frame * TOKENS + (row + i) * GRID[1] + column + j]
                    for i in range(side)
                    for j in range(side)
                ]
                means.append(sum(window) / side**2)
    return torch.stack(means)


def means(x: Tensor, count: int) -> Tensor:
    """Means of tokens (P, D) that follow each other, of the last ones of fewer."""
    return torch.stack([sum(part) / len(part) for part in x.split(count)])


def naive_linear(query: Tensor, key: Tensor, value: Tensor, copies: list[float]) -> Tensor:
    """Weights max(q, 0) max(k, 0) instead of exp(q k), query by query."""
    rows = []
    for q in query:
        pairs = zip(copies, key, strict=True)
        weights = [c * float(q.clamp(min=0) @ k.clamp(min=0)) for c, k in pairs]
        total = sum(weights) + 1e-6
        rows.append(sum(w / total * v for w, v in zip(weights, value, strict=True)))
    return torch.stack(rows)


def naive_softmax(query: Tensor, key: Tensor, value: Tensor, copies: list[float]) -> Tensor:
    """Attention in which key i counts copies[i] times in the softmax, query by query."""
    rows = []
    for q in query:
        logits = [float(q @ k) / math.sqrt(len(q)) for k in key]
        top = max(logits)
        weights = [c * math.exp(logit - top) for c, logit in zip(copies, logits, strict=True)]
        total = sum(weights)
        rows.append(sum(w / total * v for w, v in zip(weights, value, strict=True)))
    return torch.stack(rows)


def naive_cross_attention(
    layer: MemoryAttentionLayer, x: Tensor, memory: MemoryTokens, frames: int
) -> Tensor:
    """The cross-attention of one object, after the norm."""
    attention, pooling, side = layer.cross_attention, layer.config.pooling, layer.config.window
    values, positions = memory.values[0], memory.positions[0]
    query = rotated(x @ attention.query.weight.T + attention.query.bias)
    key = (values + positions) @ attention.key.weight.T + attention.key.bias
    value = values @ attention.value.weight.T + attention.value.bias
    spatial, pointers = rotated(key[: memory.num_spatial]), key[memory.num_spatial :]
    copies = [1.0] * len(key)
    if pooling != "none" and frames > 1:
        spatial, of_pointers = pooled(spatial, frames, side), value[-len(pointers) :]
        if pooling == "all":
            pointers, of_pointers = means(pointers, side**2), means(of_pointers, side**2)
        value = torch.cat([pooled(value[: memory.num_spatial], frames, side), of_pointers])
        copies = [1.0] * (len(spatial) + len(pointers))
        if pooling == "eq5":
            copies[: len(spatial)] = [side**2] * len(spatial)
        elif pooling == "eq6":
            spatial = spatial + math.log(side**2)
    naive = naive_linear if layer.config.linear else naive_softmax
    attended = naive(query, torch.cat([spatial, pointers]), value, copies)
    return attended @ attention.output.weight.T + attention.output.bias


FORMS = {
    "full": MemoryForm("none"),
    **{
        f"{kind} {side}": MemoryForm(kind, side)
        for kind in ("eq5", "eq6", "all")
        for side in WINDOWS
    },
    "linear": MemoryForm("none", linear=True),
    "linear eq5": MemoryForm("eq5", linear=True),
}


@pytest.mark.parametrize("frames", [1, 2])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_memory_cross_attention(form: MemoryForm, frames: int) -> None:
    config = MemoryAttentionConfig(layers=1, feedforward_dim=32, **asdict(form))
    layer = MemoryAttentionLayer(config, DIM, MEMORY_DIM)
    randomised(layer)
    generator = torch.Generator().manual_seed(1)
    count, pointers = frames * TOKENS, 3
    memory = MemoryTokens(
        values=torch.randn(1, count + pointers, MEMORY_DIM, generator=generator).double(),
        positions=torch.randn(1, count + pointers, MEMORY_DIM, generator=generator).double(),
        num_spatial=count,
        grid=TokenGrid(*GRID),
        image_keys=None,
    )
    x = torch.randn(1, TOKENS, DIM, generator=generator).double()
    ours = layer.cross_attention.attend_memory(x, memory, GRID, config)
    expected = naive_cross_attention(layer, x[0], memory, frames)
    # The package rotates in float32.
    assert torch.allclose(ours[0], expected, atol=1e-5)


def test_eq5_is_four_copies_of_each_pooled_key_and_eq6_is_not() -> None:
    generator = torch.Generator().manual_seed(2)
    query, key, value = (torch.randn(n, 4, generator=generator).double() for n in (3, 5, 5))
    copied = naive_softmax(query, key.repeat(4, 1), value.repeat(4, 1), [1.0] * 20)
    assert torch.allclose(copied, naive_softmax(query, key, value, [4.0] * 5))
    mixed = [4.0, 4.0, 4.0, 1.0, 1.0]
    shifted = torch.cat([key[:3] + math.log(4), key[3:]])
    by_channel = naive_softmax(query, shifted, value, [1.0] * 5)
    assert not torch.allclose(by_channel, naive_softmax(query, key, value, mixed), atol=1e-3)


def naive_block(block: torch.nn.Module, x: Tensor, heads: int, window: int) -> Tensor:
    """One ViT block on (h, w, C), window by window, head by head; window 0 is the whole map."""
    height, width, channels = x.shape
    side = window or max(height, width)
    normed = F.layer_norm(
        x, (channels,), block.attention_norm.weight, block.attention_norm.bias, 1e-6
    )
    attended = torch.zeros_like(x)
    for top in range(0, height, side):
        for left in range(0, width, side):
            # Cells beyond the map hold zeros and take part.
            cells = [(top + i, left + j) for i in range(side) for j in range(side)]
            if not window:
                cells = [(i, j) for i in range(height) for j in range(width)]
            zero = torch.zeros(channels, dtype=x.dtype)
            inputs = torch.stack(
                [normed[i, j] if i < height and j < width else zero for i, j in cells]
            )
            qkv = inputs @ block.qkv.weight.T + block.qkv.bias
            query, key, value = qkv.split(channels, dim=1)
            part = channels // heads
            outputs = [
                naive_softmax(
                    *(t[:, h * part : (h + 1) * part] for t in (query, key, value)),
                    [1.0] * len(cells),
                )
                for h in range(heads)
            ]
            joined = torch.cat(outputs, dim=1) @ block.output.weight.T + block.output.bias
            for (i, j), row in zip(cells, joined, strict=True):
                if i < height and j < width:
                    attended[i, j] = row
    x = x + attended
    normed = F.layer_norm(x, (channels,), block.mlp_norm.weight, block.mlp_norm.bias, 1e-6)
    hidden = F.gelu(normed @ block.expand.weight.T + block.expand.bias)
    return x + hidden @ block.contract.weight.T + block.contract.bias


def test_image_encoder() -> None:
    config = ViTConfig(
        dim=12, num_heads=3, depth=3, global_attention_blocks=(1,), window_size=3, position_size=2
    )
    encoder = ViT(config)
    randomised(encoder)
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(3)).double()
    x = torch.empty(4, 4, 12, dtype=torch.float64)
    for row in range(4):
        for column in range(4):
            patch = image[0, :, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
            weight = encoder.patch_embedding.weight
            x[row, column] = (weight * patch).sum((1, 2, 3)) + encoder.patch_embedding.bias
    position = F.interpolate(encoder.position[None], size=(4, 4), mode="bicubic")[0]
    x = x + position.permute(1, 2, 0)
    for index, block in enumerate(encoder.blocks):
        x = naive_block(block, x, 3, 0 if index == 1 else 3)
    (features,) = encoder(image).features
    assert torch.allclose(features[0].permute(1, 2, 0), x, atol=1e-9)


def test_neck() -> None:
    neck = SingleLevelNeck(5, 7)
    randomised(neck)
    x = torch.randn(1, 5, 4, 4, generator=torch.Generator().manual_seed(4)).double()

    def norm(y: Tensor, layer: torch.nn.Module) -> Tensor:
        mean = y.mean(dim=1, keepdim=True)
        variance = ((y - mean) ** 2).mean(dim=1, keepdim=True)
        y = (y - mean) / torch.sqrt(variance + 1e-6)
        return y * layer.weight[:, None, None] + layer.bias[:, None, None]

    y = norm(torch.einsum("oi,bihw->bohw", neck.project.weight[:, :, 0, 0], x), neck.project_norm)
    padded = F.pad(y, (1, 1, 1, 1))
    z = torch.zeros(1, 7, 4, 4, dtype=torch.float64)
    for i in range(3):
        for j in range(3):
            shifted = padded[:, :, i : i + 4, j : j + 4]
            z += torch.einsum("oi,bihw->bohw", neck.smooth.weight[:, :, i, j], shifted)
    assert torch.allclose(neck([x])[0], norm(z, neck.smooth_norm), atol=1e-10)


@pytest.mark.parametrize("name", ["efficienttam-ti", "efficienttam-ti-512", "efficienttam-ti-2"])
def test_the_rest_is_sam_2_without_its_additions(name: str) -> None:
    config = segmenter_config(name)
    assert config.image_size == (512 if name.endswith("512") else 1024)
    with torch.device("meta"):
        names = set(Segmenter(config).state_dict())
    assert not any("stride_4" in n or "stride_8" in n for n in names)
    assert not {"occlusion_embedding", "pointer_time_projection.weight"} & names
    assert {"no_memory", "no_object_pointer", "memory_temporal_encoding"} <= names
