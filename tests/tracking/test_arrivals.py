"""What is found on a frame begins a track unless a live one has it; ids stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import supervision
from numpy.typing import NDArray

from tempomask.errors import InputError
from tempomask.model import Model
from tempomask.models.segmenter import Segmenter
from tempomask.prompts import Prompt
from tempomask.results import FrameArrays, FrameResult
from tempomask.tracking.arrivals import Arrivals, overlaps
from tempomask.tracking.options import TrackingOptions

Clip = Callable[..., list[NDArray[np.uint8]]]
HEIGHT, WIDTH = 48, 80


@pytest.fixture(scope="module")
def model(segmenter: Segmenter) -> Model:
    return Model(segmenter)


def square(x: int, y: int, side: int = 14) -> NDArray[np.bool_]:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y : y + side, x : x + side] = True
    return mask


def ids(results: Any) -> list[tuple[int, ...]]:
    return [result.object_ids for result in results]


def test_objects_arrive_and_keep_their_ids(model: Model, clip: Clip) -> None:
    found = {1: square(5, 8)[None], 3: np.stack([square(40, 20), square(60, 2)])}
    results = list(model.track(clip(5), detections=found))
    assert ids(results) == [(), (1,), (1,), (1, 2, 3), (1, 2, 3)]
    prompts = [
        Prompt(1, 1, mask=square(5, 8)),
        Prompt(3, 2, mask=square(40, 20)),
        Prompt(3, 3, mask=square(60, 2)),
    ]
    asked = list(model.track(clip(5), prompts, frames=range(5)))
    for one, other in zip(results, asked, strict=True):
        np.testing.assert_allclose(one.logits, other.logits, atol=1e-4)


def test_what_a_live_object_has_is_not_begun_again(model: Model, clip: Clip) -> None:
    first = list(model.track(clip(3), detections=[square(5, 8)[None]]))
    again = list(model.track(clip(3), detections=[square(5, 8)[None], first[1].masks]))
    assert first[1].masks.any() and ids(again) == [(1,)] * 3
    # Twice on one frame is once.
    twice = model.track(clip(2), detections=[np.stack([square(5, 8)] * 2)])
    assert ids(twice) == [(1,)] * 2


def test_every_form_of_what_is_found(model: Model, clip: Clip) -> None:
    box = np.array([[5, 8, 21, 22], [40, 20, 60, 40]], float)
    masks = np.stack([square(5, 8), square(40, 20)])
    forms: list[Any] = [
        supervision.Detections(xyxy=box),
        supervision.Detections(xyxy=box, mask=masks),
        box,
        box.tolist(),
        masks,
    ]
    for form in forms:
        results = model.track(
            clip(2), detections=lambda index, _, form=form: None if index else form
        )
        assert ids(results) == [(1, 2)] * 2
    nothing: list[Any] = [supervision.Detections.empty(), np.zeros((0, 4)), [], None]
    assert ids(model.track(clip(4), detections=nothing)) == [()] * 4


def test_prompts_and_detections_together(model: Model, clip: Clip) -> None:
    prompt = Prompt(1, 7, box=(5, 8, 21, 22))
    results = model.track(clip(3), prompt, detections={0: square(40, 20)[None]})
    assert ids(results) == [(8,), (8, 7), (8, 7)]


def test_objects_out_of_sight_make_room(model: Model, clip: Clip) -> None:
    places = [square(2, 2), square(30, 2), square(60, 2), square(2, 30)]
    frames = [clip(1)[0]] * 4
    full = Arrivals({t: place[None] for t, place in enumerate(places)}, most=2)
    results = list(model.track(frames, detections=full))
    assert all(len(result.object_ids) <= 2 for result in results)
    seen = sorted({i for result in results for i in result.object_ids})
    assert seen == list(range(1, len(seen) + 1))


def test_a_resumed_run_goes_on_with_the_same_ids(model: Model, clip: Clip) -> None:
    found = {0: square(5, 8)[None], 2: square(40, 20)[None], 4: square(60, 30)[None]}
    whole = list(model.track(clip(6), detections=found))
    tracks = model.track(clip(6), detections=found)
    for _ in range(3):
        next(tracks)
    rest = list(model.track(clip(6), detections=found, state=tracks.state()))
    assert ids(rest) == ids(whole[3:])
    for one, other in zip(rest, whole[3:], strict=True):
        np.testing.assert_allclose(one.logits, other.logits, atol=1e-4)


def test_overlaps_of_boxes_and_masks() -> None:
    logits = np.where(np.stack([square(0, 0, 20), square(40, 20, 10)]), 1, -1).astype(np.float32)
    arrays = FrameArrays(logits, np.ones(2, np.float32), np.ones(2, np.float32))
    result = FrameResult(0, (HEIGHT, WIDTH), (1, 2), arrays, np.zeros(0, bool))
    assert overlaps(Prompt(mask=square(0, 0, 10)), result).tolist() == [0.25, 0]
    assert overlaps(Prompt(box=(40, 20, 50, 30)), result).tolist() == [0, 1]


def test_bad_input_is_one_line(model: Model, clip: Clip) -> None:
    with pytest.raises(InputError, match="followed forward"):
        model.track(clip(2), detections=[None], direction="both")
    with pytest.raises(InputError, match="lookahead"):
        model.track(clip(2), detections=[None], options=TrackingOptions(lookahead=True))
    with pytest.raises(InputError, match="frame 0 .*shape"):
        next(model.track(clip(2), detections=[np.zeros((2, 3))]))
    with pytest.raises(InputError, match="80 x 48"):
        next(model.track(clip(2), detections=[[[90, 5, 99, 9]]]))
    with pytest.raises(InputError, match="overlap"):
        Arrivals([], overlap=0)
