"""Frames prepared ahead: order, errors, buffers that are not overwritten while they are copied."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from threading import current_thread, main_thread

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tempomask.errors import InputError
from tempomask.models.segmenter import Segmenter
from tempomask.ops.transfer import waits_for_now
from tempomask.prompts import Prompt
from tempomask.results import FrameResult
from tempomask.tracking.passes import FrameSource, track
from tempomask.tracking.session import Session
from tempomask.tracking.upload import PinnedRing, PreparedFrame, pinned_ring, prepared_ahead

Clip = Callable[..., list[NDArray[np.uint8]]]


class LateArrival:
    """A copy that reads its buffer as late as it may: when somebody needs it."""

    def __init__(self, buffer: Tensor) -> None:
        self.buffer, self.copy, self.waits = buffer, None, 0

    def wait(self) -> None:
        self.waits += 1
        self.take()

    def take(self) -> Tensor:
        if self.copy is None:
            self.copy = self.buffer.clone()
        return self.copy


class LateTransport:
    def __init__(self) -> None:
        self.buffers = 0
        self.arrivals: list[LateArrival] = []

    def buffer(self, shape: tuple[int, ...]) -> Tensor:
        self.buffers += 1
        return torch.empty(shape, dtype=torch.uint8)

    def send(self, buffer: Tensor) -> LateArrival:
        self.arrivals.append(LateArrival(buffer))
        return self.arrivals[-1]


def images(count: int, side: int = 4) -> list[NDArray[np.uint8]]:
    return [np.full((side, side, 3), t, np.uint8) for t in range(count)]


def test_a_buffer_is_filled_again_only_after_its_copy() -> None:
    transport = LateTransport()
    ring = PinnedRing(transport, buffers=3)
    for image in images(8):
        ring.send(image)
        # It has been taken over: what becomes of it does not matter.
        image[:] = 255
    assert transport.buffers == 3
    assert [arrival.waits for arrival in transport.arrivals] == [1] * 5 + [0] * 3
    values = [int(arrival.take()[0, 0, 0]) for arrival in transport.arrivals]
    assert values == list(range(8))


def test_another_size_gets_other_buffers() -> None:
    transport = LateTransport()
    ring = PinnedRing(transport, buffers=2)
    for image in (*images(3), *images(3, side=6)):
        ring.send(image)
    assert transport.buffers == 4
    assert [a.take().shape[0] for a in transport.arrivals] == [4, 4, 4, 6, 6, 6]


def test_a_cpu_needs_no_ring(segmenter: Segmenter) -> None:
    assert pinned_ring(torch.device("cpu")) is None
    assert not Session(segmenter).sends_ahead


def numbered(count: int, fails: bool = False) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    yield from enumerate(images(count))
    if fails:
        raise InputError("the file is damaged")


def prepare(frame: NDArray[np.uint8]) -> PreparedFrame:
    assert current_thread() is not main_thread()
    if frame[0, 0, 0] == 7:
        raise InputError("a bad frame")
    return PreparedFrame(frame, (4, 4))


@pytest.mark.parametrize("count", [0, 1, 2, 6])
def test_frames_come_in_order(count: int) -> None:
    prepared = list(prepared_ahead(numbered(count), prepare))
    assert [index for index, _ in prepared] == list(range(count))
    assert all(frame.pixels[0, 0, 0] == index for index, frame in prepared)


def test_a_source_may_fill_its_array_again() -> None:
    def frames() -> Iterator[tuple[int, NDArray[np.uint8]]]:
        buffer = np.zeros((4, 4, 3), np.uint8)
        for index in range(4):
            buffer[:] = index
            yield index, buffer

    def slowly(frame: NDArray[np.uint8]) -> PreparedFrame:
        time.sleep(0.02)
        return PreparedFrame(frame.copy(), (4, 4))

    assert all(frame.pixels[0, 0, 0] == index for index, frame in prepared_ahead(frames(), slowly))


@pytest.mark.parametrize(("count", "fails", "message"), [(3, True, "damaged"), (9, False, "bad")])
def test_errors_come_in_their_turn(count: int, fails: bool, message: str) -> None:
    seen = []
    with pytest.raises(InputError, match=message):
        for index, _ in prepared_ahead(numbered(count, fails), prepare):
            seen.append(index)
    assert seen == list(range(3 if fails else 7))


def test_only_one_frame_is_read_ahead() -> None:
    read = []

    def frames() -> Iterator[tuple[int, NDArray[np.uint8]]]:
        for index, frame in enumerate(images(6)):
            read.append(index)
            yield index, frame

    results = prepared_ahead(frames(), prepare)
    assert next(results)[0] == 0 and read == [0, 1]
    results.close()
    assert read == [0, 1]


def assert_same(a: list[FrameResult], b: list[FrameResult]) -> None:
    assert [x.size for x in a] == [x.size for x in b] and len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        assert np.array_equal(x.low_res_logits, y.low_res_logits)


def test_prepared_frames_are_tracked_alike(
    segmenter: Segmenter,
    clip: Clip,
    source: Callable[..., FrameSource],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on a GPU, with copies that are made as late as they may."""
    prompt = Prompt(0, 1, box=(5, 8, 21, 22))
    expected, expected_live = (
        list(track(segmenter, source(clip(6), seekable=seekable), prompt))
        for seekable in (True, False)
    )
    transport = LateTransport()
    monkeypatch.setattr(
        "tempomask.tracking.frames.pinned_ring", lambda device: PinnedRing(transport)
    )
    got = list(track(segmenter, source(clip(6)), prompt))
    assert len(transport.arrivals) == 6
    assert all(arrival.copy is not None for arrival in transport.arrivals)
    assert_same(got, expected)
    # A camera's newest frame is not to wait for the next one.
    live = list(track(segmenter, source(clip(6), seekable=False), prompt))
    assert len(transport.arrivals) == 6
    assert_same(live, expected_live)


