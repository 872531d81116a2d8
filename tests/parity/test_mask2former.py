"""Mask2Former against transformers' own: random weights, copied through the real key tables.

Every parameter is random, also those that start at zero or one, so that each one matters.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from tempomask.models.instances.config import InstanceConfig
from tempomask.models.instances.segmenter import InstanceSegmenter
from tempomask.weights.instances import load_instance_segmenter
from tempomask.weights.mask2former import (
    DETECTRON2,
    TRANSFORMERS_MASK2FORMER,
    published,
)

transformers = pytest.importorskip("transformers")

STAGES = ["stage1", "stage2", "stage3", "stage4"]
# Windows of 4 on maps of 6 x 10, 3 x 5: they have to be padded, and shifted.
HEIGHT, WIDTH, FRAMES = 96, 160, 3
TOLERANCE = 1e-4


class Twins(NamedTuple):
    theirs: Any
    config: InstanceConfig
    ours: InstanceSegmenter


def backbone_config(swin: bool) -> Any:
    if swin:
        return transformers.SwinConfig(
            embed_dim=12,
            depths=[2, 1, 2, 2],
            num_heads=[1, 2, 3, 4],
            window_size=4,
            out_features=STAGES,
        )
    return transformers.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[16, 32, 48, 64],
        depths=[1, 2, 1, 1],
        layer_type="bottleneck",
        out_features=STAGES,
    )


def make_theirs(swin: bool) -> Any:
    torch.manual_seed(3)
    config = transformers.Mask2FormerConfig(
        backbone_config=backbone_config(swin),
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=16,
        encoder_layers=2,
        decoder_layers=5,
        num_attention_heads=4,
        dim_feedforward=16,
        num_queries=7,
        id2label={0: "cat", 1: "dog", 2: "fox"},
        label2id={"cat": 0, "dog": 1, "fox": 2},
    )
    model = transformers.Mask2FormerForUniversalSegmentation(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 or "relative_position" in name:
                parameter.normal_(std=0.3)
            if "mask_embedder" in name or "mask_projection" in name:
                parameter.normal_(std=0.2)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(std=0.2)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2.0)
    return model


@pytest.fixture(scope="module", params=[False, True], ids=["r50", "swin"])
def twins(request: pytest.FixtureRequest, instance_config: Callable[..., InstanceConfig]) -> Twins:
    theirs = make_theirs(request.param)
    config = instance_config(swin=request.param)
    ours = InstanceSegmenter(config).eval()
    ours.load_state_dict(TRANSFORMERS_MASK2FORMER.to_ours(published(theirs.state_dict())))
    return Twins(theirs, config, ours)


def frames() -> Tensor:
    return torch.randn(FRAMES, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(5))


def assert_close(actual: Tensor, wanted: Tensor) -> None:
    """Equal to the tolerance, as a share of the largest value where that is above 1."""
    assert actual.shape == wanted.shape
    largest = max(1.0, wanted.abs().max().item())
    assert (actual - wanted).abs().max().item() < TOLERANCE * largest


def test_the_names_are_theirs(twins: Twins) -> None:
    names = set(published(twins.theirs.state_dict()))
    assert set(TRANSFORMERS_MASK2FORMER.to_theirs(twins.ours.state_dict())) == names


@torch.no_grad()
def test_frame_by_frame_equals_transformers(twins: Twins) -> None:
    for frame in frames():
        wanted = twins.theirs(frame[None])
        network = twins.ours.network
        decoded = network.decode(network.encode(frame[None]))
        assert wanted.masks_queries_logits.std() > 0.1
        assert_close(decoded.predictions.class_logits, wanted.class_queries_logits)
        assert_close(decoded.predictions.mask_logits, wanted.masks_queries_logits)
        last = wanted.transformer_decoder_last_hidden_state
        assert_close(decoded.queries, last.reshape(decoded.queries.shape))
        assert decoded.ran.tolist() == [[1, 1, 1, 1]]


@torch.no_grad()
def test_every_layer_predicts_what_transformers_layers_predict(twins: Twins) -> None:
    batch = frames()
    wanted = twins.theirs(batch, output_auxiliary_logits=True).auxiliary_logits
    network = twins.ours.network
    features = network.encode(batch)
    decoded = network.decode(features)
    assert len(wanted) == len(decoded.intermediate) - 1
    for theirs, queries in zip(wanted, decoded.intermediate, strict=False):
        ours = network.query_decoder.predict(queries, features.mask_features)
        assert_close(ours.class_logits, theirs["class_queries_logits"])
        assert_close(ours.mask_logits, theirs["masks_queries_logits"])


@torch.no_grad()
def test_a_saved_folder_loads_with_its_configuration(twins: Twins, tmp_path: Path) -> None:
    twins.theirs.save_pretrained(tmp_path)
    segmenter = load_instance_segmenter(checkpoint=tmp_path).segmenter
    assert segmenter.config.backbone == twins.config.backbone
    assert segmenter.config.query_decoder == twins.config.query_decoder
    assert segmenter.config.pixel_decoder == twins.config.pixel_decoder
    assert segmenter.config.classes == ("cat", "dog", "fox")
    image = frames()[:1]
    ours, _ = segmenter.step(image, None)
    assert_close(ours.predictions.mask_logits, twins.theirs(image).masks_queries_logits)


def test_both_layouts_lead_back(twins: Twins) -> None:
    state = twins.ours.state_dict()
    for layout in (TRANSFORMERS_MASK2FORMER, DETECTRON2):
        back = layout.to_ours(layout.to_theirs(state))
        assert back.keys() == state.keys()
        assert all(torch.equal(back[name], state[name]) for name in state)
