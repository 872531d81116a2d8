"""VideoAP against TrackEval, against COCO's evaluator on single frames, and against plain loops."""

from __future__ import annotations

import contextlib
import io
import math
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tempomask.errors import InputError
from tempomask.metrics.tube_overlap import boundary_tube, tube_areas, tube_overlaps
from tempomask.metrics.video_ap import (
    AREA_RANGES,
    RECALL_LEVELS,
    THRESHOLDS,
    PredictedTrack,
    TrueTrack,
    VideoAP,
)
from tempomask.rle import decode_rle, encode_rle

Videos = list[tuple[list[TrueTrack], list[PredictedTrack]]]


def random_videos(
    seed: int,
    *,
    videos: int = 4,
    classes: int = 2,
    length: int = 3,
    size: tuple[int, int] = (24, 32),
    crowds: bool = False,
) -> Videos:
    """True tracks, and predictions most of which are a shifted copy of one of them."""
    rng = np.random.default_rng(seed)
    made: Videos = []
    for _ in range(videos):
        truth = [
            TrueTrack(
                int(rng.integers(1, classes + 1)),
                random_tube(rng, length, size),
                is_crowd=crowds and bool(rng.random() < 0.3),
            )
            for _ in range(rng.integers(0, 5))
        ]
        predictions = []
        for _ in range(rng.integers(0, 9)):
            category = int(rng.integers(1, classes + 1))
            tube = random_tube(rng, length, size)
            if truth and rng.random() < 0.8:
                copied = truth[rng.integers(len(truth))]
                category = copied.category_id
                tube = shifted(copied.masks, int(rng.integers(0, 3)))
            # Two digits, so that equal scores come up.
            predictions.append(PredictedTrack(category, tube, round(float(rng.random()), 1)))
        made.append((truth, predictions))
    return made


