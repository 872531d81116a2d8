"""The networks of instance segmentation: attention, routing seams, both trackers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from tempomask.instances.query_routing import FixedLayers, QueryRouterConfig, TemporalQueryRouter
from tempomask.models.instances.config import NANO_VIS, NANO_VIS_DVIS, InstanceConfig
from tempomask.models.instances.deformable_attention import (
    DeformableAttention,
    sample_grids,
    sample_rows,
)
from tempomask.models.instances.dvis import ReferringLayer, ReferringTracker
from tempomask.models.instances.minvis import in_order, match_queries
from tempomask.models.instances.pixel_decoder import cell_places
from tempomask.models.instances.segmenter import CarriedState, InstanceSegmenter

MakeConfig = Callable[..., InstanceConfig]
KINDS = ["minvis", "dvis-plus", "dvis"]
# A shipped file holds two bytes for each number of a matrix, and may have 8 MB.
SHIPPED_BYTES = 8_000_000


def build(config: InstanceConfig) -> InstanceSegmenter:
    torch.manual_seed(1)
    return InstanceSegmenter(config).eval()


def image(seed: int = 0, batch: int = 1) -> Tensor:
    return torch.randn(batch, 3, 64, 96, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 12))
def test_matching_undoes_a_shuffle(seed: int, number: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    previous = torch.randn(2, number, 8, generator=generator)
    shuffle = torch.stack([torch.randperm(number, generator=generator) for _ in range(2)])
    current = in_order(previous, shuffle) + 0.01 * torch.randn(2, number, 8, generator=generator)
    order = match_queries(previous, 3 * current)
    assert torch.equal(in_order(shuffle, order), torch.arange(number).expand(2, -1))


def test_matching_survives_an_empty_embedding() -> None:
    previous = torch.eye(3)[None]
    current = previous.clone()
    current[0, 1] = float("nan")
    assert sorted(match_queries(previous, current)[0].tolist()) == [0, 1, 2]


def test_deformable_attention_equals_sampling_point_by_point() -> None:
    torch.manual_seed(0)
    heads, dim, points = 2, 4, 3
    module = DeformableAttention(dim, heads, points)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    sizes = [(2, 3), (4, 5), (6, 7)]
    places = cell_places(sizes, torch.device("cpu"))
    cells, query = torch.randn(1, len(places), dim), torch.randn(1, len(places), dim)
    result = module(query, cells, places, sizes)
    with torch.no_grad():
        # The way without a backward pass, as in inference on a CPU.
        torch.testing.assert_close(module(query, cells, places, sizes), result)
    values = module.value(cells)[0].view(-1, heads, dim // heads)
    starts = [0, 6, 26]
    for cell in (0, 11, 40):
        offsets = module.offsets(query[0, cell]).view(heads, 3, points, 2)
        weights = module.weights(query[0, cell]).view(heads, 3 * points).softmax(-1)
        mixed = torch.zeros(heads, dim // heads)
        for head in range(heads):
            for level, (height, width) in enumerate(sizes):
                for point in range(points):
                    x, y = (
                        places[cell] * torch.tensor([width, height]) + offsets[head, level, point]
                    )
                    share = weights[head, level * points + point]
                    for row in range(height):
                        for column in range(width):
                            near = (1 - (x - column - 0.5).abs()).clamp(min=0) * (
                                1 - (y - row - 0.5).abs()
                            ).clamp(min=0)
                            value = values[starts[level] + row * width + column, head]
                            mixed[head] += share * near * value
        torch.testing.assert_close(result[0, cell], module.output(mixed.flatten()))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    batch=st.integers(1, 2),
    sides=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 5)), min_size=3, max_size=3),
    reach=st.sampled_from([0.0, 0.7, 30.0]),
)
def test_sampling_rows_equals_sampling_grids(
    seed: int, batch: int, sides: list[tuple[int, int]], reach: float
) -> None:
    torch.manual_seed(seed)
    places = cell_places(sides, torch.device("cpu"))
    number, heads, width, points = len(places), 3, 2, 2
    values = torch.randn(batch, number, heads, width)
    offsets = reach * torch.randn(batch, number, heads, 3, points, 2)
    weights = torch.rand(batch, number, heads, 3, points)
    found, wanted = (
        sample(values, offsets, weights, places, sides) for sample in (sample_rows, sample_grids)
    )
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_attention_masks_equal_masks_resized_afterwards(instance_config: MakeConfig) -> None:
    """Mask2Former makes the masks at full size and resizes them; here the features are resized."""
    network = build(instance_config()).network
    features = network.encode(image())
    decoder = network.query_decoder
    queries = torch.randn(1, 7, 32)
    full = decoder.predict(queries, features.mask_features).mask_logits
    for level, map_ in zip(decoder._levels(features), features.levels, strict=True):
        mask = decoder._attention_mask(queries, level.mask_features)[:, 0]
        resized = F.interpolate(full, map_.shape[-2:], mode="bilinear").flatten(2)
        blocked = (resized.sigmoid() < 0.5) & ~(resized.sigmoid() < 0.5).all(-1, keepdim=True)
        assert torch.equal(mask == float("-inf"), blocked)


def test_a_query_without_a_mask_attends_everywhere(instance_config: MakeConfig) -> None:
    decoder = build(instance_config()).network.query_decoder
    mask = decoder._attention_mask(torch.randn(1, 7, 32), torch.zeros(1, 32, 4, 6) - 0.0)
    assert torch.isfinite(mask).all()


@torch.no_grad()
@pytest.mark.parametrize("count", [1, 2, 4])
def test_fixed_layers_leave_the_other_modules_alone(
    instance_config: MakeConfig, count: int
) -> None:
    network = build(instance_config()).network
    calls: list[int] = []
    for index, layer in enumerate(network.query_decoder.layers):
        layer.register_forward_hook(lambda *_, index=index: calls.append(index))
    features = network.encode(image())
    decoded = network.decode(features, FixedLayers(count, 4))
    assert calls == list(range(count))
    assert decoded.ran.tolist() == [[1.0] * count + [0.0] * (4 - count)]
    # What is left out changes nothing: the queries are those of the last layer that ran.
    everything = network.decode(features)
    torch.testing.assert_close(decoded.queries, everything.intermediate[count])


@torch.no_grad()
@pytest.mark.parametrize("tracker", [False, True], ids=["minvis", "dvis"])
def test_a_routed_video_runs_fewer_layers_after_its_first_frame(
    instance_config: MakeConfig, tracker: bool
) -> None:
    segmenter = build(instance_config(tracker=tracker))
    router = TemporalQueryRouter(QueryRouterConfig(dim=32, layers=4, hidden_dim=8, num_heads=2))
    router.eval()
    for module in router.routers:
        module.score.bias.copy_(torch.tensor([9.0, 0.0]))
    state, ran = None, []
    for seed in range(3):
        frame, state = segmenter.step(image(seed), state, router)
        ran.append(int(frame.ran.sum()))
    assert ran == [4, 1, 1]


@torch.no_grad()
@pytest.mark.parametrize("kind", [{}, {"tracker": True}, {"dvis": True}], ids=KINDS)
def test_a_new_video_knows_nothing_of_the_last(
    instance_config: MakeConfig, kind: dict[str, bool]
) -> None:
    segmenter = build(instance_config(**kind))
    alone, _ = segmenter.step(image(7), None)
    _, state = segmenter.step(image(1), None)
    # Tracks that end where others began, so that following them changes what is predicted.
    turned = type(state.tracker)(*(x.flip(1) for x in state.tracker))
    followed, _ = segmenter.step(image(7), CarriedState(state.queries, turned))
    again, _ = segmenter.step(image(7), None)
    assert torch.equal(alone.predictions.class_logits, again.predictions.class_logits)
    assert not torch.equal(alone.predictions.class_logits, followed.predictions.class_logits)


@torch.no_grad()
@pytest.mark.parametrize(
    "kind",
    [{}, {"tracker": True}, {"dvis": True}, {"memory": True}],
    ids=[*KINDS, "ctvis"],
)
def test_videos_side_by_side_equal_videos_alone(
    instance_config: MakeConfig, kind: dict[str, bool]
) -> None:
    segmenter = build(instance_config(**kind))
    state, alone = None, [None, None]
    for t in range(2):
        images = image(t, batch=2)
        both, state = segmenter.step(images, state)
        for video in range(2):
            one, alone[video] = segmenter.step(images[video : video + 1], alone[video])  # type: ignore[call-overload]
            for ours, theirs in zip(both.predictions, one.predictions, strict=True):
                torch.testing.assert_close(ours[video], theirs[0], atol=1e-4, rtol=1e-3)


@torch.no_grad()
def test_minvis_keeps_the_order_when_the_queries_are_shuffled(instance_config: MakeConfig) -> None:
    segmenter = build(instance_config())
    _, state = segmenter.step(image(1), None)
    straight, _ = segmenter.step(image(1), state)
    decoder = segmenter.network.query_decoder
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    decoder.query_features.copy_(decoder.query_features[order].clone())
    decoder.query_positions.copy_(decoder.query_positions[order].clone())
    shuffled, _ = segmenter.step(image(1), state)
    for ours, theirs in zip(shuffled.predictions, straight.predictions, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)


def test_the_referring_layer_keeps_the_identity_in_its_residual(
    instance_config: MakeConfig,
) -> None:
    """Against torch's own attention: query = reference, key = value = the frame's queries."""
    config = instance_config(tracker=True)
    assert config.referring_tracker is not None
    torch.manual_seed(0)
    layer = ReferringLayer(64, config.referring_tracker)
    identity, reference, queries = torch.randn(3, 1, 7, 64)
    attention = torch.nn.MultiheadAttention(64, 4, batch_first=True)
    ours = layer.cross_attention
    attention.load_state_dict(
        {
            "in_proj_weight": ours.input_weight,
            "in_proj_bias": ours.input_bias,
            "out_proj.weight": ours.output.weight,
            "out_proj.bias": ours.output.bias,
        }
    )
    x = F.layer_norm(identity + attention(reference, queries, queries)[0], (64,))
    wanted = layer.feed_forward(layer.self_attention(x))
    torch.testing.assert_close(layer(identity, reference, queries), wanted)


@torch.no_grad()
def test_the_referring_tracker_step_by_step(instance_config: MakeConfig) -> None:
    """The second frame, written out: what is matched, what asks, what answers, what predicts."""
    segmenter = build(instance_config(tracker=True))
    network, tracker = segmenter.network, segmenter.tracker
    assert isinstance(tracker, ReferringTracker)
    features = network.encode(image(1))
    first, second = network.decode(network.encode(image(0))), network.decode(features)
    referred, state = tracker.refer(first, None)
    assert referred.order.tolist() == [list(range(7))]
    plain = torch.cat([first.queries, tracker.reid_head(first.embeddings)], -1)
    x = tracker.layers[0](plain, tracker.reference_head(plain), plain)
    x = tracker.layers[1](x, tracker.reference_head(x), plain)
    torch.testing.assert_close(referred.outputs[-1], x)
    torch.testing.assert_close(referred.reference, tracker.reference_head(plain))

    reid = tracker.reid_head(second.embeddings)
    order = match_queries(state.embeddings, torch.cat([second.embeddings, reid], -1))
    plain = torch.cat([second.queries, reid], -1)
    reference = tracker.reference_head(x)
    y = in_order(plain, order)
    for layer in tracker.layers:
        y = layer(y, reference, plain)
    predictions, _ = tracker.step(second, features, state)
    embeddings = tracker.norm(y)
    torch.testing.assert_close(
        predictions.class_logits, tracker.class_head(torch.cat([reference, embeddings], -1))
    )
    masks = torch.einsum(
        "bqc,bchw->bqhw",
        tracker.mask_head(embeddings),
        tracker.mask_projection(features.mask_features),
    )
    torch.testing.assert_close(predictions.mask_logits, masks)


@torch.no_grad()
def test_dvis_s_tracker_step_by_step(instance_config: MakeConfig) -> None:
    """Two frames, written out: only normed queries, the last outputs ask as they are."""
    segmenter = build(instance_config(dvis=True))
    network, tracker = segmenter.network, segmenter.tracker
    assert isinstance(tracker, ReferringTracker)
    features = network.encode(image(1))
    first, second = network.decode(network.encode(image(0))), network.decode(features)
    x = first.embeddings
    for layer in tracker.layers:
        x = layer(x, x, first.embeddings)
    _, state = tracker.step(first, network.encode(image(0)), None)
    torch.testing.assert_close(state.outputs, x)

    order = match_queries(first.embeddings, second.embeddings)
    y = in_order(second.embeddings, order)
    for layer in tracker.layers:
        y = layer(y, x, second.embeddings)
    predictions, _ = tracker.step(second, features, state)
    embeddings = tracker.norm(y)
    torch.testing.assert_close(predictions.class_logits, tracker.class_head(embeddings))
    masks = torch.einsum("bqc,bchw->bqhw", tracker.mask_head(embeddings), features.mask_features)
    torch.testing.assert_close(predictions.mask_logits, masks)


def test_nano_vis_has_nine_layers_and_fits_the_package() -> None:
    with torch.device("meta"):
        segmenter = InstanceSegmenter(NANO_VIS)
        router = TemporalQueryRouter(QueryRouterConfig(dim=NANO_VIS.hidden_dim, hidden_dim=64))
    assert len(segmenter.network.query_decoder.layers) == 9
    numbers = [*segmenter.parameters(), *router.parameters()]
    size = sum(x.numel() * (2 if x.ndim > 1 else 4) for x in numbers)
    assert size < SHIPPED_BYTES
    assert NANO_VIS_DVIS.tracker == "dvis"
