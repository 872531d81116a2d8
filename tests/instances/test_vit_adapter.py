"""ViT-Adapter's parts: blocks against transformers' DINOv2, extractors against plain loops."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tempomask.models.instances.config import ViTAdapterConfig
from tempomask.models.instances.deformable_attention import DeformableAttention
from tempomask.models.instances.pixel_decoder import cell_places
from tempomask.models.instances.vit_adapter import DINOv2Block, Extractor, ViTAdapter
from tempomask.weights.layout import rename, rules

TINY = ViTAdapterConfig(16, 4, 2, 16, 4, 2, 0.5, 8, 3)


def drawn(module: Any) -> Any:
    """With weights that all count."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module.eval()


def test_blocks_are_transformers_dinov2() -> None:
    transformers = pytest.importorskip("transformers")
    from transformers.models.dinov2.modeling_dinov2 import Dinov2Layer

    config = transformers.Dinov2Config(
        hidden_size=16, num_attention_heads=2, mlp_ratio=4, layerscale_value=1e-5
    )
    theirs, ours = drawn(Dinov2Layer(config)), DINOv2Block(16, 2)
    # transformers 5 names in memory what version 4 nests deeper.
    newer = rules(
        """
        norm1                       attention_norm
        norm2                       mlp_norm
        attention.o_proj            output
        attention.output.dense      output
        mlp.{fc1,fc2}               {expand,contract}
        attention.{q,k,v}_proj      {query,key,value}
        attention.attention.{query,key,value}  {query,key,value}
        layer_scale1.lambda1        attention_scale
        layer_scale2.lambda1        mlp_scale
        """
    )
    own = {rename(key, newer) or key: x for key, x in theirs.state_dict().items()}
    for kind in ("weight", "bias"):
        parts = [own.pop(f"{part}.{kind}") for part in ("query", "key", "value")]
        own[f"qkv.{kind}"] = torch.cat(parts)
    ours.load_state_dict(own)
    tokens = torch.randn(2, 7, 16)
    expected = theirs(tokens)
    expected = expected[0] if isinstance(expected, tuple) else expected
    torch.testing.assert_close(ours(tokens), expected)


def sampled(image: Tensor, x: float, y: float) -> Tensor:
    """The bilinear sample (C,) of an image (H, W, C) at x, y in cells, zero outside."""
    height, width, _ = image.shape
    value = torch.zeros(image.shape[2])
    for row in range(height):
        for column in range(width):
            share = max(0.0, 1 - abs(x - column - 0.5)) * max(0.0, 1 - abs(y - row - 0.5))
            value = value + share * image[row, column]
    return value


@pytest.mark.parametrize("gradients", [True, False])
def test_cells_of_other_strides_attend_to_one_level(gradients: bool) -> None:
    heads, points, size = 2, 3, (2, 3)
    module = drawn(DeformableAttention(8, heads, points, levels=1))
    places = cell_places([(4, 6), (2, 3), (1, 2)], torch.device("cpu"))
    query, cells = torch.randn(1, len(places), 8), torch.randn(1, 6, 8)
    with torch.set_grad_enabled(gradients):
        found = module(query, cells, places, [size]).detach()
    module.requires_grad_(False)
    values = module.value(cells)[0].view(*size, heads, 4)
    for cell in (0, 17, 31):
        offsets = module.offsets(query[0, cell]).view(heads, points, 2)
        weights = module.weights(query[0, cell]).view(heads, points).softmax(-1)
        mixed = []
        for head in range(heads):
            total = torch.zeros(4)
            for point in range(points):
                x = float(places[cell, 0]) * size[1] + float(offsets[head, point, 0])
                y = float(places[cell, 1]) * size[0] + float(offsets[head, point, 1])
                total = total + weights[head, point] * sampled(values[:, :, head], x, y)
            mixed.append(total)
        torch.testing.assert_close(found[0, cell], module.output(torch.cat(mixed)))


def test_extractors_mix_each_stride_by_itself() -> None:
    extractor, sizes = drawn(Extractor(TINY)), [(4, 6), (2, 3), (1, 2)]
    places = cell_places(sizes, torch.device("cpu"))
    cells, tokens = torch.randn(2, len(places), 16), torch.randn(2, 6, 16)
    found = extractor(cells, tokens, places, sizes)
    changed = cells.clone()
    changed[:, :24] += 1.0
    again = extractor(changed, tokens, places, sizes)
    assert torch.equal(found[:, 24:], again[:, 24:]) and not torch.allclose(
        found[:, :24], again[:, :24]
    )


def test_maps_have_the_strides_of_every_backbone() -> None:
    network = drawn(ViTAdapter(TINY))
    maps = network(torch.randn(2, 3, 64, 96))
    assert [x.shape[2:] for x in maps] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    assert {x.shape[1] for x in maps} == {16} and network.channels == (16,) * 4


def test_positions_are_sampled_as_dinov2_does() -> None:
    network = drawn(ViTAdapter(TINY))
    found = network.position_encoding(4, 6)
    grid = network.position[:, 1:].view(1, 3, 3, 16).permute(0, 3, 1, 2)
    # Of a size one tenth of a cell larger, as far as whole cells go.
    expected = F.interpolate(grid, scale_factor=(4.1 / 3, 6.1 / 3), mode="bicubic")
    assert found.shape == (1, 25, 16) and torch.equal(found[:, :1], network.position[:, :1])
    torch.testing.assert_close(found[0, 1:].T.reshape(16, 4, 6), expected[0])
