"""DAVIS interactive: which frames come next, what the clock counts, and the curve."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tempomask.data.davis import Davis
from tempomask.errors import InputError
from tempomask.evaluation import davis_interactive
from tempomask.evaluation.click_rounds import ClickPlan, Round
from tempomask.evaluation.davis_interactive import curve, interactions

Make = Callable[..., Any]
PLAN = ClickPlan("davis", clicks=2, rounds=5)


class Scripted:
    """A session that knows the truth (T, H, W) and shows it where it was clicked, on its clock.

    A click takes a second and a frame two; reading and scoring take none.
    """

    def __init__(self, truth: list[np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
        self.truth, self.now = truth, 0.0
        self.clicked: dict[int, set[int]] = {}
        self.calls: list[Any] = []
        monkeypatch.setattr(davis_interactive.time, "perf_counter", lambda: self.now)

    def shown(self, index: int) -> Any:
        ids = sorted(self.clicked.get(index, ()))
        labels = np.where(np.isin(self.truth[index], ids), self.truth[index], 0)
        return SimpleNamespace(label_map=lambda: labels)

    def condition(self, frame: np.ndarray, prompts: list[Any]) -> Any:
        self.now += 1
        index = prompts[0].frame
        self.calls.append((index, [prompt.object_id for prompt in prompts]))
        self.clicked.setdefault(index, set()).update(prompt.object_id for prompt in prompts)
        return self.shown(index)

    def step(self, frame: np.ndarray, index: int) -> Any:
        self.now += 2
        return self.shown(index)

    result = shown

    def release_frames(self) -> None:
        pass


@pytest.fixture
def made(davis: Make, clip: Make) -> Any:
    """A sequence of 4 frames, 2 objects, and its label maps."""
    labels = clip(4, objects=2)
    (sequence,) = Davis(davis(cow=labels))
    return sequence, labels


def test_frames_objects_and_the_clock(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sequence, labels = made
    session = Scripted(labels, monkeypatch)
    told: list[tuple[str, int, int]] = []
    found = interactions(session, sequence, PLAN, lambda *t: told.append(t))  # type: ignore[arg-type]
    assert told == [("cow", k, 20) for k in range(1, 17)], "the fifth round was not needed"
    # One click is enough; frames in turn, as all others are equally bad, then nothing is left.
    assert session.calls == [(k, [1, 2]) for k in range(4)]
    assert list(found) == [1, 2] and [len(rounds) for rounds in found.values()] == [5, 5]
    for rounds in found.values():
        assert [r.J for r in rounds] == [0.25, 0.5, 0.75, 1, 1], "first and last frames count"
        assert [r.seconds for r in rounds] == [1 + 4 * 2] * 4 + [0]
        assert rounds[-1].frames == (0, 1, 2, 3)


def test_the_worst_frame_of_all_objects_and_none_twice(
    made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sequence, labels = made
    session = Scripted(labels, monkeypatch)
    session.clicked = {2: {1}, 3: {1, 2}}  # right by themselves
    # Object 2 stays wrong on frame 1, however often it is clicked.
    shown = session.shown

    def stubborn(index: int) -> Any:
        result = shown(index).label_map()
        return SimpleNamespace(label_map=lambda: np.where(result == 2, 0, result) if index == 1
                               else result)  # fmt: skip

    session.shown = stubborn  # type: ignore[method-assign]
    interactions(session, sequence, ClickPlan("davis", clicks=1, rounds=4))  # type: ignore[arg-type]
    # Frame 1 lacks both, then 2 lacks one; then no unused frame is wrong: nothing to click.
    assert session.calls == [(0, [1, 2]), (1, [1, 2]), (2, [2])]


def test_a_round_after_the_limit_does_not_count(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sequence, labels = made
    session = Scripted(labels, monkeypatch)
    plan = ClickPlan("davis", rounds=5, max_time=10)  # 20 seconds for two objects
    found = interactions(session, sequence, plan)  # type: ignore[arg-type]
    assert [r.J for r in found[1]] == [0.25, 0.5, 0.5, 0.5, 0.5]
    assert [r.seconds for r in found[1]] == [9, 9, 0, 0, 0]
    nothing = interactions(
        Scripted(labels, monkeypatch),  # type: ignore[arg-type]
        sequence,
        ClickPlan("davis", rounds=2, max_time=0.1),
    )
    assert [r.mean for r in nothing[2]] == [0, 0]
    with pytest.raises(InputError, match="mode davis"):
        ClickPlan(max_time=5)


def test_every_frame_needs_truth(davis: Make, clip: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    root = davis(cow=clip(4))
    (root / "Annotations/480p/cow/00002.png").unlink()
    (sequence,) = Davis(root, sparse=True)
    with pytest.raises(InputError, match="cow"):
        interactions(Scripted(clip(4), monkeypatch), sequence, PLAN)  # type: ignore[arg-type]


def test_the_curve() -> None:
    """Two videos, of one object and of two; worked by hand."""
    found = {
        ("a", 1): [Round(0.4, 0.6, 20, (0,)), Round(0.8, 0.8, 10, (0, 1))],
        ("b", 1): [Round(0.2, 0.2, 40, (0,)), Round(0.5, 0.7, 30, (0, 3))],
        ("b", 2): [Round(0.8, 0.8, 40, (0,)), Round(1.0, 1.0, 30, (0, 3))],
    }
    told = curve(found, ClickPlan("davis", rounds=2))
    assert told["seconds"] == pytest.approx([0, 30, 50, 80])
    assert told["J&F"] == pytest.approx([0, 50, 80, 80])
    area = 30 * 25 + 20 * 65 + 30 * 80
    assert told["AUC"] == pytest.approx(area / 80) and told["J&F_at_60s"] == pytest.approx(80)
    told = curve(found, ClickPlan("davis", rounds=2, max_time=100))
    assert told["seconds"][-1] == pytest.approx(150), "100 seconds for 1.5 objects"
    assert told["AUC"] == pytest.approx((30 * 25 + 20 * 65 + 100 * 80) / 150)
