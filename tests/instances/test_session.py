"""The instance session on a segmenter that says what it is told: ids, scores, summary."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from tempomask.errors import InputError
from tempomask.instances.options import PROTOCOL, InstanceOptions
from tempomask.instances.session import (
    InstanceSession,
    class_probabilities,
    network_image,
    network_size,
    upsampled,
)
from tempomask.models.instances.config import InstanceConfig, QueryDecoderConfig, StemConfig
from tempomask.models.instances.minvis import MatchedState
from tempomask.models.instances.query_decoder import Predictions
from tempomask.models.instances.segmenter import CarriedState, InstanceSegmenter, TrackedFrame

HEIGHT, WIDTH = 64, 96
CONFIG = InstanceConfig(
    "told",
    StemConfig(),
    ("cat", "dog"),
    query_decoder=QueryDecoderConfig(layers=3, num_queries=4),
    short_side=64,
    long_side=96,
)
# Slot, class, logit, and the rows and columns of the mask on the 16 x 24 map.
Told = tuple[int, int, float, slice, slice]
LEFT, RIGHT = slice(0, 8), slice(16, 24)
ROWS = slice(4, 12)


class ToldSegmenter(InstanceSegmenter):
    """Predicts the given instances, frame after frame, and remembers what was carried to it."""

    def __init__(self, frames: list[list[Told]]) -> None:
        nn.Module.__init__(self)
        self.config = CONFIG
        self.frames = frames
        self.carried: list[int | None] = []
        self.network = nn.Module()  # type: ignore[assignment]
        self.network.query_decoder = nn.Module()  # type: ignore[assignment]
        self.network.query_decoder.query_features = nn.Parameter(torch.zeros(1))

    def step(self, image: Tensor, state: object, router: object = None) -> tuple:  # type: ignore[override]
        number = 0 if state is None else int(state.queries.item()) + 1  # type: ignore[attr-defined]
        self.carried.append(None if state is None else number - 1)
        classes = torch.zeros(1, 4, 3)
        classes[..., 2] = 6.0
        masks = torch.full((1, 4, 16, 24), -5.0)
        for slot, label, logit, rows, columns in self.frames[number % len(self.frames)]:
            classes[0, slot] = torch.tensor([0.0, 0.0, 0.0])
            classes[0, slot, label] = logit
            masks[0, slot, rows, columns] = 5.0
        ran = torch.tensor([[1.0, 1.0, float(number == 0)]])
        carried = CarriedState(torch.tensor(float(number)), MatchedState(torch.zeros(1)))
        return TrackedFrame(Predictions(classes, masks), ran), carried


def image() -> NDArray[np.uint8]:
    return np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)


def run(frames: list[list[Told]], count: int | None = None, **options: float) -> tuple:
    session = InstanceSession(ToldSegmenter(frames), options=InstanceOptions(**options))  # type: ignore[arg-type]
    results = [session.step(image()) for _ in range(count or len(frames))]
    return results, session.summary()


def cat(slot: int, columns: slice, logit: float = 6.0) -> Told:
    return (slot, 0, logit, ROWS, columns)


def dog(slot: int, columns: slice, logit: float = 6.0) -> Told:
    return (slot, 1, logit, ROWS, columns)


def test_ids_come_in_order_of_appearance_and_stay() -> None:
    results, summary = run(
        [[cat(3, LEFT)], [cat(3, LEFT), dog(0, RIGHT)], [dog(0, RIGHT)]], score_frames=1
    )
    assert [r.track_ids.tolist() for r in results] == [[1], [1, 2], [2]]
    assert [r.names for r in results] == [("cat",), ("cat", "dog"), ("dog",)]
    assert [r.index for r in results] == [0, 1, 2]
    tracks = [(t.track_id, t.label, t.first_frame, t.last_frame) for t in summary.tracks]
    assert tracks == [(1, 0, 0, 1), (2, 1, 1, 2)]


def test_an_id_survives_a_gap() -> None:
    results, summary = run([[cat(2, LEFT)], [], [], [cat(2, RIGHT)]], score_frames=1)
    assert [r.track_ids.tolist() for r in results] == [[1], [], [], [1]]
    assert summary.tracks[0].num_frames == 2


def test_masks_and_boxes_are_of_the_videos_size() -> None:
    (result,), _ = run([[cat(0, RIGHT)]])
    assert result.masks.shape == (1, HEIGHT, WIDTH)
    assert result.masks.dtype == bool
    inside = result.masks[0, 20:44, 68:96]
    assert inside.all()
    assert result.masks[0].sum() < 40 * 40
    x0, y0, x1, y1 = result.boxes[0]
    assert (x1, abs(x0 - 64) <= 2, abs(y0 - 16) <= 2, abs(y1 - 48) <= 2) == (96, True, True, True)


def test_scores_average_the_logits_of_the_last_frames() -> None:
    logits = [2.0, 4.0, 0.0, 3.0]
    results, _ = run([[cat(0, LEFT, x)] for x in logits], score_frames=3, min_score=0.01)
    for index, result in enumerate(results):
        mean = np.mean(logits[max(0, index - 2) : index + 1])
        wanted = np.exp(mean) / (np.exp(mean) + 2)
        assert result.scores[0] == pytest.approx(wanted, rel=1e-5)


def test_the_summary_averages_shown_frames_and_ranks_all_frames() -> None:
    _, summary = run([[cat(0, LEFT, 4.0)], []], score_frames=1)
    (track,) = summary.tracks
    assert track.score == pytest.approx(np.exp(4) / (np.exp(4) + 2), rel=1e-5)
    wanted = class_probabilities(np.array([[2.0, 0.0, 3.0]]))[0]
    np.testing.assert_allclose(track.class_scores, wanted, rtol=1e-5)
    # 8 x 8 cells of 4 x 4 pixels, their corners cut by the interpolation.
    assert 31 * 31 <= track.mean_area <= 33 * 33


def test_predictions_rank_pairs_of_track_and_class() -> None:
    frames = [[cat(0, LEFT, 3.0), dog(1, RIGHT, 5.0)]]
    session = InstanceSession(ToldSegmenter(frames), options=PROTOCOL)
    result = session.step(image())
    assert result.track_ids.tolist() == [1, 2, 3, 4]
    rows = session.summary().predictions(3)
    assert [row.label for row in rows[:2]] == [1, 0]
    assert [row.score for row in rows] == sorted((row.score for row in rows), reverse=True)
    assert len(session.summary().predictions(100)) == 4 * 2


def test_of_two_tracks_on_one_object_the_older_is_shown() -> None:
    frames = [[cat(0, LEFT, 3.0)], [cat(0, LEFT, 3.0), cat(1, LEFT, 6.0)]]
    results, _ = run(frames, score_frames=1)
    assert [r.track_ids.tolist() for r in results] == [[1], [1]]
    results, _ = run(frames, score_frames=1, max_overlap=1.0)
    assert results[1].track_ids.tolist() == [1, 2]
    other_class = [[cat(0, LEFT), dog(1, LEFT)]]
    assert len(run(other_class)[0][0]) == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_overlaps_are_counted_exactly_in_every_type(dtype: torch.dtype) -> None:
    """Counts of cells need more than the eight bits that autocast would leave of a product."""
    larger = (0, 0, 6.0, slice(0, 16), slice(0, 23))  # 368 cells
    smaller = (1, 0, 5.0, slice(0, 15), slice(0, 19))  # 285 of them; 284 in bfloat16
    for limit, shown in ((0.773, 1), (0.775, 2)):
        options = InstanceOptions(max_overlap=limit)
        session = InstanceSession(ToldSegmenter([[larger, smaller]]), options=options, dtype=dtype)
        for _ in range(2):
            assert len(session.step(image())) == shown


def test_a_video_without_detections_is_a_valid_empty_result() -> None:
    results, summary = run([[], []])
    for result in results:
        assert len(result) == 0
        assert result.masks.shape == (0, HEIGHT, WIDTH)
        assert result.boxes.shape == (0, 4)
        assert result.names == ()
    assert summary.tracks == ()
    assert summary.num_frames == 2
    assert summary.predictions() == []


def test_an_empty_mask_is_not_shown() -> None:
    (result,), _ = run([[cat(0, slice(0, 0))]])
    assert len(result) == 0


def test_the_summary_of_no_frames() -> None:
    summary = InstanceSession(ToldSegmenter([[]])).summary()
    assert (summary.num_frames, summary.tracks, summary.layers_run, summary.size) == (
        0,
        (),
        0,
        None,
    )


def test_layers_run_are_counted() -> None:
    results, summary = run([[]], count=4)
    assert [r.layers.tolist() for r in results][:2] == [[True] * 3, [True, True, False]]
    assert summary.layers_run == pytest.approx((3 + 2 * 3) / 4)


def test_queries_are_carried_to_the_next_frame_and_reset_between_videos() -> None:
    segmenter = ToldSegmenter([[cat(0, LEFT)], [dog(1, RIGHT)]])
    session = InstanceSession(segmenter)
    for _ in range(3):
        session.step(image())
    session.reset()
    assert session.step(image()).track_ids.tolist() == [1]
    assert session.summary().num_frames == 1
    assert segmenter.carried == [None, 0, 1, None]


def test_memory_does_not_grow_with_the_video() -> None:
    session = InstanceSession(ToldSegmenter([[cat(0, LEFT)], [dog(1, RIGHT)]]))

    def held() -> int:
        table = vars(session._tracks)
        arrays = [x for x in table.values() if isinstance(x, np.ndarray)]
        return sum(x.nbytes for x in arrays) + sum(x.nbytes for x in table["_recent"])

    sizes = []
    for frame in range(40):
        session.step(image())
        if frame >= 10:
            sizes.append(held())
    assert len(set(sizes)) == 1


def test_frames_of_another_size_are_refused() -> None:
    session = InstanceSession(ToldSegmenter([[]]))
    session.step(image())
    with pytest.raises(InputError, match="32 x 64 .*96 x 64"):
        session.step(np.zeros((64, 32, 3), dtype=np.uint8))
    with pytest.raises(InputError, match="shape"):
        session.step(np.zeros((64, 32), dtype=np.uint8))


@pytest.mark.parametrize(
    "options", [{"min_score": -0.1}, {"max_overlap": 1.5}, {"score_frames": 0}]
)
def test_bad_options(options: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        InstanceOptions(**options)  # type: ignore[arg-type]


@settings(deadline=None)
@given(st.integers(1, 3000), st.integers(1, 3000))
def test_the_network_sees_the_aspect_within_bounds(height: int, width: int) -> None:
    small, large = sorted(network_size((height, width), CONFIG))
    assert large <= CONFIG.long_side
    assert small <= CONFIG.short_side
    assert small == CONFIG.short_side or large == CONFIG.long_side or min(height, width) == 1


def test_the_image_is_padded_with_zeros_below_and_right() -> None:
    frame = np.full((50, 70, 3), 255, dtype=np.uint8)
    image = network_image(frame, (50, 70), torch.device("cpu"))
    assert image.shape == (1, 3, 64, 96)
    assert (image[:, :, :50, :70] > 0).all()
    assert (image[:, :, 50:] == 0).all()
    assert (image[:, :, :, 70:] == 0).all()


def test_masks_are_cut_to_the_image_before_they_are_resized() -> None:
    logits = torch.full((1, 16, 16), -1.0)
    logits[0, :, :12] = 1.0
    masks = upsampled(logits, (64, 48), (128, 96)) > 0
    # The last quarter of the 64 x 64 map is padding: the object fills what is left.
    assert masks.shape == (1, 128, 96)
    assert masks.all()
