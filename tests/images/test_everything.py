"""Automatic masks against a plain re-derivation of the official post-processing from its rules."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch.nn import functional as F

from tempomask.errors import InputError
from tempomask.images import everything as module
from tempomask.images.everything import AutomaticMasks, everything
from tempomask.images.options import EverythingOptions
from tempomask.images.proposals import without_duplicates
from tempomask.models.segmenter import Decoded

HEIGHT, WIDTH, LOW = 90, 150, 32
Mask = NDArray[np.bool_]
Row = dict[str, object]


class FakeConfig:
    image_size = 4 * LOW


class FakeSession:
    """Gives every click three ellipses around it, of its own sizes, softness and scores."""

    config = FakeConfig()
    device = torch.device("cpu")
    name = "sam2.1-tiny"
    blocks = np.ones(2, bool)

    def __init__(self, size: tuple[int, int]) -> None:
        self.size, self.segmenter = size, self

    def decode(
        self, points: torch.Tensor, labels: torch.Tensor, mask_prompt: torch.Tensor | None = None,
        multimask: bool = True,
    ) -> Decoded:  # fmt: skip
        logits, iou = answer(points[:, 0].numpy(), self.size)
        if mask_prompt is not None:
            logits, iou = logits[:, :1] * 0.5 + mask_prompt.numpy(), iou[:, :1] ** 2
        elif not multimask:
            logits, iou = logits[:, :1], iou[:, :1]
        both = torch.from_numpy(logits), torch.from_numpy(iou)
        nothing = torch.zeros(0)
        return Decoded(
            both[0][:, :1], both[1][:, 0], nothing, nothing, *both, nothing, both[0], both[0]
        )


def answer(
    points: NDArray[np.float32], size: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Logits (P, 3, LOW, LOW) and scores (P, 3) that depend on the click and the crop alone."""
    y, x = np.mgrid[:LOW, :LOW] + 0.5
    logits, scores = [], []
    for px, py in points / 4:
        rng = np.random.default_rng(int(px * 97 + py * 131 + size[0] * 7 + size[1]))
        middle = np.round(np.array([px, py]) / 9) * 9 + rng.uniform(-1, 1, 2)
        rows = []
        for scale in (3.0, 6.0, 11.0):
            radii = scale * rng.uniform(0.8, 1.2, 2)
            distance = np.hypot((x - middle[0]) / radii[0], (y - middle[1]) / radii[1])
            rows.append((1 - distance) * rng.choice([12.0, 90.0, 300.0]))
        rows[0][rng.integers(LOW), rng.integers(LOW)] = 60
        logits.append(rows)
        scores.append(rng.uniform(0.6, 1, 3))
    return np.float32(logits), np.float32(scores)


@pytest.fixture
def image(monkeypatch: pytest.MonkeyPatch) -> NDArray[np.uint8]:
    """An image that the fake network answers."""

    def sessions(
        _segmenter: object, images: list[NDArray[np.uint8]], *_: object
    ) -> list[FakeSession]:
        return [FakeSession((one.shape[0], one.shape[1])) for one in images]

    monkeypatch.setattr(module, "image_sessions", sessions)
    return np.zeros((HEIGHT, WIDTH, 3), np.uint8)


def crops(layers: int, ratio: float) -> Iterator[tuple[int, int, int, int, int]]:
    yield 0, 0, WIDTH, HEIGHT, 0
    for layer in range(1, layers + 1):
        n = 2**layer
        overlap = int(ratio * min(HEIGHT, WIDTH) * 2 / n)
        w, h = ceil((overlap * (n - 1) + WIDTH) / n), ceil((overlap * (n - 1) + HEIGHT) / n)
        for i in range(n):
            for j in range(n):
                x, y = i * (w - overlap), j * (h - overlap)
                yield x, y, min(x + w, WIDTH), min(y + h, HEIGHT), layer


def nms(rows: list[Row], scores: list[float], limit: float) -> list[int]:
    """One pair of boxes after another."""
    stay: list[int] = []
    for k in sorted(range(len(rows)), key=lambda k: -scores[k]):
        if all(box_iou(rows[k]["box"], rows[j]["box"]) <= limit for j in stay):
            stay.append(k)
    return stay


def box_iou(a: object, b: object) -> float:
    (ax, ay, bx, by), (cx, cy, dx, dy) = a, b  # type: ignore[misc]
    common = max(0, min(bx, dx) - max(ax, cx)) * max(0, min(by, dy) - max(ay, cy))
    union = (bx - ax) * (by - ay) + (dx - cx) * (dy - cy) - common
    return common / union if union else 0.0


def rederived(options: EverythingOptions) -> list[Row]:
    """The rules, mask by mask."""
    everyone: list[Row] = []
    for x0, y0, x1, y1, layer in crops(options.crop_n_layers, options.crop_overlap_ratio):
        n = int(options.points_per_side / options.crop_n_points_downscale_factor**layer)
        rows = []
        for j in range(n):
            for i in range(n):
                point = np.float32([(i + 0.5) / n * (x1 - x0), (j + 0.5) / n * (y1 - y0)])
                rows += masks_of_point(point, (x0, y0, x1, y1), options)
        scores = [float(row["iou"]) for row in rows]  # type: ignore[arg-type]
        everyone += [rows[k] for k in nms(rows, scores, options.box_nms_thresh)]
    if options.crop_n_layers:
        areas = [(r["crop"][2] - r["crop"][0]) * (r["crop"][3] - r["crop"][1]) for r in everyone]  # type: ignore[index]
        everyone = [
            everyone[k] for k in nms(everyone, [1 / a for a in areas], options.crop_nms_thresh)
        ]
    if options.min_mask_region_area:
        for row in everyone:
            row["mask"], row["same"] = cleaned(row["mask"], options.min_mask_region_area)  # type: ignore[arg-type]
            row["box"] = box_of(row["mask"])  # type: ignore[arg-type]
        limit = max(options.box_nms_thresh, options.crop_nms_thresh)
        everyone = [everyone[k] for k in nms(everyone, [float(r["same"]) for r in everyone], limit)]  # type: ignore[arg-type]
    return everyone


