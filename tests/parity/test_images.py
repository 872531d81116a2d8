"""Image sessions against transformers' Sam2Model: random weights, copied through the converter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tempomask.images.session import _network_input
from tempomask.model import Model
from tempomask.prompts import Prompt
from tempomask.results import FrameResult
from tempomask.weights import load_segmenter
from tests.parity.test_transformers_sam2 import SIDE, TOLERANCE, make_config, randomise

transformers = pytest.importorskip("transformers")

SIZES = [(72, 104), (90, 60)]
POINTS = np.array([[34.0, 32.0], [40.5, 20.0]], np.float32)
LABELS = np.array([1, 0])
BOX = np.array([18.0, 18.0, 50.0, 46.0], np.float32)


class Pair:
    """Our model and theirs with the same weights, and the two images."""

    def __init__(self, folder: Any) -> None:
        torch.manual_seed(0)
        video = transformers.Sam2VideoModel(make_config(full=False)).eval()
        randomise(video)
        video.save_pretrained(folder)
        config = transformers.Sam2Config(
            vision_config=video.config.vision_config,
            prompt_encoder_config=video.config.prompt_encoder_config,
            mask_decoder_config=video.config.mask_decoder_config,
        )
        config._attn_implementation = "eager"
        self.theirs = transformers.Sam2Model(config).eval()
        weights = self.theirs.state_dict()
        self.theirs.load_state_dict({name: video.state_dict()[name] for name in weights})
        self.ours = Model(load_segmenter(checkpoint=folder))
        rng = np.random.default_rng(0)
        self.images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in SIZES]
        inputs = [_network_input(image, self.ours.segmenter) for image in self.images]
        with torch.no_grad():
            self.embeddings = self.theirs.get_image_embeddings(torch.cat(inputs))

    def answer(self, image: int, multimask: bool, **prompts: Tensor) -> Any:
        """Theirs, from prompts in pixels of the network's input."""
        embeddings = [level[image : image + 1] for level in self.embeddings]
        with torch.no_grad():
            return self.theirs(image_embeddings=embeddings, multimask_output=multimask, **prompts)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(tmp_path_factory.mktemp("pair"))


def scaled(points: NDArray[np.float32], image: int) -> Tensor:
    height, width = SIZES[image]
    return torch.from_numpy(points.reshape(-1, 2) / np.float32([width, height])) * SIDE


def their_prompts(prompt: Prompt, image: int) -> dict[str, Tensor]:
    given = {}
    if prompt.points is not None:
        given["input_points"] = scaled(np.asarray(prompt.points), image)[None, None]
        given["input_labels"] = torch.from_numpy(np.array(prompt.labels))[None, None]
    if prompt.box is not None:
        given["input_boxes"] = scaled(np.asarray(prompt.box), image).reshape(1, 1, 4)
    return given


def assert_equal(ours: FrameResult, logits: Tensor, iou: Tensor) -> None:
    """ours: N objects; logits (N, h, w), iou (N,)."""
    difference = float((torch.from_numpy(ours.low_res_logits) - logits).abs().max())
    assert difference <= TOLERANCE and float(logits.std()) > 0.05
    assert float((torch.from_numpy(ours.predicted_iou) - iou).abs().max()) <= TOLERANCE


PROMPTS = {
    "point": Prompt(points=POINTS[:1]),
    "points": Prompt(points=POINTS, labels=LABELS),
    "box": Prompt(box=BOX),
    "box and points": Prompt(box=BOX, points=POINTS, labels=LABELS),
}


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
@pytest.mark.parametrize("image", [0, 1])
def test_clicks_and_boxes(pair: Pair, prompt: Prompt, image: int) -> None:
    """Of a batch of images encoded at once, single masks and three."""
    session = pair.ours.image_sessions(pair.images)[image]
    theirs = pair.answer(image, False, **their_prompts(prompt, image))
    single = session.segment(prompt, multimask=False)
    assert_equal(single, theirs.pred_masks[0, :, 0], theirs.iou_scores[0, :, 0])
    three = pair.answer(image, True, **their_prompts(prompt, image))
    order = three.iou_scores[0, 0].argsort(descending=True)
    for rank, result in enumerate(session.candidates(prompt)):
        chosen = order[rank : rank + 1]
        assert_equal(result, three.pred_masks[0, 0, chosen], three.iou_scores[0, 0, chosen])


@pytest.mark.parametrize("prompt", [None, *PROMPTS.values()], ids=["alone", *PROMPTS])
def test_logits_fed_back(pair: Pair, prompt: Prompt | None) -> None:
    session = pair.ours.image_session(pair.images[0])
    first = session.segment(PROMPTS["point"])
    fed_back = torch.from_numpy(first.low_res_logits)[None].clamp(-32, 32)
    given = {} if prompt is None else their_prompts(prompt, 0)
    theirs = pair.answer(0, False, input_masks=fed_back, **given)
    if prompt is None:
        decoded = session.decode(mask_prompt=fed_back, multimask=False)
        assert float((decoded.logits[0] - theirs.pred_masks[0, :, 0]).abs().max()) <= TOLERANCE
        return
    result = session.segment(prompt, previous=first, multimask=False)
    assert_equal(result, theirs.pred_masks[0, :, 0], theirs.iou_scores[0, :, 0])


def test_a_mask_is_a_hint_in_logits(pair: Pair) -> None:
    """Where the mask has the network's resolution, it needs no resizing."""
    image = np.zeros((SIDE // 4, SIDE // 4, 3), np.uint8)
    image[8:20, 6:22] = 200
    mask = image[..., 0] > 0
    session = pair.ours.image_session(image)
    logits = torch.from_numpy(mask).float()[None, None] * 20 - 10
    with torch.no_grad():
        theirs = pair.theirs(
            pixel_values=_network_input(image, pair.ours.segmenter),
            input_masks=logits,
            multimask_output=False,
        )
    result = session.segment(Prompt(mask=mask), multimask=False)
    assert_equal(result, theirs.pred_masks[0, :, 0], theirs.iou_scores[0, :, 0])


def test_several_objects_at_once(pair: Pair) -> None:
    session = pair.ours.image_session(pair.images[0])
    prompts = [
        Prompt(object_id=7, points=POINTS[:1]),
        Prompt(object_id=3, box=BOX),
        Prompt(object_id=5, points=POINTS[1:]),
    ]
    together = session.segment(prompts)
    assert together.object_ids == (7, 3, 5)
    assert together.logits.shape == (3, *SIZES[0])
    for row, prompt in enumerate(prompts):
        alone = session.segment(prompt)
        np.testing.assert_allclose(together.logits[row], alone.logits[0], atol=TOLERANCE)
