"""Scripts written for SAM 2's image predictor and mask generator."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tempomask.compat.sam2 import AutomaticMaskGenerator, ImagePredictor
from tempomask.errors import InputError
from tempomask.model import Model, load
from tempomask.prompts import Prompt
from tempomask.rle import decode_rle

LOW = 32


@pytest.fixture(scope="module")
def model() -> Model:
    return load("nano", image_size=128, device="cpu", dtype="float32", engine="plain")


@pytest.fixture(scope="module")
def image() -> NDArray[np.uint8]:
    image = np.random.default_rng(0).integers(0, 60, (60, 80, 3)).astype(np.uint8)
    image[20:44, 24:52] = (220, 180, 60)
    return image


def test_predict(model: Model, image: NDArray[np.uint8]) -> None:
    predictor = ImagePredictor(model)
    predictor.set_image(image)
    points, labels = np.array([[38, 30]]), np.array([1])
    masks, scores, low = predictor.predict(point_coords=points, point_labels=labels)
    assert (
        masks.shape == (3, 60, 80) and masks.dtype == np.float32 and set(np.unique(masks)) == {0, 1}
    )
    assert scores.shape == (3,) and low.shape == (3, LOW, LOW)
    ours = model.image_session(image).candidates(Prompt(points=points))
    best = int(scores.argmax())
    np.testing.assert_array_equal(masks[best] > 0, ours[0].masks[0])
    again = predictor.predict(
        points, labels, mask_input=low[best][None], multimask_output=False, return_logits=True
    )
    assert again[0].shape == (1, 60, 80) and again[2].shape == (1, LOW, LOW)
    shares = predictor.predict(points / [80, 60], labels, normalize_coords=False)
    np.testing.assert_allclose(shares[1], scores, atol=1e-4)
    assert predictor.get_image_embedding().shape == (1, model.config.hidden_dim, 8, 8)


def test_several_boxes(model: Model, image: NDArray[np.uint8]) -> None:
    predictor = ImagePredictor(model)
    predictor.set_image(image)
    boxes = np.array([[24, 20, 52, 44], [2, 2, 30, 30]])
    masks, scores, low = predictor.predict(box=boxes, multimask_output=False)
    assert (
        masks.shape == (2, 1, 60, 80) and scores.shape == (2, 1) and low.shape == (2, 1, LOW, LOW)
    )
    alone, *_ = predictor.predict(box=boxes[0], multimask_output=False)
    np.testing.assert_array_equal(alone, masks[0])
    with pytest.raises(InputError, match="2 boxes .*1 objects"):
        predictor.predict(np.array([[5, 5]]), np.array([1]), box=boxes)


def test_a_mask_alone_gives_no_token(model: Model, image: NDArray[np.uint8]) -> None:
    """Unlike a mask in the video predictor, which comes with two tokens for no point."""
    predictor = ImagePredictor(model)
    predictor.set_image(image)
    logits = np.full((1, LOW, LOW), -10, np.float32)
    logits[:, 10:24, 10:21] = 10
    _, _, low = predictor.predict(mask_input=logits, multimask_output=False)
    network = model.segmenter
    with torch.no_grad():
        _, dense = network.prompt_encoder(
            torch.zeros(1, 1, 2), torch.zeros(1, 1), torch.from_numpy(logits)[None], 128
        )
        features = predictor.get_image_embedding()
        session = model.image_session(image)
        proposals = network.mask_decoder(
            features + dense,
            network.prompt_encoder.grid_position(8, 8),
            torch.zeros(1, 0, network.config.hidden_dim),
            session._encoded.high_resolution,
        )
    single = network.select(proposals, False, True, -float("inf")).logits[0]
    np.testing.assert_allclose(low, single.clamp(-32, 32).numpy(), atol=1e-4)


def test_batches(model: Model, image: NDArray[np.uint8]) -> None:
    predictor = ImagePredictor(model)
    with pytest.raises(InputError, match="set_image"):
        predictor.predict(np.array([[5, 5]]), np.array([1]))
    predictor.set_image_batch([image, image[:40]])
    points, labels = np.array([[38, 30]]), np.array([1])
    masks, scores, low = predictor.predict_batch([points] * 2, [labels] * 2)
    assert [mask.shape for mask in masks] == [(3, 60, 80), (3, 40, 80)]
    assert len(scores) == len(low) == 2
    predictor.reset_predictor()
    with pytest.raises(InputError, match="set_image"):
        predictor.get_image_embedding()


def test_the_generator(model: Model, image: NDArray[np.uint8]) -> None:
    settings = {"points_per_side": 4, "pred_iou_thresh": 0.3, "stability_score_thresh": 0.5}
    found = AutomaticMaskGenerator(model, **settings).generate(image)
    assert found
    for one in found:
        assert set(one) == {
            "segmentation", "area", "bbox", "predicted_iou", "point_coords", "stability_score",
            "crop_box",
        }  # fmt: skip
        assert one["segmentation"].shape == (60, 80) and one["segmentation"].sum() == one["area"]
        assert one["crop_box"] == [0, 0, 80, 60] and len(one["point_coords"]) == 1
        rows, columns = one["segmentation"].nonzero()
        x, y, width, height = one["bbox"]
        assert (x, y) == (columns.min(), rows.min())
        assert (x + width, y + height) == (columns.max(), rows.max())
    encoded = AutomaticMaskGenerator(model, output_mode="uncompressed_rle", **settings)
    for one, other in zip(encoded.generate(image), found, strict=True):
        np.testing.assert_array_equal(decode_rle(one["segmentation"]), other["segmentation"])
    with pytest.raises(InputError, match="output_mode"):
        AutomaticMaskGenerator(model, output_mode="text")  # type: ignore[arg-type]