def masks_of_point(
    point: NDArray[np.float32], crop: tuple[int, int, int, int], options: EverythingOptions
) -> list[Row]:
    x0, y0, x1, y1 = crop
    size, limits = (y1 - y0, x1 - x0), options.thresholds("sam2.1-tiny")
    logits, scores = answer((point / np.float32([size[1], size[0]]) * (4 * LOW))[None], size)
    if options.use_m2m:
        logits = np.concatenate(
            [logits[:, :1] * 0.5 + logits[:, k : k + 1].clip(-32, 32) for k in range(3)], 1
        )
        scores = np.repeat(scores[:, :1] ** 2, 3, axis=1)
    found = []
    for low, iou in zip(logits[0], scores[0], strict=True):
        full = F.interpolate(torch.from_numpy(low)[None, None], size, mode="bilinear")[0, 0].numpy()
        outer = (full > -limits.stability_offset).sum()
        stability = (full > limits.stability_offset).sum() / outer if outer else np.nan
        mask = np.zeros((HEIGHT, WIDTH), bool)
        mask[y0:y1, x0:x1] = full > 0
        box = box_of(mask)
        inner_edge = any(
            abs(side - own) <= 20 and abs(side - whole) > 20
            for side, own, whole in zip(box, crop, (0, 0, WIDTH, HEIGHT), strict=True)
        )
        if iou > limits.pred_iou and stability >= limits.stability_score and not inner_edge:
            place = {"box": box, "crop": crop, "point": point + np.float32([x0, y0])}
            found.append({"mask": mask, "iou": iou, "stability": stability, **place})
    return found


def box_of(mask: Mask) -> tuple[int, ...]:
    ys, xs = mask.nonzero()
    return (xs.min(), ys.min(), xs.max(), ys.max()) if len(xs) else (0, 0, 0, 0)


def cleaned(mask: Mask, area: int) -> tuple[Mask, bool]:
    """Regions one by one."""
    before, eight = mask.copy(), np.ones((3, 3))
    regions, count = ndimage.label(~mask, eight)
    for k in range(1, count + 1):
        if (regions == k).sum() < area:
            mask = mask | (regions == k)
    regions, count = ndimage.label(mask, eight)
    sizes = [(regions == k).sum() for k in range(1, count + 1)]
    large = [k for k, size in enumerate(sizes, 1) if size >= area] or (
        [int(np.argmax(sizes)) + 1] if sizes else []
    )
    mask = np.isin(regions, large)
    return mask, bool((mask == before).all())


CASES = {
    "defaults": {},
    "strict": {"pred_iou_thresh": 0.9, "box_nms_thresh": 0.3},
    "crops": {"crop_n_layers": 1, "crop_n_points_downscale_factor": 2},
    "two layers": {"crop_n_layers": 2, "crop_n_points_downscale_factor": 2, "crop_nms_thresh": 0.4},
    "small regions": {"min_mask_region_area": 25},
    "fed back": {"use_m2m": True, "pred_iou_thresh": 0.5},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_equal_to_the_rules(case: dict[str, float], image: NDArray[np.uint8]) -> None:
    options = EverythingOptions(points_per_side=8, points_per_batch=10, **case)  # type: ignore[arg-type]
    steps: list[tuple[int, int]] = []
    found = everything(None, image, options, progress=lambda *at: steps.append(at))  # type: ignore[arg-type]
    expected = rederived(options)
    assert len(found.ids) == len(expected) > 3
    for row, one in enumerate(expected):
        np.testing.assert_array_equal(found.masks[row], one["mask"])
        assert found.predicted_iou[row] == pytest.approx(one["iou"])
        assert found.stability[row] == pytest.approx(one["stability"])
        assert found.points[row].tolist() == pytest.approx(list(one["point"]))  # type: ignore[call-overload]
        assert tuple(found.crops[row]) == one["crop"]
        assert tuple(found.boxes[row] - (0, 0, 1, 1)) == one["box"]
    assert steps[-1][0] == steps[-1][1] and len(steps) > 6


def test_duplicates_go_one_pair_at_a_time() -> None:
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 40, (200, 2))
    boxes = np.concatenate([corners, corners + rng.integers(0, 25, (200, 2))], axis=1)
    scores = rng.choice([0.2, 0.5, 0.9], 200)  # ties keep their order
    ours = without_duplicates(torch.from_numpy(boxes), torch.from_numpy(scores), 0.4)
    rows: list[Row] = [{"box": tuple(box)} for box in boxes.tolist()]
    assert ours.tolist() == nms(rows, scores.tolist(), 0.4)


def test_the_smallest_mask_is_on_top(image: NDArray[np.uint8]) -> None:
    found = everything(None, image, EverythingOptions(points_per_side=8))  # type: ignore[arg-type]
    assert isinstance(found, AutomaticMasks)
    labels, smallest = found.label_map(), int(found.areas.argmin())
    assert (labels[found.masks[smallest]] == found.ids[smallest]).all()


def test_numbers_out_of_range() -> None:
    with pytest.raises(InputError, match="points_per_side"):
        EverythingOptions(points_per_side=0)
    with pytest.raises(InputError, match="box_nms_thresh"):
        EverythingOptions(box_nms_thresh=7)
    with pytest.raises(InputError, match="layer 2"):
        EverythingOptions(points_per_side=3, crop_n_layers=2, crop_n_points_downscale_factor=2)
