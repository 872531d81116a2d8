"""Pruning: importance by brute force, surgery against the masked full network, files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.flops import frame_cost
from tempomask.baselines.pruning import (
    Bottleneck,
    Importances,
    block_widths,
    choose_bottlenecks,
    choose_embedding,
    disturbed_importance,
    embedding_members,
    everything,
    group_importances,
    is_rotary,
    prune,
)
from tempomask.errors import InputError
from tempomask.models.config import (
    HieraConfig,
    HybridConfig,
    MaskDecoderConfig,
    MemoryAttentionConfig,
    RepViTConfig,
    SegmenterConfig,
    ViTConfig,
    segmenter_config,
)
from tempomask.models.segmenter import Segmenter
from tempomask.weights import load_segmenter, save_segmenter
from tempomask.weights.own import SEGMENTER_KEY, config_to_json

ENCODERS = {
    "hybrid": HybridConfig(dim=24, num_heads=3, depth=3),
    "short-stem": HybridConfig(dim=24, num_heads=3, depth=3, stem=(1, 2, 2)),
    "vit": ViTConfig(dim=24, num_heads=3, depth=3, global_attention_blocks=(1,), window_size=3),
    "hiera": HieraConfig(
        embed_dim=16,
        num_heads=2,
        stages=(1, 2, 2, 1),
        global_attention_blocks=(4,),
        window_sizes=(4, 4, 2, 2),
    ),
}


def tiny(kind: str) -> Segmenter:
    torch.manual_seed(0)
    encoder = ENCODERS[kind]
    segmenter = Segmenter(
        SegmenterConfig(
            name="nano",
            encoder=encoder,
            image_size=64,
            hidden_dim=32,
            memory_dim=16,
            memory_attention=MemoryAttentionConfig(layers=1, feedforward_dim=16),
            mask_decoder=MaskDecoderConfig(num_heads=2, feedforward_dim=16, iou_hidden_dim=16),
            high_resolution=kind != "vit",
        )
    )
    with torch.no_grad():
        for name, parameter in segmenter.named_parameters():
            if name.startswith(("encoder.", "neck.")) and "stem" not in name:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return segmenter.eval()


@pytest.fixture(params=ENCODERS)
def segmenter(request: pytest.FixtureRequest) -> Segmenter:
    return tiny(request.param)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))


def outputs(segmenter: Segmenter, images: Tensor) -> list[Tensor]:
    with torch.no_grad():
        encoded = segmenter.encode(images)
    return [encoded.features, *encoded.high_resolution]


def choice(segmenter: Segmenter, images: Tensor) -> tuple[list[Tensor], list[Bottleneck]]:
    """What SlimSAM keeps at about half of everything."""
    found = group_importances(segmenter, disturbed_importance(segmenter, images))
    rotary = is_rotary(segmenter.encoder.blocks[0])
    return choose_embedding(found.embedding, 0.6), choose_bottlenecks(
        found, block_widths(segmenter), 0.55, rotary
    )


def test_disturbed_importance_by_brute_force() -> None:
    """|w dL/dw| of a few weights, by finite differences of the loss with the very same noise."""
    segmenter = tiny("vit").double()
    image = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    found = disturbed_importance(segmenter, image, seed=5, disturbance=0.1)
    clean = outputs(segmenter, image)
    generator = torch.Generator().manual_seed(5)
    noise = [torch.randn(x.shape, generator=generator) * 0.1 for x in clean]

    def loss() -> float:
        now = outputs(segmenter, image)
        return sum(F.mse_loss(a, b + n).item() for a, b, n in zip(now, clean, noise, strict=True))

    for name in ("encoder.blocks.1.qkv.weight", "encoder.blocks.0.contract.bias"):
        parameter = segmenter.get_parameter(name)
        for place in ((3, 5)[: parameter.ndim], (20, 1)[: parameter.ndim]):
            value, step = parameter.data[place].item(), 1e-5
            sides = []
            for sign in (1, -1):
                parameter.data[place] = value + sign * step
                sides.append(loss())
            parameter.data[place] = value
            by_hand = abs(value * (sides[0] - sides[1]) / (2 * step))
            assert found[name][place].item() == pytest.approx(by_hand, rel=1e-3, abs=1e-12)


def test_importance_leaves_the_network_as_it_was(segmenter: Segmenter, images: Tensor) -> None:
    segmenter.requires_grad_(False)
    segmenter.neck.requires_grad_(True)
    before = {name: p.requires_grad for name, p in segmenter.named_parameters()}
    found = disturbed_importance(segmenter, images)
    assert {name: p.requires_grad for name, p in segmenter.named_parameters()} == before
    assert all(p.grad is None for p in segmenter.parameters())
    again = disturbed_importance(segmenter, images)
    assert all(torch.equal(x, again[name]) for name, x in found.items())
    silent = [name for name, x in found.items() if not x.any() and not name.endswith("qkv.bias")]
    assert not silent


def test_group_importances_sum_every_weight_of_the_group(segmenter: Segmenter) -> None:
    """Weights of one are counted; the count of a channel is known by hand."""
    ones = {
        name: torch.ones_like(p)
        for name, p in segmenter.named_parameters()
        if name.startswith(("encoder.", "neck."))
    }
    found = group_importances(segmenter, ones)
    for index, block in enumerate(segmenter.encoder.blocks):
        width, source = block.output.out_features, block.qkv.in_features
        assert found.mlp[index].unique().tolist() == [2 * width + 1]
        assert found.query_key[index].unique().tolist() == [2 * (source + 1)]
        assert found.value[index].unique().tolist() == [source + 1 + width]
    for stage, members in enumerate(embedding_members(segmenter)):
        size = len(found.embedding[stage])
        weights = sum(segmenter.get_parameter(name).numel() for name, _ in members)
        assert all(segmenter.get_parameter(name).shape[dim] == size for name, dim in members)
        assert found.embedding[stage].sum().item() == weights


@contextmanager
def masked(
    segmenter: Segmenter, embedding: list[Tensor], bottlenecks: list[Bottleneck]
) -> Iterator[None]:
    """The full network with what is pruned left out: zeros, and norms over the kept channels."""
    stages = [set(channels.tolist()) for channels in embedding]
    norms = {}
    for stage, members in enumerate(embedding_members(segmenter)):
        for name, dim in members:
            gone = list(range(segmenter.get_parameter(name).shape[dim]))
            gone = [i for i in gone if i not in stages[stage]]
            segmenter.get_parameter(name).data.index_fill_(dim, torch.tensor(gone).long(), 0.0)
            module = segmenter.get_submodule(name.rpartition(".")[0] or "")
            if isinstance(module, nn.LayerNorm):
                norms[module] = embedding[stage]
    for block, kept in zip(segmenter.encoder.blocks, bottlenecks, strict=True):
        gone = torch.ones(block.contract.in_features, dtype=torch.bool)
        gone[kept.mlp] = False
        block.contract.weight.data[:, gone] = 0.0
        query, key, _ = block.qkv.weight.data.unflatten(0, (3, block.num_heads, -1))
        query_bias, key_bias, _ = block.qkv.bias.data.unflatten(0, (3, block.num_heads, -1))
        inputs = block.output.weight.data.unflatten(1, (block.num_heads, -1))
        for head in range(block.num_heads):
            gone = torch.ones(query.shape[1], dtype=torch.bool)
            gone[kept.query_key[head]] = False
            for x in (query, key, query_bias, key_bias):
                x[head, gone] = 0.0
            gone = torch.ones(query.shape[1], dtype=torch.bool)
            gone[kept.value[head]] = False
            inputs[:, head, gone] = 0.0

    def over_kept(channels: Tensor) -> Callable[..., Tensor]:
        def hook(norm: nn.LayerNorm, given: tuple[Tensor, ...], _: Tensor) -> Tensor:
            x = given[0][..., channels]
            weight, bias = norm.weight[channels], norm.bias[channels]
            y = F.layer_norm(x, x.shape[-1:], weight, bias, norm.eps)
            return torch.zeros_like(given[0]).index_copy(-1, channels, y)

        return hook

    handles = [norm.register_forward_hook(over_kept(c)) for norm, c in norms.items()]
    yield
    for handle in handles:
        handle.remove()


def test_the_pruned_network_equals_the_masked_one(segmenter: Segmenter, images: Tensor) -> None:
    embedding, bottlenecks = choice(segmenter, images)
    pruned = prune(segmenter, embedding, bottlenecks)
    full = outputs(segmenter, images)
    with masked(segmenter, embedding, bottlenecks):
        wanted = outputs(segmenter, images)
    for a, b in zip(outputs(pruned, images), wanted, strict=True):
        assert torch.allclose(a, b, atol=1e-4)
    assert not torch.allclose(wanted[0], full[0], atol=1e-2)
    assert sum(p.numel() for p in pruned.encoder.blocks.parameters()) < 0.5 * sum(
        p.numel() for p in segmenter.encoder.blocks.parameters()
    )


def test_keeping_everything_changes_nothing(segmenter: Segmenter, images: Tensor) -> None:
    pruned = prune(segmenter, *everything(segmenter))
    for a, b in zip(outputs(pruned, images), outputs(segmenter, images), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_a_pruned_network_costs_less_and_can_be_pruned_again(
    segmenter: Segmenter, images: Tensor
) -> None:
    embedding, bottlenecks = choice(segmenter, images)
    first = prune(segmenter, embedding, everything(segmenter)[1])
    second = prune(first, everything(first)[0], bottlenecks)
    at_once = prune(segmenter, embedding, bottlenecks)
    for a, b in zip(outputs(second, images), outputs(at_once, images), strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    costs = [sum(b.macs.total for b in frame_cost(s).blocks) for s in (segmenter, first, second)]
    assert costs[0] > costs[1] > costs[2]
    assert costs[2] < 0.5 * costs[0]


def test_files_bring_a_pruned_network_back(
    segmenter: Segmenter, images: Tensor, tmp_path: Path
) -> None:
    pruned = prune(segmenter, *choice(segmenter, images))
    outputs(pruned, images[:, :, :32, :32])  # another grid, whose tables must not linger
    save_segmenter(pruned, tmp_path / "slim.safetensors")
    loaded = load_segmenter(checkpoint=tmp_path / "slim.safetensors")
    assert loaded.config == pruned.config != segmenter.config
    for a, b in zip(outputs(loaded, images), outputs(pruned, images), strict=True):
        assert torch.equal(a, b)


def test_files_of_earlier_versions_still_load(
    segmenter: Segmenter, images: Tensor, tmp_path: Path
) -> None:
    """They named the widths of each block beside its weights."""
    pruned = prune(segmenter, *choice(segmenter, images))
    heads, blocks = [b.num_heads for b in pruned.encoder.blocks], pruned.encoder.blocks
    config = json.loads(config_to_json(pruned.config))
    config["encoder"] |= {
        "head_dims": [b.output.in_features // n for b, n in zip(blocks, heads, strict=True)],
        "mlp_dims": [b.expand.out_features for b in blocks],
    }
    path = tmp_path / "slim.safetensors"
    save_file(pruned.state_dict(), path, {SEGMENTER_KEY: json.dumps(config)})
    for a, b in zip(
        outputs(load_segmenter(checkpoint=path), images), outputs(pruned, images), strict=True
    ):
        assert torch.equal(a, b)


def test_widths_that_do_not_fit_together_are_refused(
    segmenter: Segmenter, images: Tensor, tmp_path: Path
) -> None:
    pruned = prune(segmenter, *choice(segmenter, images))
    state = pruned.state_dict()
    state["encoder.blocks.1.contract.weight"] = state["encoder.blocks.1.contract.weight"][:, 1:]
    path = tmp_path / "slim.safetensors"
    save_file(
        {name: x.contiguous() for name, x in state.items()},
        path,
        {SEGMENTER_KEY: config_to_json(pruned.config)},
    )
    with pytest.raises(InputError, match=r"1 of another shape: encoder\.blocks\.1\.contract"):
        load_segmenter(checkpoint=path)


def scores(*values: list[float]) -> Tensor:
    return torch.tensor(values)


def test_the_best_embedding_channels_stay_at_one_rate() -> None:
    torch.manual_seed(1)
    importances = [torch.rand(16), torch.rand(32)]
    kept = choose_embedding(importances, 0.5)
    for values, channels in zip(importances, kept, strict=True):
        assert channels.tolist() == sorted(values.argsort(descending=True)[: len(values) // 2])
    assert [len(c) for c in choose_embedding(importances, 0.01)] == [8, 16]
    assert [len(c) for c in choose_embedding(importances, 1.0)] == [16, 32]


def test_bottlenecks_compete_across_layers() -> None:
    """A layer of a few strong channels keeps those; the share of weights is held."""
    torch.manual_seed(2)
    flat, steep = torch.ones(64) + 0.01 * torch.rand(64), torch.rand(64) ** 8
    heads = [torch.rand(2, 8) for _ in range(2)]
    found = Importances([], query_key=heads, value=heads, mlp=[flat, steep])
    for ratio in (0.3, 0.5, 0.8):
        kept = choose_bottlenecks(found, [32, 32], ratio, rotary=False)
        spent = sum(4 * 2 * 32 * k.value.shape[1] + 2 * 32 * len(k.mlp) for k in kept)
        whole = 2 * (4 * 2 * 32 * 8 + 2 * 32 * 64)
        assert ratio - 0.1 < spent / whole <= ratio
        for values, k in zip(found.mlp, kept, strict=True):
            best = values.argsort(descending=True)[: len(k.mlp)]
            assert k.mlp.tolist() == sorted(best.tolist())
    assert len(kept[0].mlp) != len(kept[1].mlp)


def test_rotary_channels_go_in_pairs() -> None:
    qk = scores([0.0, 9.0, 1.0, 1.0, 3.0, 3.0, 0.0, 0.0])
    found = Importances([], query_key=[qk], value=[torch.arange(8.0)[None]], mlp=[torch.rand(8)])
    (kept,) = choose_bottlenecks(found, [8], 0.5, rotary=True)
    assert kept.query_key.tolist() == [[0, 1, 4, 5]]
    assert kept.value.tolist() == [[4, 5, 6, 7]]


@pytest.mark.parametrize("ratio", [0.0, 1.1, -1.0])
def test_impossible_shares_are_refused(ratio: float) -> None:
    with pytest.raises(InputError, match="at most 1"):
        choose_embedding([torch.ones(8)], ratio)


def test_blocks_without_attention_are_refused() -> None:
    config = segmenter_config("edgetam")
    encoder = RepViTConfig((1, 1, 2, 1), (8, 16, 24, 32))
    edge = Segmenter(replace(config, encoder=encoder, image_size=512))
    with pytest.raises(InputError, match="edgetam's encoder cannot be pruned: its blocks have no"):
        disturbed_importance(edge, torch.zeros(1, 3, 512, 512))
