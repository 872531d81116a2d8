"""A tiny random network and tiny clips for the tracking tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tempomask.models.config import (
    HybridConfig,
    MaskDecoderConfig,
    MemoryAttentionConfig,
    SegmenterConfig,
)
from tempomask.models.segmenter import Segmenter

SIDE = 64
HEIGHT, WIDTH = 48, 80

CONFIG = SegmenterConfig(
    name="toy",
    encoder=HybridConfig(dim=32, num_heads=2, depth=2),
    image_size=SIDE,
    hidden_dim=32,
    memory_dim=16,
    memory_attention=MemoryAttentionConfig(layers=1, feedforward_dim=32),
    mask_decoder=MaskDecoderConfig(num_heads=4, feedforward_dim=32, iou_hidden_dim=16),
)


def make_segmenter(image_keys: bool = False, pointer_time: bool = True) -> Segmenter:
    """A network whose random weights are large enough for every input to matter."""
    torch.manual_seed(0)
    config = replace(
        CONFIG,
        pointer_temporal_encoding=pointer_time,
        memory_attention=replace(CONFIG.memory_attention, image_keys=image_keys),
    )
    segmenter = Segmenter(config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in segmenter.named_parameters():
            if name.startswith("neck") or "cross_attention.key" in name:
                parameter.mul_(6.0)
            elif "mask_downsampler.layers.12" in name or "cross_attention.output" in name:
                parameter.mul_(10.0)
            elif "no_" in name or "occlusion" in name or "memory_temporal" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
            elif parameter.ndim > 1 and not name.startswith("encoder"):
                parameter.mul_(2.0)
        # Objects are present unless the scene says otherwise very loudly.
        segmenter.mask_decoder.object_score_head.layers[-1].bias.fill_(3.0)
    return segmenter


class ArraySource:
    """Frames in memory, as a source that can or cannot be read in any order."""

    def __init__(self, frames: Sequence[NDArray[np.uint8]], seekable: bool = True) -> None:
        self._frames = frames
        self.seekable = seekable
        self.size = (frames[0].shape[0], frames[0].shape[1])
        self.num_frames = len(frames) if seekable else None

    def frames(
        self, start: int = 0, end: int | None = None
    ) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        for index in range(
            start, len(self._frames) if end is None else min(end, len(self._frames))
        ):
            yield index, self._frames[index]

    def reversed_frames(self, start: int, end: int = 0) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        for index in range(start, end - 1, -1):
            yield index, self._frames[index]


@pytest.fixture(scope="session")
def source() -> type[ArraySource]:
    return ArraySource


@pytest.fixture(scope="session")
def segmenter() -> Segmenter:
    return make_segmenter()


@pytest.fixture(scope="session")
def segmenter_with_image_keys() -> Segmenter:
    return make_segmenter(image_keys=True)


@pytest.fixture(scope="session")
def segmenter_without_pointer_time() -> Segmenter:
    return make_segmenter(pointer_time=False)


@pytest.fixture(scope="session")
def clip() -> Callable[..., list[NDArray[np.uint8]]]:
    """clip(length, seed=0): frames (48, 80, 3) of a bright square that moves over noise."""

    def make(length: int, seed: int = 0) -> list[NDArray[np.uint8]]:
        rng = np.random.default_rng(seed)
        background = rng.integers(0, 120, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        frames = []
        for t in range(length):
            frame = background.copy()
            x, y = 5 + 2 * (t % 25), 8 + t % 20
            frame[y : y + 14, x : x + 16] = rng.integers(150, 255, (14, 16, 3), dtype=np.uint8)
            frames.append(frame)
        return frames

    return make
