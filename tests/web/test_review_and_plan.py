"""The review list, the passes of a run, and the thread that does the work."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from concurrent.futures import CancelledError

import pytest

from tempomask import InputError, Prompt
from tempomask.tracking.options import Direction
from tempomask.web.review import review
from tempomask.web.state import MaskEntry
from tempomask.web.tracking import WARM_UP, Pass, plan
from tempomask.web.worker import Worker


def entry(area: int = 100, iou: float = 0.9, score: float = 5, x: float = 0) -> MaskEntry:
    return MaskEntry("", score, iou, (x, 0, x + 10, 10), area)


def test_a_steady_object_is_not_listed() -> None:
    assert review({1: {frame: entry(100 + frame, x=frame) for frame in range(9)}}) == []


def test_stretches_are_listed_by_reason() -> None:
    masks = {frame: entry() for frame in range(20)}
    masks |= {3: entry(iou=0.5), 4: entry(iou=0.3), 5: entry(iou=0.55)}
    masks |= {8: entry(area=0), 9: entry(score=-1)}
    masks |= {15: entry(area=250, x=0), 16: entry(area=240)}
    found = [tuple(item) for item in review({7: masks})]
    assert found == [
        (7, "low", 3, 5, 4),
        (7, "lost", 8, 9, 8),
        (7, "jump", 15, 15, 15),
        (7, "jump", 17, 17, 17),
    ]


def test_a_jump_of_place_is_listed_but_not_over_a_gap() -> None:
    masks = {0: entry(), 1: entry(x=30), 5: entry(x=90)}
    assert [tuple(item) for item in review({1: masks})] == [(1, "jump", 1, 1, 1)]


ALL = range(100)


@pytest.mark.parametrize(
    ("frames", "direction", "at", "limits", "passes"),
    [
        ([10], "forward", 10, ALL, [("forward", range(10, 100), range(10, 100))]),
        ([10], "forward", 50, ALL, [("forward", range(50 - WARM_UP, 100), range(50, 100))]),
        ([10], "forward", 12, ALL, [("forward", range(10, 100), range(12, 100))]),
        ([60], "forward", 50, ALL, [("forward", range(50, 100), range(50, 100))]),
        ([10], "backward", 10, ALL, [("backward", range(11), range(11))]),
        ([90], "backward", 50, ALL, [("backward", range(51 + WARM_UP), range(51))]),
        ([10], "forward", 0, range(20, 30), [("forward", range(14, 30), range(20, 30))]),
        ([10], "both", 50, ALL, [("forward", range(10, 100), range(10, 100), "later"),
                                 ("backward", range(11), range(11), "earlier")]),
        ([0], "both", 50, ALL, [("forward", ALL, ALL, "later")]),
    ],
)  # fmt: skip
def test_passes(
    frames: list[int], direction: Direction, at: int, limits: range, passes: list[tuple[object]]
) -> None:
    prompts = [Prompt(frame, points=(1, 1)) for frame in frames]
    assert plan(prompts, direction, at, limits) == [Pass(*each) for each in passes]  # type: ignore[arg-type]


def test_nothing_to_track_is_said() -> None:
    with pytest.raises(InputError, match="click an object first"):
        plan([], "forward", 0, ALL)


@pytest.fixture
def worker() -> Iterator[Worker]:
    made = Worker()
    yield made
    made.close()


def test_jobs_come_before_the_steps_of_a_run(worker: Worker) -> None:
    """And who hears of its end can start another."""
    seen: list[str] = []
    begun, go, done = threading.Event(), threading.Event(), threading.Event()

    def run() -> Generator[None, None, str]:
        for step in range(3):
            begun.set()
            assert go.wait(10)
            seen.append(f"step {step}")
            yield
        return "why it ended"

    def again() -> Generator[None, None, None]:
        seen.append("another")
        yield

    def ended(error: str | None) -> None:
        seen.append(str(error))
        worker.start(again(), lambda _: done.set())

    worker.start(run(), ended)
    assert begun.wait(10)
    job = worker.submit(lambda: seen.append("job"))
    with pytest.raises(InputError, match="under way"):
        worker.start(run(), ended)
    go.set()
    job.result(10)
    assert seen[:2] == ["step 0", "job"]
    assert done.wait(10) and not worker.running
    assert seen == ["step 0", "job", "step 1", "step 2", "why it ended", "another"]


def test_a_stopped_run_is_closed(worker: Worker) -> None:
    closed, heard = threading.Event(), threading.Event()

    def run() -> Generator[None, None, None]:
        try:
            while True:
                yield
        finally:
            closed.set()

    worker.start(run(), lambda _: heard.set())
    worker.stop()
    assert heard.wait(10) and closed.is_set()


def test_of_previews_the_newest_counts(worker: Worker) -> None:
    gate = threading.Event()
    worker.submit(lambda: gate.wait(10))
    old = worker.submit_newest("page", lambda: "old")
    new = worker.submit_newest("page", lambda: "new")
    other = worker.submit_newest("other", lambda: "other")
    gate.set()
    assert (new.result(10), other.result(10)) == ("new", "other")
    with pytest.raises(CancelledError):
        old.result(10)


def test_an_error_goes_to_who_asked(worker: Worker) -> None:
    def fail() -> None:
        raise InputError("no")

    with pytest.raises(InputError, match="no"):
        worker.submit(fail).result(10)
    assert worker.submit(lambda: 3).result(10) == 3