def random_tube(rng: np.random.Generator, length: int, size: tuple[int, int]) -> list[Any]:
    tube: list[Any] = []
    for _ in range(length):
        if rng.random() < 0.2:
            tube.append(None)
            continue
        mask = np.zeros(size, dtype=bool)
        top, left = rng.integers(0, size[0] - 4), rng.integers(0, size[1] - 4)
        height, width = rng.integers(3, size[0] // 2), rng.integers(3, size[1] // 2)
        mask[top : top + height, left : left + width] = True
        tube.append(encode_rle(mask))
    return tube


def shifted(tube: Any, pixels: int) -> list[Any]:
    return [
        None if rle is None else encode_rle(np.roll(decode_rle(rle), pixels, axis=1))
        for rle in tube
    ]


def scores_of(videos: Videos, classes: int = 2) -> Any:
    metric = VideoAP(range(1, classes + 1))
    for truth, predictions in videos:
        metric.update(truth, predictions)
    return metric.compute()


def trackeval_scores(videos: Videos, classes: int, limit: int) -> dict[str, float]:
    """AP, AP50, AP75 and recall, and AP by area, from TrackEval's TrackMAP."""
    track_map = pytest.importorskip("trackeval").metrics.TrackMAP
    names = list(AREA_RANGES)[1:]
    with contextlib.redirect_stdout(io.StringIO()):
        metric = track_map(
            {
                "USE_AREA_RANGES": True,
                "AREA_RANGES": [list(AREA_RANGES[name]) for name in names],
                "AREA_RANGE_LABELS": names,
                "USE_TIME_RANGES": False,
                "IOU_THRESHOLDS": THRESHOLDS,
                "MAX_DETECTIONS": limit,
                "PRINT_CONFIG": False,
            }
        )
        by_class = {}
        for category in range(1, classes + 1):
            found = {
                str(number): metric.eval_sequence(trackeval_data(truth, predictions, category))
                for number, (truth, predictions) in enumerate(videos)
            }
            by_class[category] = metric.combine_sequences(found)
        combined = metric.combine_classes_class_averaged(by_class)
    values = {name: combined[f"AP_{name}"] for name in ("all", *names)}
    scores = {f"AP_{name}": float(np.mean(value)) for name, value in values.items()}
    return {
        **scores,
        "AP50": values["all"][0],
        "AP75": values["all"][5],
        "AR": float(np.mean(combined["AR_all"])),
    }


def trackeval_data(
    truth: list[TrueTrack], predictions: list[PredictedTrack], category: int
) -> dict[str, Any]:
    wanted = [track for track in truth if track.category_id == category]
    found = [track for track in predictions if track.category_id == category]
    found = sorted(found, key=lambda track: -track.score)
    # TrackEval takes the id 0 for no match.
    return {
        "gt_track_ids": list(range(1, len(wanted) + 1)),
        "dt_track_ids": list(range(1, len(found) + 1)),
        "gt_tracks": [dict(enumerate(track.masks)) for track in wanted],
        "dt_tracks": [dict(enumerate(track.masks)) for track in found],
        "gt_track_areas": [mean_area(track.masks) for track in wanted],
        "dt_track_areas": [mean_area(track.masks) for track in found],
        "gt_track_iscrowd": [track.is_crowd for track in wanted],
        "dt_track_scores": np.array([track.score for track in found]),
        "iou_type": "mask",
    }


def mean_area(tube: Any) -> float:
    areas = tube_areas(tube)
    return float(areas[areas > 0].mean()) if areas.any() else 0.0


def same(ours: float, theirs: float) -> bool:
    """TrackEval and COCO write -1 where there is nothing to find."""
    return math.isnan(ours) if theirs == -1 else math.isclose(ours, theirs, abs_tol=1e-12)


@pytest.mark.parametrize("seed", range(12))
def test_equals_trackeval(seed: int) -> None:
    videos = random_videos(seed)
    ours = scores_of(videos)
    for limit in (1, 10, 100):
        theirs = trackeval_scores(videos, 2, limit)
        assert same(ours.average_recall(limit), theirs["AR"]), limit
    assert same(ours.ap, theirs["AP_all"])
    assert same(ours.average_precision(threshold=0.5), theirs["AP50"])
    assert same(ours.average_precision(threshold=0.75), theirs["AP75"])


@pytest.mark.parametrize("seed", range(3))
def test_equals_trackeval_by_area(seed: int) -> None:
    """Masks on both sides of 128^2 and 256^2 pixels."""
    videos = random_videos(seed, videos=3, length=2, size=(640, 800))
    ours = scores_of(videos)
    theirs = trackeval_scores(videos, 2, 100)
    for area in AREA_RANGES:
        assert same(ours.average_precision(area), theirs[f"AP_{area}"]), area
    assert not math.isnan(ours.average_precision("large"))


@pytest.mark.parametrize("seed", range(6))
def test_equals_coco_on_single_frames(seed: int) -> None:
    videos = random_videos(seed, length=1)
    theirs = coco_scores(videos, 2)
    ours = scores_of(videos)
    assert same(ours.ap, theirs[0])
    assert same(ours.average_precision(threshold=0.5), theirs[1])
    assert same(ours.average_precision(threshold=0.75), theirs[2])
    for place, limit in enumerate((1, 10, 100), 6):
        assert same(ours.average_recall(limit), theirs[place]), limit


def coco_scores(videos: Videos, classes: int) -> Any:
    coco = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    images = [{"id": n, "height": 24, "width": 32} for n in range(1, len(videos) + 1)]
    annotations, results = [], []
    for number, (truth, predictions) in enumerate(videos, 1):
        for track in truth:
            if track.masks[0] is not None:
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": track.category_id,
                        "segmentation": track.masks[0],
                        "area": mean_area(track.masks),
                        "iscrowd": 0,
                    }
                )
        for track in predictions:
            if track.masks[0] is not None:
                results.append(
                    {
                        "image_id": number,
                        "category_id": track.category_id,
                        "segmentation": track.masks[0],
                        "score": track.score,
                    }
                )
        # A track that is never seen cannot be given to COCO.
        truth[:] = [track for track in truth if track.masks[0] is not None]
        predictions[:] = [track for track in predictions if track.masks[0] is not None]
    with contextlib.redirect_stdout(io.StringIO()):
        data = coco.COCO()
        categories = [{"id": c, "name": str(c)} for c in range(1, classes + 1)]
        data.dataset = {"images": images, "annotations": annotations, "categories": categories}
        data.createIndex()
        evaluator = cocoeval.COCOeval(data, data.loadRes(results), "segm")
        evaluator.params.areaRng = [list(limits) for limits in AREA_RANGES.values()]
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator.stats