def test_a_correction_sees_the_image_again(segmenter: Segmenter, clip: Clip) -> None:
    """The tensor that was sent is given up once it is used; the image stays."""
    results = []
    for ahead in (False, True):
        session = Session(segmenter)
        session.prompt(box=(5, 8, 21, 22))
        frames = clip(3)
        for frame in frames:
            session.step(session.prepare(frame) if ahead else frame)
        results.append(session.correct(points=[(12, 14)], labels=[1]))
    assert_same(results[:1], results[1:])


def test_sizes_are_checked(segmenter: Segmenter, clip: Clip) -> None:
    session = Session(segmenter)
    frame = clip(1)[0]
    session.step(session.prepare(frame))
    assert session.size == frame.shape[:2]
    with pytest.raises(InputError, match=" x "):
        session.step(session.prepare(frame[:-1]))
    with pytest.raises(InputError, match="shape"):
        session.prepare(frame.astype(float))
    with pytest.raises(InputError, match="32 .* 64"):
        session.step(PreparedFrame(np.zeros((32, 32, 3), np.uint8), session.size))


def test_a_reader_on_another_stream_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """For what was enqueued when the result came, on the reader's own stream."""
    calls = []

    class Stream:
        def __init__(self, name: str) -> None:
            self.name = name

        def wait_event(self, event: Event) -> None:
            calls.append(("wait", self.name, event.of))

    class Event:
        def record(self, stream: Stream) -> None:
            self.of = stream.name
            calls.append(("record", stream.name))

    current = Stream("computing")
    monkeypatch.setattr("torch.cuda.Event", Event)
    monkeypatch.setattr("torch.cuda.current_stream", lambda device: current)
    wait = waits_for_now(torch.device("cuda"))
    current = Stream("reading")
    wait()
    assert calls == [("record", "computing"), ("wait", "reading", "computing")]
    waits_for_now(torch.device("cpu"))()
    assert len(calls) == 2


def test_results_are_read_after_the_wait(
    segmenter: Segmenter, clip: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def waits(device: torch.device) -> Callable[[], None]:
        calls.append("step")
        return lambda: calls.append("read")

    monkeypatch.setattr("tempomask.tracking.state.waits_for_now", waits)
    session = Session(segmenter)
    session.prompt(box=(5, 8, 21, 22))
    result = session.step(clip(1)[0])
    assert calls == ["step"]
    assert result.low_res_logits.shape[0] == 1 and calls == ["step", "read"]
