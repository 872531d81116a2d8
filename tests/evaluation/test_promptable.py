"""Promptable segmentation: which frames and pixels are clicked, and what the scores can be.

Trackers are scripted: a perfect one, a lazy one that learns a frame only when it is clicked there,
and one whose errors are laid out beforehand.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tempomask.compat.sam2 import VideoPredictor
from tempomask.data.davis import Davis
from tempomask.errors import InputError
from tempomask.evaluation.click_rounds import (
    ClickPlan,
    SessionTracker,
    offline_rounds,
    online_pass,
    online_rounds,
)
from tempomask.evaluation.promptable import evaluate_promptable
from tempomask.model import Model
from tempomask.models.segmenter import Segmenter
from tempomask.tracking.options import TrackingOptions
from tests.evaluation.test_with_a_network import CONFIG

Make = Callable[..., Any]


class Scripted:
    """Knows the truth (T, H, W); `shown` is its mask on frame t after k clicks there.

    By default it is right where it was clicked and empty elsewhere: the lazy tracker.
    """

    def __init__(self, truth: np.ndarray, shown: Callable[[int, int], np.ndarray] | None = None):
        self.truth, self.clicks = truth, [0] * len(truth)
        self.shown = shown or (lambda t, k: truth[t] & (k > 0))
        self.calls: list[tuple[Any, ...]] = []

    def track(self, index: int) -> np.ndarray:
        self.calls.append(("track", index))
        return self.shown(index, self.clicks[index])

    def prompt(self, index: int, point: tuple[int, int], label: int) -> np.ndarray:
        self.calls.append(("click", index, point, label))
        self.clicks[index] += 1
        return self.shown(index, self.clicks[index])

    @property
    def clicked(self) -> list[tuple[Any, ...]]:
        return [call[1:] for call in self.calls if call[0] == "click"]


@pytest.fixture
def made(davis: Make, clip: Make) -> Any:
    """A sequence of 8 frames, its object and its true masks."""
    (sequence,) = Davis(davis(cow=clip(8)))
    truth = np.stack([labels == 1 for labels in clip(8)])
    return sequence, sequence.objects[0], truth


def test_a_perfect_tracker_is_clicked_once(made: Any) -> None:
    sequence, item, truth = made
    tracker = Scripted(truth, lambda t, k: truth[t])
    rounds = offline_rounds(tracker, sequence, item, ClickPlan())
    assert [r.mean for r in rounds] == [1.0] * 8
    assert tracker.clicked == [(0, (3, 4), 1)], "in the middle of the object"
    assert [r.frames for r in rounds] == [(0,)] * 8 and rounds[1].seconds == 0
    tracker = Scripted(truth, lambda t, k: truth[t])
    rounds = online_rounds(lambda: tracker, sequence, item, ClickPlan("online"))
    assert [r.mean for r in rounds] == [1.0] * 8
    # The second pass was free to prompt twice and did not; it stands for the others.
    assert [c[1] for c in tracker.calls if c[0] == "track"] == list(range(8)) * 2


def test_a_lazy_tracker_wins_one_frame_a_round(made: Any) -> None:
    """Offline and online alike: scores climb by a sixth with each frame, and end at 1."""
    sequence, item, truth = made
    wanted = [0.0, *(k / 6 for k in range(1, 7)), 1.0]
    offline = offline_rounds(Scripted(truth), sequence, item, ClickPlan())
    assert [r.J for r in offline] == pytest.approx(wanted)
    assert offline[-1].frames == (0, 1, 2, 3, 4, 5, 6), "the first of frames that are equally bad"
    online = online_rounds(lambda: Scripted(truth), sequence, item, ClickPlan("online"))
    assert [r.J for r in online] == pytest.approx(wanted)
    assert [r.frames for r in online] == [tuple(range(min(k, 7))) for k in range(1, 9)]


def test_the_worst_frame_is_next_and_clicks_go_to_what_is_left(made: Any) -> None:
    sequence, item, truth = made
    errors = {3: 2, 5: 4}  # columns that are missing until a frame is clicked twice

    def shown(t: int, k: int) -> np.ndarray:
        mask = truth[t].copy()
        left = np.flatnonzero(truth[t].any(axis=0))[0]
        if t == 0 and k == 0:
            return np.zeros_like(mask)
        if t in errors and k < 2:
            mask[:, left : left + errors[t]] = False
        if t in errors and k == 1:
            mask[12:17, 20:25] = True  # the second click finds a false region, which is deeper
        return mask

    tracker = Scripted(truth, shown)
    rounds = offline_rounds(tracker, sequence, item, ClickPlan(clicks=3, rounds=3))
    assert [r.frames for r in rounds] == [(0,), (0, 5), (0, 5, 3)]
    first, *others = tracker.clicked
    assert first == (0, (3, 4), 1)
    (i, at, label), false = others[:2]
    assert (i, label) == (5, 1) and truth[5][at[1], at[0]] and not shown(5, 0)[at[1], at[0]]
    assert false == (5, (22, 14), 0)
    assert [call[0] for call in others] == [5, 5, 3, 3], "right after two clicks: no third"
    assert rounds[-1].mean == 1.0 and rounds[0].J < rounds[1].J < 1
    passes = [call[1] for call in tracker.calls if call[0] == "track"]
    assert passes == list(range(8)) * 3


def test_online_pauses_below_the_threshold_only(made: Any) -> None:
    sequence, item, truth = made

    def shown(t: int, k: int) -> np.ndarray:
        mask = truth[t].copy()
        if k == 0:
            left = np.flatnonzero(mask.any(axis=0))[0]
            mask[:, left : left + {2: 1, 4: 3, 6: 7}.get(t, 0)] = False
        return mask

    tracker = Scripted(truth, shown)
    found = online_pass(tracker, sequence, item, ClickPlan("online", clicks=1), limit=8)
    assert found.frames == (0, 4, 6), "frame 2 has 6 of 7 columns, which is enough"
    assert tracker.calls.index(("track", 5)) > [c[:2] for c in tracker.calls].index(("click", 4))
    assert pytest.approx((5 + 6 / 7) / 6) == found.J
    found = online_pass(Scripted(truth, shown), sequence, item, ClickPlan("online"), limit=2)
    assert found.frames == (0, 4) and pytest.approx((4 + 6 / 7) / 6) == found.J


@pytest.fixture(scope="module")
def network() -> Model:
    """With random weights, by which objects are always present: masks are not empty."""
    torch.manual_seed(0)
    segmenter = Segmenter(CONFIG)
    with torch.no_grad():
        segmenter.mask_decoder.object_score_head.layers[-1].bias.fill_(5.0)  # type: ignore[operator]
    return Model(segmenter)


def test_clicks_and_passes_are_those_of_the_official_predictor(
    davis: Make, clip: Make, network: Model
) -> None:
    """Clicks on an earlier frame help everywhere in the next pass, and add to those before."""
    root, options = davis(cow=clip(6)), TrackingOptions()
    (sequence,) = Davis(root)
    (item,) = sequence.objects
    tracker = SessionTracker(network, sequence, item, replace(options, keep="all"), None)
    predictor = VideoPredictor(network, options=options)
    state = predictor.init_state(root / "JPEGImages" / "480p" / "cow")
    rounds = [(0, [((4, 4), 1), ((20, 20), 0)]), (3, [((7, 5), 1)]), (0, [((6, 3), 1)])]
    for frame, clicks in rounds:
        for point, label in clicks:
            tracker.prompt(frame, point, label)
            _, _, logits = predictor.add_new_points_or_box(
                state, frame, 1, [point], [label], clear_old_points=False
            )
            assert np.array_equal(tracker.session.result(frame).logits, logits[0].numpy())
        for index, _, logits in predictor.propagate_in_video(state):
            mask = tracker.track(index)
            found = tracker.session.result(index).logits
            assert np.array_equal(found, logits[0].numpy()) and found.std() > 0
            assert np.array_equal(mask, found[0] > 0)


@pytest.mark.filterwarnings("error::tempomask.errors.InputWarning")
@pytest.mark.parametrize("mode", ["offline", "online"])
def test_a_session_is_clicked_and_tables_are_written(
    davis: Make, clip: Make, network: Model, tmp_path: Path, mode: Any
) -> None:
    data, out = Davis(davis(cow=clip(5, objects=2), dog=clip(4))), tmp_path / "out"
    calls: list[tuple[str, int, int]] = []
    summary = evaluate_promptable(
        network, data, ClickPlan(mode, rounds=3), out=out, progress=lambda *c: calls.append(c)
    )
    assert calls == [("cow", 1, 2), ("cow", 2, 2), ("dog", 1, 1)]
    assert len(summary.rounds) == 3 and summary.mean == pytest.approx(np.mean(summary.rounds))
    rows = list(csv.DictReader((out / "rounds.csv").open()))
    assert [(row["sequence"], row["object"]) for row in rows] == [
        ("cow", "1"), ("cow", "2"), ("dog", "1"),
    ]  # fmt: skip
    for k in range(3):
        mean = np.mean([float(row[f"J&F_{k + 1}"]) for row in rows])
        assert summary.rounds[k] == pytest.approx(mean, abs=1e-3)
    assert len(rows[0]["prompted"].split()) == 3, "a random network is wrong everywhere"
    written = json.loads((out / "summary.json").read_text())
    assert written["J&F"] == summary.mean and written["settings"]["mode"] == mode


@pytest.mark.parametrize("mode", ["offline", "davis"])
def test_finished_videos_are_not_tracked_again(
    davis: Make, clip: Make, network: Model, tmp_path: Path, mode: Any, monkeypatch: Any
) -> None:
    root, out = davis(cow=clip(4, objects=2), dog=clip(4)), tmp_path / "out"
    plan = ClickPlan(mode, clicks=1, rounds=2)
    whole = evaluate_promptable(network, Davis(root), plan)
    first = evaluate_promptable(network, Davis(root, sequences=["cow"]), plan, out=out)
    (out / "rounds" / "dog.json").write_text('{"objects": {')
    with pytest.raises(InputError, match="not JSON"):
        evaluate_promptable(network, Davis(root, sequences=["dog"]), plan, out=out, resume=True)
    (out / "rounds" / "dog.json").unlink()
    sessions: list[int] = []
    make = network.session
    monkeypatch.setattr(network, "session", lambda **k: sessions.append(1) or make(**k))
    resumed = evaluate_promptable(network, Davis(root), plan, out=out, resume=True)
    assert len(sessions) == 1, "the dog alone"
    assert resumed.rows == whole.rows and resumed.rounds == whole.rounds
    assert first.rows.items() <= resumed.rows.items()
    assert bool(resumed.curve) == ("curve" in resumed.to_dict()) == (mode == "davis")
    with pytest.raises(InputError, match="clicks 1, .* 3;"):
        evaluate_promptable(network, Davis(root), ClickPlan(mode, 3, 2), out=out, resume=True)


def test_plans_and_sets_that_make_no_sense(davis: Make, clip: Make, network: Model) -> None:
    with pytest.raises(InputError, match="mode"):
        ClickPlan("offlin")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="clicks .* 0"):
        ClickPlan(clicks=0)
    root = davis(cow=clip(4))
    for k in (1, 2, 3):
        (root / "Annotations" / "480p" / "cow" / f"{k:05d}.png").unlink()
    with pytest.raises(InputError, match="cow"):
        evaluate_promptable(network, Davis(root, sparse=True))
