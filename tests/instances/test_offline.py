"""The temporal refiner track by track and frame by frame, and sessions that answer at the end."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tempomask.errors import InputError
from tempomask.instances.model import InstanceModel
from tempomask.instances.options import PROTOCOL
from tempomask.instances.session import (
    class_probabilities,
    network_image,
    network_size,
    upsampled,
)
from tempomask.models.instances.config import InstanceConfig
from tempomask.models.instances.refiner import RefinerLayer
from tempomask.models.instances.segmenter import InstanceSegmenter

MakeConfig = Callable[..., InstanceConfig]
KINDS = {"dvis-plus": {"tracker": True}, "dvis": {"dvis": True}}
SIZE, COUNT = (64, 96), 5


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def segmenter(request: pytest.FixtureRequest, instance_config: MakeConfig) -> InstanceSegmenter:
    torch.manual_seed(0)
    made = InstanceSegmenter(instance_config(offline=True, **request.param)).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return made


def images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (*SIZE, 3)).astype(np.uint8) for _ in range(COUNT)]


def naive_near(layer: RefinerLayer, x: Tensor) -> Tensor:
    """The convolutions on one track (T, D), frame by frame; the end frames go on beyond."""

    def convolved(x: Tensor, convolution: torch.nn.Conv1d) -> Tensor:
        reach, last = convolution.kernel_size[0] // 2, len(x) - 1
        rows = []
        for t in range(len(x)):
            seen = [x[min(max(t + o, 0), last)] for o in range(-reach, reach + 1)]
            parts = [convolution.weight[..., o] @ each for o, each in enumerate(seen)]
            rows.append(sum(parts) + convolution.bias)
        return torch.stack(rows)

    first, _, second = layer.near
    return convolved(convolved(x, first).relu(), second)  # type: ignore[arg-type]


def naive_layer(layer: RefinerLayer, tracks: Tensor, queries: Tensor) -> Tensor:
    """One video: tracks and queries (T, Q, D)."""
    columns = []
    for track in tracks.unbind(1):
        x = layer.time_attention(track[None])[0]
        columns.append(layer.near_norm(x + naive_near(layer, x)))
    rows = []
    for frame, seen in zip(torch.stack(columns, dim=1), queries, strict=True):
        x = layer.track_attention(frame[None])
        attended = layer.cross_attention(x, seen[None], seen[None])
        rows.append(layer.feed_forward(layer.cross_norm(x + attended))[0])
    return torch.stack(rows)


@torch.no_grad()
def test_the_refiner_track_by_track(segmenter: InstanceSegmenter) -> None:
    refiner = segmenter.refiner
    assert refiner is not None
    width = refiner.norm.weight.shape[0]
    tracks, queries = torch.randn(2, 2, COUNT, 7, width)
    got = refiner(tracks, queries)
    for video in range(2):
        x = tracks[video]
        for layer in refiner.layers:
            x = naive_layer(layer, x, queries[video])  # type: ignore[arg-type]
        x = refiner.norm(x)
        torch.testing.assert_close(got[video], x, atol=1e-4, rtol=1e-3)
        weights = F.softmax(refiner.frame_weight(x)[..., 0], dim=0)
        fused = sum(weights[t][:, None] * x[t] for t in range(COUNT))
        classes = refiner.classes(got)[video]
        torch.testing.assert_close(classes, refiner.class_head(fused), atol=1e-4, rtol=1e-3)


@torch.no_grad()
def by_hand(segmenter: InstanceSegmenter) -> tuple[Tensor, list[Tensor], Tensor]:
    """Class logits of a video, mask logits of each frame, the online logits' mean."""
    state, seen = None, []
    for image in images():
        pixels = network_image(image, network_size(SIZE, segmenter.config), torch.device("cpu"))
        frame, next_state = segmenter.step(pixels, state)
        found, state = segmenter.collect(pixels, state)
        torch.testing.assert_close(found.online.class_logits, frame.predictions.class_logits)
        torch.testing.assert_close(state.tracker.outputs, next_state.tracker.outputs)
        seen.append(found)
    refiner = segmenter.refiner
    assert refiner is not None
    refined = refiner(
        torch.stack([f.tracks for f in seen], 1), torch.stack([f.queries for f in seen], 1)
    )
    masks = [refiner.masks(refined[:, t], f.mask_features)[0] for t, f in enumerate(seen)]
    online = torch.stack([f.online.class_logits[0] for f in seen]).mean(0)
    return refiner.classes(refined)[0], masks, online


def test_results_come_after_the_whole_video(segmenter: InstanceSegmenter) -> None:
    model = InstanceModel(segmenter)
    classes, masks, online = by_hand(segmenter)
    tracks = model.track(images(), options=PROTOCOL)
    results, summary = list(tracks), tracks.summary()
    assert [result.index for result in results] == list(range(COUNT))
    for result, expected in zip(results, masks, strict=True):
        pixels = (upsampled(expected, SIZE, SIZE) > 0).numpy()
        assert len(result.masks) == len(pixels) == 7
        # Features were kept in half precision.
        for mask in result.masks:
            assert (pixels == mask).mean(axis=(1, 2)).max() > 0.995
    expected = np.maximum(class_probabilities(classes.numpy()), class_probabilities(online.numpy()))
    order = np.argsort(expected.max(1))
    found = np.array([track.class_scores for track in summary.tracks])
    np.testing.assert_allclose(found[np.argsort(found.max(1))], expected[order], atol=1e-4)


def test_what_an_offline_model_cannot_do(segmenter: InstanceSegmenter) -> None:
    model = InstanceModel(segmenter)
    with pytest.raises(InputError, match="tiny .*last frame"):
        model.session()
    session = model.offline_session()
    with pytest.raises(InputError, match="take all"):
        session.step(images()[0])
    with pytest.raises(InputError, match="whole video"):
        session.state()
    assert list(session.results()) == []
    session.take(images()[0])
    with pytest.raises(InputError, match="96 x 64|64"):
        session.take(np.zeros((32, 32, 3), np.uint8))
    assert len(list(session.results())) == 1


def test_an_online_model_has_no_offline_session(instance_config: MakeConfig) -> None:
    model = InstanceModel(InstanceSegmenter(instance_config(tracker=True)))
    with pytest.raises(InputError, match="tiny has no refiner"):
        model.offline_session()