def plain_ap(videos: Videos, classes: int) -> float:
    """AP of all areas by the protocol's text, one prediction at a time."""
    values = []
    for category in range(1, classes + 1):
        for threshold in THRESHOLDS:
            rows: list[tuple[float, bool]] = []
            count = 0
            for truth, predictions in videos:
                wanted = [track for track in truth if track.category_id == category]
                wanted.sort(key=lambda track: track.is_crowd)
                count += sum(not track.is_crowd for track in wanted)
                free = set(range(len(wanted)))
                found = [track for track in predictions if track.category_id == category]
                for track in sorted(found, key=lambda track: -track.score):
                    best, best_overlap = None, threshold
                    for place, true in enumerate(wanted):
                        if place not in free:
                            continue
                        if best is not None and true.is_crowd and not wanted[best].is_crowd:
                            break
                        overlap = plain_overlap(track.masks, true.masks)
                        if overlap >= best_overlap:
                            best, best_overlap = place, overlap
                    if best is None:
                        rows.append((track.score, False))
                    elif not wanted[best].is_crowd:
                        free.discard(best)
                        rows.append((track.score, True))
            if count:
                values.append(plain_curve(rows, count))
    return float(np.mean(values)) if values else math.nan


def plain_overlap(left: Any, right: Any) -> float:
    shared = either = 0
    for first, second in zip(left, right, strict=True):
        shape = (first or second or {"size": [1, 1]})["size"]
        one, two = (np.zeros(shape, bool) if r is None else decode_rle(r) for r in (first, second))
        shared, either = shared + (one & two).sum(), either + (one | two).sum()
    return shared / either if either else 0.0


