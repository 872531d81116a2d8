"""The router of RDS: K, what it sees, and that it tells frames apart from the start."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import tempomask
from tempomask.errors import InputError
from tempomask.io.video import open_video
from tempomask.models.config import HIERA_SIZES, VIT_SIZES, HybridConfig
from tempomask.models.encoder import Encoder, KeepPlan, Policy
from tempomask.models.hiera import Hiera
from tempomask.models.hybrid import HybridEncoder
from tempomask.models.vit import ViT
from tempomask.ops.normalise import normalise
from tempomask.routing.predictive import MaskHistory, PredictiveRouter, RouterConfig
from tempomask.tracking.frames import resize_frame
from tempomask.weights import load_segmenter

CONFIG = RouterConfig(num_blocks=6, channels=8, mask_stride=4, always_on=(0, 5))


def make_router(config: RouterConfig = CONFIG) -> PredictiveRouter:
    """Weights large enough for every input to matter."""
    torch.manual_seed(0)
    router = PredictiveRouter(config)
    with torch.no_grad():
        router.head.weight.mul_(10)
    return router


def embedding(batch: int = 2, side: int = 8) -> Tensor:
    return torch.randn(batch, side, side, 8, generator=torch.Generator().manual_seed(batch))


def masks(batch: int = 2, frames: int = 1) -> Tensor:
    return torch.randn(batch, frames, 16, 16, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda: Hiera(HIERA_SIZES["large"]), (0, 2, 8, 44, 47)),
        (lambda: Hiera(HIERA_SIZES["tiny"]), (0, 1, 3, 10, 11)),
        (lambda: ViT(VIT_SIZES["s"]), (0, 11)),
        (lambda: HybridEncoder(HybridConfig()), (0, 13)),
    ],
    ids=["hiera-large", "hiera-tiny", "vit", "nano"],
)
def test_what_always_runs_comes_from_the_encoder(build: object, expected: tuple[int, ...]) -> None:
    with torch.device("meta"):
        encoder: Encoder = build()  # type: ignore[operator]
        config = RouterConfig.for_encoder(encoder)
        router = PredictiveRouter(config)
    assert config.always_on == expected
    # Light: below half a percent of the smallest of these encoders.
    assert sum(p.numel() for p in router.parameters()) < 45_000


@pytest.mark.parametrize("inputs", ["both", "mask", "image"])
def test_the_router_sees_what_it_should(inputs: str) -> None:
    router = make_router(replace(CONFIG, inputs=inputs))  # type: ignore[arg-type]
    logits = router(embedding(), masks())
    assert logits.shape == (2, 6) and logits.dtype == torch.float32
    other_image = router(embedding() + torch.randn(2, 8, 8, 8), masks())
    other_mask = router(embedding(), -masks())
    assert torch.equal(logits, other_image) == (inputs == "mask")
    assert torch.equal(logits, other_mask) == (inputs == "image")
    # Logits of the mask are binarised at 0.
    assert torch.equal(logits, router(embedding(), masks() * 100))


@pytest.fixture(scope="module")
def clip_frames() -> tuple[Tensor, Tensor]:
    """Patch embeddings of nano's encoder and masks, of eight frames of the bundled clip."""
    clip = Path(tempomask.__file__).parent / "assets" / "clip"
    with np.load(clip / "masks.npz") as archive:
        masks = np.unpackbits(archive["packed"], axis=-1)[::12]
    with open_video(clip / "clip.mp4") as video:
        frames = [frame for index, frame in video.frames() if index % 12 == 0]
    seen: list[Tensor] = []

    class Watching(Policy):
        def plan(self, embedding: Tensor, previous_masks: Tensor | None) -> KeepPlan:
            seen.append(embedding)
            return KeepPlan([True] * encoder.num_blocks)

    encoder = load_segmenter("nano", image_size=128).encoder
    resized = torch.from_numpy(np.stack([resize_frame(frame, 128, "bicubic") for frame in frames]))
    with torch.no_grad():
        encoder(normalise(resized), Watching())
    return seen[0], torch.from_numpy(masks)[:, None].float() - 0.5


