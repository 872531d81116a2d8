"""Adapters: on which layers, how many parameters, and merged as unmerged."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tempomask.adaptation.lora import (
    adapted_layers,
    add_lora,
    export_lora,
    lora_parameters,
    merge_lora,
    suitable_rank,
)
from tempomask.errors import InputError
from tempomask.models.config import segmenter_config
from tempomask.models.segmenter import Segmenter

peft = pytest.importorskip("peft")

# I-LoRA's choice for SAM 2's large encoder (supplement of RDS, B.2).
PUBLISHED = (0, 2, 4, 5, 8, 10, *range(12, 18), 20, 21, *range(23, 28), *range(43, 48))


def trained(segmenter: Segmenter, blocks: tuple[int, ...] = (1, 4)) -> list[torch.nn.Parameter]:
    """Adapters with other than their initial weights."""
    parameters = add_lora(segmenter.encoder, blocks, rank=3, scale=2, seed=1)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return parameters


def image() -> Tensor:
    return torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))


def test_only_the_chosen_layers_are_adapted(segmenter: Segmenter) -> None:
    before = segmenter.encode(image()).features
    expected = lora_parameters(segmenter.encoder, (1, 4), 3)
    parameters = add_lora(segmenter.encoder, (1, 4), rank=3)
    names = {n for n, p in segmenter.encoder.named_parameters() if p.requires_grad}
    wrapped = {name.split(".lora_")[0] for name in names}
    layers = "qkv", "output", "expand", "contract"
    assert wrapped == {f"blocks.{i}.{layer}" for i in (1, 4) for layer in layers}
    assert all("lora_" in name for name in names)
    assert sum(p.numel() for p in parameters) == expected
    # An adapter starts as nothing.
    assert torch.allclose(segmenter.encode(image()).features, before, atol=1e-6)


def test_merged_equals_unmerged(segmenter: Segmenter) -> None:
    plain = Segmenter(segmenter.config).eval()
    plain.load_state_dict(segmenter.state_dict())
    untouched = plain.encode(image()).features
    trained(segmenter)
    with torch.no_grad():
        unmerged = segmenter.encode(image()).features
    tensors = export_lora(segmenter.encoder)
    assert len(tensors) == 2 * len(adapted_layers(segmenter.encoder, (1, 4)))
    merge_lora(plain.encoder, {**tensors, "router.head.bias": torch.zeros(3)})
    with torch.no_grad():
        merged = plain.encode(image()).features
    assert torch.allclose(merged, unmerged, atol=1e-5)
    assert not torch.allclose(merged, untouched, atol=1e-3)


def test_gradients_reach_the_adapters_and_nothing_else(segmenter: Segmenter) -> None:
    parameters = trained(segmenter)
    segmenter.encode(image()).features.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in parameters)
    frozen = [p for p in segmenter.encoder.parameters() if not p.requires_grad]
    assert frozen and all(p.grad is None for p in frozen)


def test_the_same_seed_the_same_adapters(segmenter: Segmenter, other_model: Segmenter) -> None:
    first = add_lora(segmenter.encoder, (1,), rank=2, seed=7)
    state = torch.random.get_rng_state()
    second = add_lora(other_model.encoder, (1,), rank=2, seed=7)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(state, torch.random.get_rng_state()), "other draws are left alone"


def test_the_papers_parameters() -> None:
    """Rank 32 on the published blocks gives the 7.6 M of Table 1, 3.4% of the network."""
    with torch.device("meta"):
        large = Segmenter(segmenter_config("sam2.1-large"))
        nano = Segmenter(segmenter_config("nano"))
    total = sum(p.numel() for p in large.parameters())
    assert suitable_rank(large.encoder, PUBLISHED, total) == 32
    assert lora_parameters(large.encoder, PUBLISHED, 32) == pytest.approx(7.6e6, rel=0.01)
    total = sum(p.numel() for p in nano.parameters())
    blocks = range(nano.encoder.num_blocks // 2)
    rank = suitable_rank(nano.encoder, blocks, total)
    assert 0.02 < lora_parameters(nano.encoder, blocks, rank) / total < 0.06
    with pytest.raises(InputError, match="adapters need a block to stand on"):
        suitable_rank(nano.encoder, [], total)
    width = nano.encoder.channels[-1]
    assert width / 2 < suitable_rank(nano.encoder, [0], 10**9) <= width


@pytest.mark.parametrize(
    "tensors",
    [
        {"lora.blocks.1.qkv.down": torch.zeros(2, 31), "lora.blocks.1.qkv.up": torch.zeros(96, 2)},
        {"lora.blocks.1.qkv.down": torch.zeros(2, 32), "lora.blocks.1.qkv.up": torch.zeros(96, 3)},
        {"lora.blocks.1.qkv.down": torch.zeros(2, 32)},
        {"lora.blocks.9.qkv.down": torch.zeros(2, 32), "lora.blocks.9.qkv.up": torch.zeros(96, 2)},
    ],
    ids=["width", "rank", "half", "block"],
)
def test_what_does_not_fit_is_refused_and_nothing_merged(
    segmenter: Segmenter, tensors: dict[str, Tensor]
) -> None:
    good = {
        "lora.blocks.0.qkv.down": torch.ones(2, 32),
        "lora.blocks.0.qkv.up": torch.ones(96, 2),
    }
    before = segmenter.encoder.blocks[0].qkv.weight.clone()  # type: ignore[union-attr]
    with pytest.raises(InputError, match="does not fit this encoder"):
        merge_lora(segmenter.encoder, {**good, **tensors})
    assert torch.equal(segmenter.encoder.blocks[0].qkv.weight, before)  # type: ignore[union-attr]


def test_a_rank_of_nothing_is_refused(segmenter: Segmenter) -> None:
    with pytest.raises(InputError, match="got 0"):
        add_lora(segmenter.encoder, (1,), rank=0)
