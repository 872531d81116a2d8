"""Named configurations: the published sizes, and which image sizes they take."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tempomask.errors import InputError
from tempomask.models.config import (
    SEGMENTERS,
    HieraConfig,
    MemoryForm,
    PerceiverConfig,
    ViTConfig,
    segmenter_config,
)
from tempomask.models.hiera import Hiera
from tempomask.models.vit import ViT

# Table of the SAM 2 release: blocks, first channels, blocks that pool, global blocks, stage ends.
HIERAS = {
    "tiny": (12, 96, {1, 3, 10}, {5, 7, 9}, (0, 2, 9, 11)),
    "small": (16, 96, {1, 3, 14}, {7, 10, 13}, (0, 2, 13, 15)),
    "base-plus": (24, 112, {2, 5, 21}, {12, 16, 20}, (1, 4, 20, 23)),
    "large": (48, 144, {2, 8, 44}, {23, 33, 43}, (1, 7, 43, 47)),
}
# Window of each block of tiny: a stage's first block still has the window of the stage before.
TINY_WINDOWS = [8, 8, 4, 4, 14, 0, 14, 0, 14, 0, 14, 7]
NAMES = {
    "nano",
    "edgetam",
    *(f"{v}-{size}" for v in ("sam2", "sam2.1") for size in HIERAS),
    *(
        f"efficienttam-{s}{p}{r}"
        for s in ("s", "ti")
        for p in ("", "-1", "-2")
        for r in ("", "-512")
    ),
}


def test_the_names_are_those_promised() -> None:
    assert set(SEGMENTERS) == NAMES
    assert all(config.name == name for name, config in SEGMENTERS.items())


@pytest.mark.parametrize("size", HIERAS)
def test_hiera_sizes(size: str) -> None:
    config = SEGMENTERS[f"sam2.1-{size}"].encoder
    assert isinstance(config, HieraConfig)
    with torch.device("meta"):
        encoder = Hiera(config)
    blocks, channels, required, everywhere, ends = HIERAS[size]
    assert encoder.num_blocks == blocks and encoder.patch_channels == channels
    assert encoder.channels == (channels, 2 * channels, 4 * channels, 8 * channels)
    assert encoder.required_blocks == required and encoder.feature_blocks == ends
    windows = [block.window_size for block in encoder.blocks]
    assert {i for i, window in enumerate(windows) if window == 0} == everywhere
    assert [block.pool for block in encoder.blocks] == [i in required for i in range(blocks)]
    if size == "tiny":
        assert windows == TINY_WINDOWS


@pytest.mark.parametrize(("size", "dim", "heads"), [("s", 384, 6), ("ti", 192, 3)])
def test_vit_sizes(size: str, dim: int, heads: int) -> None:
    config = SEGMENTERS[f"efficienttam-{size}"].encoder
    assert isinstance(config, ViTConfig)
    with torch.device("meta"):
        encoder = ViT(config)
    assert encoder.channels == (dim,) and encoder.num_blocks == 12
    assert not encoder.required_blocks
    everywhere = [i for i, block in enumerate(encoder.blocks) if block.window_size == 0]
    assert everywhere == [2, 5, 8, 11]
    assert {block.num_heads for block in encoder.blocks} == {heads}


def test_versions_differ_in_what_2_1_added() -> None:
    for size in HIERAS:
        older, newer = SEGMENTERS[f"sam2-{size}"], SEGMENTERS[f"sam2.1-{size}"]
        assert older.encoder == newer.encoder
        assert newer.occlusion_embedding and newer.pointer_temporal_encoding
        assert not older.occlusion_embedding and not older.pointer_temporal_encoding


@pytest.mark.parametrize(
    ("name", "pooling", "size"),
    [
        ("efficienttam-s", "none", 1024),
        ("efficienttam-s-1", "eq5", 1024),
        ("efficienttam-ti-2", "eq6", 1024),
        ("efficienttam-ti-512", "none", 512),
        ("efficienttam-s-2-512", "eq6", 512),
    ],
)
def test_suffixes_of_efficienttam(name: str, pooling: str, size: int) -> None:
    config = SEGMENTERS[name]
    assert (config.memory_attention.pooling, config.image_size) == (pooling, size)
    assert not config.high_resolution


def test_a_perceiver_leaves_nothing_to_pool() -> None:
    config = SEGMENTERS["edgetam"]
    assert config.memory_shape == (64, 256 + 16 * 16, 1)
    with pytest.raises(InputError, match="edgetam"):
        config.with_memory(MemoryForm())


@pytest.mark.parametrize("window", [0, 3, True, "2"])
def test_windows_are_those_that_divide_the_grid(window: Any) -> None:
    with pytest.raises(InputError, match=r"window .*\(1, 2, 4\)"):
        MemoryForm(window=window)


def test_forms_of_memory_attention() -> None:
    config = SEGMENTERS["nano"].with_memory(MemoryForm("eq6", 4, pointers=False))
    attention = config.memory_attention
    assert (attention.pooling, attention.window, attention.pointers) == ("eq6", 4, False)
    assert attention.image_keys and config.size_multiple == 64
    assert attention.form == "eq6, windows of 4, no pointers"
    assert SEGMENTERS["nano"].memory_attention.form == "none"
    with pytest.raises(InputError, match="416 .*nano.* 384 or 448"):
        config.with_image_size(416)
    with pytest.raises(InputError, match="at least one token of each kind"):
        PerceiverConfig(grid=0)


@pytest.mark.parametrize("name", sorted(NAMES))
@given(image_size=st.integers(-64, 2100))
def test_image_sizes(name: str, image_size: int) -> None:
    config = SEGMENTERS[name]
    step = (
        16 if name.startswith("efficienttam") and config.memory_attention.pooling == "none" else 32
    )
    # A window of the perceiver for each of 16 x 16 tokens.
    step = 256 if name == "edgetam" else step
    if image_size >= 2 * step and image_size % step == 0:
        assert config.with_image_size(image_size).image_size == image_size
        return
    with pytest.raises(InputError) as caught:
        config.with_image_size(image_size)
    message = str(caught.value)
    assert f"image_size {image_size} does not fit {name}" in message
    # The sizes that the message proposes are accepted, and near.
    proposed = [int(word) for word in message.split("instance ")[1].split(" or ")]
    for size in proposed:
        assert config.with_image_size(size).image_size == size
    assert image_size < 2 * step or proposed == [image_size // step * step + k for k in (0, step)]


@pytest.mark.parametrize(
    ("name", "near"),
    [("sam2.1_tiny", "sam2.1-tiny"), ("sam2.1-larg", "sam2.1-large"), ("nan", "nano")],
)
def test_unknown_names_are_answered_with_near_ones(name: str, near: str) -> None:
    with pytest.raises(InputError, match=f"'{name}'; .*{near}"):
        segmenter_config(name)