def plain_curve(rows: list[tuple[float, bool]], count: int) -> float:
    rows = sorted(rows, key=lambda row: -row[0])
    points = []
    right = 0
    for rank, (_, hit) in enumerate(rows, 1):
        right += hit
        points.append((right / count, right / rank))
    highest = [
        max((precision for recall, precision in points if recall >= level), default=0.0)
        for level in RECALL_LEVELS
    ]
    return sum(highest) / len(highest)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_equals_plain_loops_with_crowds(seed: int) -> None:
    videos = random_videos(seed, videos=2, length=2, size=(12, 14), crowds=True)
    ours, plain = scores_of(videos).ap, plain_ap(videos, 2)
    assert (math.isnan(ours) and math.isnan(plain)) or math.isclose(ours, plain, abs_tol=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_overlap_counts_pixels(seed: int, noisy: bool) -> None:
    rng = np.random.default_rng(seed)
    size = (int(rng.integers(5, 14)), int(rng.integers(5, 18)))

    def tube() -> list[Any]:
        if not noisy:
            return random_tube(rng, 3, (size[0] + 8, size[1] + 8))
        masks = [rng.random((size[0] + 8, size[1] + 8)) < rng.choice([0, 0.5, 1]) for _ in range(3)]
        return [encode_rle(mask) for mask in masks]

    predicted, truth = ([[None] * 3, *(tube() for _ in range(3))] for _ in range(2))
    plain = [[plain_overlap(p, t) for t in truth] for p in predicted]
    assert np.array_equal(tube_overlaps(predicted, truth), plain)


def eroded_boundary(mask: np.ndarray) -> np.ndarray:
    """Boundary IoU's text: pad by background, erode by 3 x 3, take the rest away."""
    reach = max(1, round(0.02 * math.hypot(*mask.shape)))
    padded = np.pad(mask.astype(np.uint8), 1)
    return mask & (cv2.erode(padded, np.ones((3, 3)), iterations=reach)[1:-1, 1:-1] == 0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_boundaries_are_what_erosion_takes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = (int(rng.integers(3, 200)), int(rng.integers(3, 200)))
    noise = cv2.GaussianBlur(rng.standard_normal(size), (0, 0), rng.uniform(0.5, 9))
    mask = noise > np.quantile(noise, rng.uniform(0, 1))
    wanted = encode_rle(eroded_boundary(mask))
    assert boundary_tube([encode_rle(mask), None]) == [wanted, None]


def test_the_boundary_counts_where_it_overlaps_less() -> None:
    """A mask that loses its edge keeps most pixels and next to nothing of its boundary."""
    true = np.zeros((100, 140), bool)
    true[20:80, 20:110] = True
    inner = np.zeros_like(true)
    inner[24:76, 24:106] = True
    tubes = [encode_rle(true)], [encode_rle(inner)]
    edges = [encode_rle(eroded_boundary(mask)) for mask in (true, inner)]
    whole = tube_overlaps([tubes[1]], [tubes[0]]).item()
    thin = tube_overlaps([[edges[1]]], [[edges[0]]]).item()
    assert 0.75 < whole < 0.8 and thin < 0.1
    for crowd, boundary, wanted in ((False, False, 0.6), (False, True, 0.0), (True, True, 1.0)):
        metric = VideoAP([1], boundary=boundary)
        # The group takes the loose mask by its whole pixels, so that only the other track counts.
        other = TrueTrack(1, [encode_rle(~true)]), PredictedTrack(1, [encode_rle(~true)], 0.5)
        truth = [TrueTrack(1, tubes[0], is_crowd=crowd), *([other[0]] if crowd else [])]
        found = [PredictedTrack(1, tubes[1], 0.9), *([other[1]] if crowd else [])]
        metric.update(truth, found)
        hits = [whole >= threshold for threshold in THRESHOLDS]
        if (crowd, boundary) == (True, True):  # above the overlap, the loose mask is a mistake
            hits = [1.0 if hit else 0.5 for hit in hits]
        expected = np.mean(hits) if wanted else 0.0
        assert metric.compute().ap == pytest.approx(expected)


def test_counts_as_lists_are_the_same_masks() -> None:
    mask = np.zeros((4, 6), bool)
    mask[1:3, 2:5] = True
    listed = {"size": [4, 6], "counts": [9, 2, 2, 2, 2, 2, 5]}
    # Runs of no pixel are allowed.
    split = {"size": [4, 6], "counts": [9, 1, 0, 1, 2, 2, 2, 2, 5, 0]}
    for rle in (listed, split):
        assert np.array_equal(decode_rle(rle), mask)
        assert tube_overlaps([[rle]], [[encode_rle(mask)]]) == 1.0
        assert tube_overlaps([[encode_rle(mask)]], [[rle]]) == 1.0
        assert tube_areas([rle, None]).tolist() == [6, 0]


def test_a_crowd_neither_helps_nor_hurts() -> None:
    rng = np.random.default_rng(0)
    one, group = random_tube(rng, 3, (20, 20)), random_tube(rng, 3, (20, 20))
    metric = VideoAP([1])
    metric.update(
        [TrueTrack(1, one), TrueTrack(1, group, is_crowd=True)],
        [PredictedTrack(1, one, 0.5), *(PredictedTrack(1, group, 0.9) for _ in range(3))],
    )
    assert metric.compute().ap == 1.0
    assert metric.compute().tracks == 1


def test_a_class_without_tracks_does_not_count() -> None:
    tube = random_tube(np.random.default_rng(1), 2, (20, 20))
    metric = VideoAP([1, 2])
    metric.update([TrueTrack(1, tube)], [PredictedTrack(1, tube, 0.5), PredictedTrack(2, tube, 1)])
    assert metric.compute().ap == 1.0
    metric.reset()
    assert math.isnan(metric.compute().ap)


def test_the_area_in_the_file_decides_the_range() -> None:
    tube = random_tube(np.random.default_rng(1), 2, (20, 20))
    metric = VideoAP([1])
    metric.update([TrueTrack(1, tube, area=200.0**2)], [PredictedTrack(1, tube, 0.5)])
    result = metric.compute()
    assert result.average_precision("medium") == 1.0
    assert math.isnan(result.average_precision("small"))


def test_nothing_found_is_zero() -> None:
    metric = VideoAP([1])
    metric.update([TrueTrack(1, random_tube(np.random.default_rng(1), 2, (20, 20)))], [])
    result = metric.compute()
    assert (result.ap, result.average_recall(10), result.to_dict()["AP50"]) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("truth", "predicted", "words"),
    [
        ([TrueTrack(9, [None])], [], "class 9"),
        ([], [PredictedTrack(1, [None], math.nan)], "score nan"),
        ([TrueTrack(1, [None])], [PredictedTrack(1, [None, None], 1)], "1 and of 2 frames"),
        (
            [TrueTrack(1, [encode_rle(np.ones((2, 3)))])],
            [PredictedTrack(1, [encode_rle(np.ones((3, 2)))], 1)],
            "3 x 2 and of 2 x 3 pixels",
        ),
    ],
)
def test_bad_input(truth: Any, predicted: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        VideoAP([1]).update(truth, predicted)
