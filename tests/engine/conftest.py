"""Tiny segmenters of every kind, in which each weight matters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from tempomask.models.config import (
    HieraConfig,
    HybridConfig,
    MaskDecoderConfig,
    MemoryAttentionConfig,
    PerceiverConfig,
    RepViTConfig,
    SegmenterConfig,
    ViTConfig,
)
from tempomask.models.segmenter import Segmenter

MakeTiny = Callable[..., Segmenter]
SIDE = 64
HIERA = HieraConfig(
    embed_dim=16, stages=(1, 2, 3, 1), global_attention_blocks=(4,), position_size=(5, 5)
)
VIT = ViTConfig(dim=32, num_heads=2, depth=3, global_attention_blocks=(1,), window_size=3)
HYBRID = HybridConfig(dim=32, num_heads=2, depth=3)


def config(name: str) -> SegmenterConfig:
    encoder, pooling = {
        "sam2": (HIERA, "none"),
        "efficienttam": (VIT, "none"),
        "efficienttam-eq5": (VIT, "eq5"),
        "efficienttam-eq6": (VIT, "eq6"),
        "efficienttam-eq5-1": (VIT, "eq5"),
        "sam2-no-pointers": (HIERA, "none"),
        "edgetam": (RepViTConfig((1, 1, 2, 1), (8, 16, 24, 32)), "none"),
        "nano": (HYBRID, "none"),
    }[name]
    return SegmenterConfig(
        name=name,
        encoder=encoder,
        image_size=SIDE,
        hidden_dim=32,
        memory_dim=16,
        perceiver=PerceiverConfig(1, 5, 2) if name == "edgetam" else None,
        high_resolution=not name.startswith("efficienttam"),
        memory_attention=MemoryAttentionConfig(
            layers=2,
            feedforward_dim=32,
            pooling=pooling,  # type: ignore[arg-type]
            image_keys=name == "nano",
            window=1 if name.endswith("-1") else 2,
            pointers=not name.endswith("no-pointers"),
        ),
        mask_decoder=MaskDecoderConfig(depth=1, num_heads=4, feedforward_dim=32, iou_hidden_dim=16),
    )


@pytest.fixture(scope="session")
def randomise() -> Callable[[Segmenter], Segmenter]:
    """Draws weights so that each changes the output: as initialised, several are nought."""

    def draw(segmenter: Segmenter) -> Segmenter:
        torch.manual_seed(0)
        with torch.no_grad():
            for name, parameter in segmenter.named_parameters():
                noise = torch.randn_like(parameter)
                if parameter.ndim < 2:
                    parameter.add_(0.1 * noise)
                elif "position" in name:
                    parameter.copy_(0.3 * noise)
                else:
                    parameter.copy_(noise / parameter[0].numel() ** 0.5)
            for name, buffer in segmenter.named_buffers():
                if "norm" in name:
                    buffer.add_(0.3 * torch.rand_like(buffer))
        return segmenter

    return draw


@pytest.fixture(params=["torch's kernels", "the other kernels"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both outcomes of `engine.choose`; attention to memories in several parts."""
    if request.param == "the other kernels":
        monkeypatch.setattr("tempomask.engine.packed._packs_float32", lambda: True)
        monkeypatch.setattr("tempomask.engine.memory_attention._narrow_is_faster", lambda _: True)
        monkeypatch.setattr("tempomask.engine.memory_attention.QUERIES", 5)
        monkeypatch.setattr("tempomask.engine.memory_attention.KEYS", 7)


@pytest.fixture(scope="session")
def tiny(randomise: Callable[[Segmenter], Segmenter]) -> MakeTiny:
    """tiny(name): "sam2", "efficienttam" (-eq5, -eq6), "edgetam", "nano"; weights are random.

    changes: of the configuration.
    """

    def make(name: str, **changes: Any) -> Segmenter:
        torch.manual_seed(0)
        segmenter = randomise(Segmenter(replace(config(name), **changes)).eval())
        # Objects are present, so that masks differ from one another.
        with torch.no_grad():
            segmenter.mask_decoder.object_score_head.layers[-1].bias.fill_(9.0)
        return segmenter

    return make


@pytest.fixture(scope="session")
def small(tiny: MakeTiny) -> MakeTiny:
    """As `tiny`, with one layer of memory attention and, of Hiera, fewer blocks: for tracing."""
    encoder = replace(HIERA, stages=(1, 1, 2, 1), global_attention_blocks=(3,))

    def make(name: str, **changes: Any) -> Segmenter:
        usual = config(name)
        changes.setdefault("memory_attention", replace(usual.memory_attention, layers=1))
        changes.setdefault("encoder", encoder if usual.encoder is HIERA else usual.encoder)
        return tiny(name, **changes)

    return make
