"""A small encoder and a way to see what its blocks compute."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tempomask.models.config import HieraConfig, HybridConfig
from tempomask.models.encoder import Encoder
from tempomask.models.hiera import Hiera
from tempomask.models.hybrid import HybridEncoder

Work = dict[str, list[int]]


@pytest.fixture(params=["hybrid", "hiera"])
def encoder(request: pytest.FixtureRequest) -> Encoder:
    torch.manual_seed(0)
    if request.param == "hybrid":
        return HybridEncoder(HybridConfig(dim=16, num_heads=2, depth=5)).eval()
    return Hiera(
        HieraConfig(
            embed_dim=8,
            stages=(1, 2, 3, 1),
            global_attention_blocks=(4,),
            window_sizes=(4, 4, 2, 2),
        )
    ).eval()


@pytest.fixture
def images() -> Tensor:
    """Three that differ much, so that routers tell them apart."""
    noise = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    return (
        noise * torch.tensor([0.2, 1.0, 3.0])[:, None, None, None] + torch.eye(3)[..., None, None]
    )


@pytest.fixture
def work_of() -> Callable[[Encoder], Work]:
    """A watch on an encoder: rows (tokens, or samples for qkv) that each block's layers see."""

    def watch(encoder: Encoder) -> Work:
        seen: Work = {"samples": [0] * encoder.num_blocks, "tokens": [0] * encoder.num_blocks}

        def note(kind: str, index: int) -> Callable[..., None]:
            def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
                x = inputs[0]
                count = x.shape[0] if kind == "samples" else x.numel() // x.shape[-1]
                seen[kind][index] += count

            return hook

        for index, block in enumerate(encoder.blocks):
            block.attention_norm.register_forward_hook(note("samples", index))
            block.expand.register_forward_hook(note("tokens", index))
        return seen

    return watch