@pytest.mark.parametrize("seed", range(3))
def test_a_new_router_tells_the_frames_of_a_video_apart(
    clip_frames: tuple[Tensor, Tensor], seed: int
) -> None:
    embeddings, masks = clip_frames
    torch.manual_seed(seed)
    router = PredictiveRouter(RouterConfig(14, embeddings.shape[-1], 16, (0, 13)))
    with torch.no_grad():
        logits = router(embeddings, masks)
        assert logits.std(dim=0).mean() > 0.1
        # The mask is seen too, and no block is out of reach.
        assert (router(embeddings, masks.flip(3)) - logits).abs().mean() > 0.02
    assert (logits.sigmoid() - 0.5).abs().max() < 0.49


def test_a_router_of_the_first_version_is_as_it_was() -> None:
    """Its description says nothing of a version, of weights or of a temperature."""
    saved = {"num_blocks": 6, "channels": 8, "mask_stride": 4, "always_on": [0, 5]}
    saved |= {"hidden": 32, "inputs": "both", "mask_frames": 1}
    config = RouterConfig.from_settings(saved)
    assert (config.version, config.weights, config.temperature) == (1, "paper", 1.0)
    new = RouterConfig.from_settings(CONFIG.to_settings())
    assert new == CONFIG and new.version == 2
    with pytest.raises(TypeError):
        RouterConfig.from_settings({**saved, "version": 2, "colour": "red"})
    # Without normalisation, pooled features scale with their weights.
    torch.manual_seed(0)
    router = PredictiveRouter(config)
    before = router(embedding(), masks())
    with torch.no_grad():
        router.expand.weight.mul_(3)
    assert not torch.allclose(router(embedding(), masks()), before, atol=1e-3)


def test_neither_input_is_trained_through_the_router() -> None:
    x, m = embedding().requires_grad_(), masks().requires_grad_()
    make_router()(x, m).sum().backward()
    assert x.grad is None and m.grad is None


def test_every_part_of_the_router_learns() -> None:
    router = make_router()
    router(embedding(), masks()).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in router.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": "words"}, "inputs must be"),
        ({"mask_frames": 0}, "mask_frames must be"),
        ({"weights": "none"}, "weights must be free or paper, got 'none'"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"version": 9}, "of version 9; this release knows 1, 2: update it"),
    ],
)
def test_bad_configurations_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(CONFIG, **change)  # type: ignore[arg-type]


def test_the_history_holds_the_last_masks_newest_first() -> None:
    history = MaskHistory(3)
    seen = [
        history.push(torch.full((1, 1, 2, 2), float(t)))[1][0, :, 0, 0].tolist() for t in range(5)
    ]
    assert seen == [[0, 0, 0], [1, 0, 0], [2, 1, 0], [3, 2, 1], [4, 3, 2]]
    history.clear()
    assert history.push(torch.full((1, 1, 2, 2), 7.0))[1][0, :, 0, 0].tolist() == [7, 7, 7]


def test_the_history_leaves_out_masks_that_are_not_finite() -> None:
    """Two samples; nan stands for a mask of which one value is not finite."""
    nan = float("nan")
    history = MaskHistory(3)
    valid, seen = [], []
    for values in ((nan, 1.0), (2.0, nan), (3.0, nan), (nan, 4.0), (5.0, 5.0)):
        masks = torch.ones(2, 1, 2, 2) * torch.tensor(values).nan_to_num(9.0).view(2, 1, 1, 1)
        masks[torch.tensor(values).isnan(), 0, 0, 0] = nan
        used, last = history.push(masks)
        valid.append(used.tolist())
        seen.append(last[:, :, 1, 1].tolist())
        assert last.isfinite().all()
    assert valid == [[False, True], [True, False], [True, False], [False, True], [True, True]]
    assert [first for first, _ in seen] == [
        [-1, -1, -1], [2, 2, 2], [3, 2, 2], [3, 2, 2], [5, 3, 2],
    ]  # fmt: skip
    assert [second for _, second in seen] == [
        [1, 1, 1], [1, 1, 1], [1, 1, 1], [4, 1, 1], [5, 4, 1],
    ]  # fmt: skip


def test_four_masks_are_told_apart() -> None:
    router = make_router(replace(CONFIG, mask_frames=4))
    several = masks(frames=4)
    swapped = several[:, [1, 0, 2, 3]]
    assert not torch.equal(router(embedding(), several), router(embedding(), swapped))
