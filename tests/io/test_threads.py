"""Work done by a thread behind its caller. Reading ahead is tested in test_video.py."""

from __future__ import annotations

import threading

import pytest

from tempomask.io.threads import WorkerThread


def test_everything_put_is_done_in_order() -> None:
    done: list[int] = []
    worker = WorkerThread.writing(done.append, 2)
    for item in range(50):
        assert worker.put(item)
    worker.finish()
    assert done == list(range(50))
    worker.finish()
    assert not [t for t in threading.enumerate() if t.name == "tempomask-writer"]


def test_no_more_wait_than_asked_for() -> None:
    gate = threading.Event()
    done: list[int] = []

    def work(item: int) -> None:
        gate.wait(5)
        done.append(item)

    worker = WorkerThread.writing(work, 2)
    full = threading.Thread(target=lambda: [worker.put(item) for item in range(4)])
    full.start()
    full.join(0.3)
    assert full.is_alive() and not done  # one in work, two waiting, one too many
    gate.set()
    full.join(5)
    worker.finish()
    assert done == [0, 1, 2, 3]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_error_ends_the_work_and_comes_to_the_caller(error: BaseException) -> None:
    done: list[int] = []

    def work(item: int) -> None:
        if item == 3:
            raise error
        done.append(item)

    worker = WorkerThread.writing(work, 2)
    with pytest.raises(type(error)):
        for item in range(1000):
            worker.put(item)
    with pytest.raises(type(error)):
        worker.finish()
    assert done == [0, 1, 2]
