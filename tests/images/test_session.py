"""Image sessions of every kind of model, and what they refuse."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tempomask.errors import InputError
from tempomask.io.images import save_png
from tempomask.model import Model, load
from tempomask.models.config import HieraConfig, segmenter_config
from tempomask.models.segmenter import Segmenter
from tempomask.prompts import Prompt
from tempomask.routing.static import StaticPlan
from tempomask.tracking.options import TrackingOptions


@pytest.fixture(scope="module")
def model() -> Model:
    return load("nano", image_size=128, device="cpu", dtype="float32")


def scene(size: tuple[int, int] = (60, 80)) -> NDArray[np.uint8]:
    """A bright square on a dark ground."""
    image = np.full((*size, 3), 30, np.uint8)
    image[20:44, 24:52] = (220, 180, 60)
    return image


def test_nano_finds_the_square(model: Model, tmp_path: Path) -> None:
    truth = scene()[..., 0] > 100
    save_png(tmp_path / "photo.png", scene())
    result = model.segment(tmp_path / "photo.png", Prompt(box=(24, 20, 52, 44)))
    assert result.masks.shape == (1, 60, 80)
    overlap = (result.masks[0] & truth).sum() / (result.masks[0] | truth).sum()
    assert overlap > 0.8


@pytest.mark.parametrize(
    "name", ["sam2.1-tiny", "sam2-tiny", "efficienttam-ti-512", "edgetam", "nano"]
)
def test_every_kind_of_model(name: str) -> None:
    torch.manual_seed(0)
    config = segmenter_config(name)
    if isinstance(config.encoder, HieraConfig):
        config = replace(config, encoder=replace(config.encoder, embed_dim=16))
    size = config.size_multiple if config.perceiver else 32
    network = Model(Segmenter(config.with_image_size(2 * size)).eval())
    image = network.image_session(scene())
    first = image.segment(Prompt(points=[(38, 30)]))
    three = image.candidates(Prompt(points=[(38, 30)]))
    assert len(three) == 3
    scores = [float(result.predicted_iou[0]) for result in three]
    assert scores == sorted(scores, reverse=True)
    again = image.segment(Prompt(points=[(38, 30), (2, 2)], labels=[1, 0]), previous=first)
    assert again.logits.shape == (1, 60, 80) and np.isfinite(again.logits).all()


@pytest.mark.parametrize("name", ["sam2.1-tiny", "efficienttam-ti-512", "nano"])
def test_an_image_is_a_first_frame(name: str) -> None:
    """Where nothing has to be resized, clicks and boxes give the masks of a video's first frame."""
    torch.manual_seed(0)
    config = segmenter_config(name)
    if isinstance(config.encoder, HieraConfig):
        config = replace(config, encoder=replace(config.encoder, embed_dim=16))
    network = Model(Segmenter(config.with_image_size(64)).eval())
    network.segmenter.mask_decoder.object_score_head.layers[-1].bias.data.fill_(9.0)
    image = scene((64, 64))
    options = TrackingOptions(dynamic_multimask=True)
    for given in ({"points": [(38, 30)]}, {"box": (24, 20, 52, 44)}):
        session = network.session(options=options)
        session.prompt(**given)
        frame, alone = session.step(image), network.segment(image, Prompt(**given))
        np.testing.assert_allclose(alone.logits, frame.logits, atol=1e-5)
        np.testing.assert_allclose(alone.predicted_iou, frame.predicted_iou, atol=1e-5)
        assert frame.logits.std() > 1e-3


def test_a_list_of_images_is_one_batch(model: Model) -> None:
    images = [scene(), scene((72, 66))]
    prompts = [Prompt(frame=1, box=(24, 20, 52, 44)), Prompt(frame=0, points=[(38, 30)])]
    results = model.segment(images, prompts)
    assert [result.index for result in results] == [0, 1]
    for result, image, prompt in zip(results, images, prompts[::-1], strict=True):
        alone = model.segment(image, replace(prompt, frame=0))
        np.testing.assert_allclose(result.logits, alone.logits, atol=1e-3)


def test_blocks_are_chosen_as_for_a_frame(model: Model) -> None:
    whole = model.segment(scene(), Prompt(points=[(38, 30)]))
    encoder = model.segmenter.encoder
    policy = StaticPlan(
        sorted({*range(0, encoder.num_blocks, 2), *encoder.required_blocks}), encoder
    )
    few = model.segment(scene(), Prompt(points=[(38, 30)]), routing=policy)
    assert whole.blocks.all() and not few.blocks.all() and few.blocks.any()


def test_bad_input_is_one_line(model: Model) -> None:
    image = model.image_session(scene())
    with pytest.raises(InputError, match="80 x 60"):
        image.segment(Prompt(points=[(200, 5)]))
    with pytest.raises(InputError, match="no prompt given"):
        image.segment([])
    with pytest.raises(InputError, match="only clicks off it"):
        image.segment(Prompt(points=[(5, 5)], labels=[0]))
    with pytest.raises(InputError, match="2 images"):
        model.segment([scene(), scene()], [Prompt(points=[(5, 5)])])
    with pytest.raises(InputError, match="give a result of this image"):
        other = model.segment(scene((40, 40)), Prompt(points=[(5, 5)]))
        image.segment(Prompt(points=[(5, 5)]), previous=other)
    with pytest.raises(InputError, match="shape"):
        model.image_session(np.zeros((4, 4), np.uint8))
