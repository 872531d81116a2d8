"""Opening any source, reading ahead, ranges, and stopping."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from av import VideoFrame
from PIL import Image

from tempomask.errors import InputError
from tempomask.io.camera import Stream, camera_address
from tempomask.io.threads import WorkerThread
from tempomask.io.video import Video, open_video


def readers() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "tempomask-read-ahead"]


def frames(count: int = 5, height: int = 4, width: int = 6) -> list[np.ndarray]:
    return [np.full((height, width, 3), index, dtype=np.uint8) for index in range(count)]


class Counting(Video):
    """A source that counts what is read from it and can fail."""

    size, seekable = (1, 1), False

    def __init__(self, fail_at: int | None = None, live: bool = False, prefetch: int = 4) -> None:
        super().__init__("counting")
        self.read_so_far, self.fail_at, self.live, self.prefetch = 0, fail_at, live, prefetch
        self.closed = False

    def _read(self, start: int, end: int | None) -> Iterator[tuple[int, np.ndarray]]:
        try:
            for index in range(start, 1000 if end is None else end):
                if index == self.fail_at:
                    raise InputError(f"frame {index} is bad")
                self.read_so_far += 1
                yield index, np.zeros((1, 1, 3), np.uint8)
        finally:
            self.closed = True


def until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 5
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()


def test_the_thread_runs_ahead_but_not_far() -> None:
    source = Counting(prefetch=3)
    reading = source.frames()
    assert source.read_so_far == 0
    next(reading)
    # three in the queue, one on its way, one taken
    assert until(lambda: source.read_so_far == 5)
    time.sleep(0.05)
    assert source.read_so_far == 5
    reading.close()
    assert source.closed
    assert until(lambda: not readers())


def test_an_error_in_the_thread_comes_after_the_frames_before_it() -> None:
    seen = []
    with pytest.raises(InputError, match="frame 7 is bad"):
        for index, _ in Counting(fail_at=7).frames():
            seen.append(index)
    assert seen == list(range(7))
    assert until(lambda: not readers())


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError])
def test_leaving_early_stops_the_thread(stop: type[BaseException]) -> None:
    source = Counting()
    with pytest.raises(stop), source as video:
        for index, _ in video.frames():
            if index == 3:
                raise stop
    assert until(lambda: source.closed and not readers())
    with pytest.raises(InputError, match="closed"):
        video.frames()


def test_close_ends_readers_in_use() -> None:
    video = Counting()
    reading = video.frames()
    next(reading)
    video.close()
    assert list(reading) == []


def test_a_waiting_consumer_wakes_when_closed() -> None:
    gate = threading.Event()

    def stuck() -> Iterator[int]:
        gate.wait(5)
        yield 1

    ahead = WorkerThread.reading(stuck(), 2)
    threading.Timer(0.05, gate.set).start()
    assert next(ahead) == 1
    assert next(ahead, None) is None
    ahead.close()
    assert next(ahead, None) is None


def test_live_sources_lose_old_frames_and_count_what_is_given() -> None:
    source = Counting(live=True, prefetch=2)
    reading = source.frames(end=4)
    next(reading)
    assert until(lambda: source.closed)  # nobody waits for the consumer
    rest = [index for index, _ in reading]
    assert rest == [1, 2][: len(rest)]
    assert source.dropped == 1000 - 1 - len(rest)


def test_live_stream_from_ffmpeg() -> None:
    stream = Stream("testsrc=size=64x48:rate=200", "test image", demuxer="lavfi")
    with stream as video:
        assert (video.size, video.fps, video.num_frames) == ((48, 64), 200, None)
        assert video.live and not video.seekable
        got = list(video.frames(end=8))
        assert [index for index, _ in got] == list(range(8))
        assert got[0][1].shape == (48, 64, 3)
        with pytest.raises(InputError, match="once only"):
            list(video.frames())
        with pytest.raises(InputError, match="backward"):
            video.reversed_frames()


def test_a_file_over_http_is_read_to_its_end(
    encode: Callable[..., Path], numbers: Callable[..., Any]
) -> None:
    path = encode("clip.mp4", frames=30, container={"movflags": "faststart"})

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(path.parent)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/clip.mp4"
    try:
        with open_video(address) as video:
            assert not video.live
            assert numbers(video.frames(start=4)) == [(i, i) for i in range(4, 30)]
        with pytest.raises(InputError, match=r"none\.mp4"):
            open_video(address.replace("clip", "none"))
    finally:
        server.shutdown()
        server.server_close()


def test_camera_addresses() -> None:
    assert camera_address(1, "linux") == ("/dev/video1", "v4l2")
    assert camera_address(0, "darwin") == ("0", "avfoundation")
    with pytest.raises(InputError, match="not supported on plan9"):
        camera_address(0, "plan9")


@pytest.mark.parametrize("source", [997, "997", np.int64(997), os.devnull])
def test_a_camera_that_is_not_there(source: Any) -> None:
    with pytest.raises(InputError, match=r"cannot open .* \(.*\)"):
        open_video(source)


@pytest.mark.parametrize("make", [list, tuple, np.stack])
def test_sequences_are_read_in_any_order(make: Callable[[Any], Any]) -> None:
    with open_video(make(frames())) as video:
        assert (video.num_frames, video.seekable, video.size, video.fps) == (5, True, (4, 6), None)
        assert [(i, f[0, 0, 0]) for i, f in video.frames(2)] == [(2, 2), (3, 3), (4, 4)]
        assert [i for i, _ in video.frames(2, 900)] == [2, 3, 4]
        assert [(i, f[0, 0, 0]) for i, f in video.reversed_frames(3, 1)] == [(3, 3), (2, 2), (1, 1)]
        assert not readers()


def test_iterators_are_read_once_in_the_callers_thread() -> None:
    here = []

    def generate() -> Iterator[np.ndarray]:
        for frame in frames():
            here.append(threading.current_thread())
            yield frame

    with open_video(generate()) as video:
        assert (video.num_frames, video.seekable, video.size) == (None, False, (4, 6))
        assert [(i, f[0, 0, 0]) for i, f in video.frames(1, 4)] == [(1, 1), (2, 2), (3, 3)]
        with pytest.raises(InputError, match="once only"):
            next(video.frames())
        with pytest.raises(InputError, match="backward"):
            video.reversed_frames(3)
    assert set(here) == {threading.current_thread()}
    assert len(here) == 4


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([], "is empty"),
        (iter(()), "is empty"),
        (np.zeros((0, 4, 6, 3), np.uint8), "is empty"),
        ([np.zeros((4, 6), np.uint8)], r"frame 0 .* shape \(4, 6\).* repeat the grey"),
        ([np.zeros((4, 6, 4), np.uint8)], "drop the fourth channel"),
        ([np.zeros((3, 4, 6), np.uint8)], "move the channels last"),
        ([np.zeros((4, 6, 3), np.float32)], r"float32.* scale to 0\.\.255"),
        ([np.zeros((4, 6, 1), np.uint8)], "repeat the grey"),
        ([np.zeros((4, 6, 3), np.int64)], r"int64.* convert with astype\(np.uint8\)"),
        (np.zeros((4, 6, 3), np.uint8), r"shape \(4, 6, 3\) is one image, not a video"),
        (["no array"], "no such image: no array"),
        (iter(["a.png"]), "frame 0 of the iterator of frames is a path; give a list of paths"),
        (BytesIO(b"film"), r"open file \(BytesIO\); give its path, or write it"),
        (None, "cannot read frames from NoneType"),
        (True, "cannot read frames from bool"),
        (b"clip.mp4", "cannot read frames from bytes"),
        (2.5, "cannot read frames from float"),
    ],
)
def test_arrays_that_are_no_frames(source: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_video(source)


def test_a_list_of_images_and_frames_of_pyav(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("b.png", "a.png")]
    for value, path in enumerate(paths):
        Image.fromarray(np.full((4, 6, 3), value, np.uint8)).save(path)
    decoded = [VideoFrame.from_ndarray(frame, format="rgb24") for frame in frames(2)]
    for source in (paths, tuple(map(str, paths)), decoded, iter(decoded)):
        with open_video(source) as video:
            assert [int(frame.max()) for _, frame in video.frames()] == [0, 1]


def test_a_later_array_of_another_size_is_named() -> None:
    for source in ([*frames(3), *frames(1, 8, 6)], iter([*frames(3), *frames(1, 8, 6)])):
        reading = open_video(source).frames()
        assert [next(reading)[0] for _ in range(3)] == [0, 1, 2]
        with pytest.raises(InputError, match="frame 3 .* 6 x 8 .*6 x 4"):
            next(reading)


def test_ranges_outside_the_video() -> None:
    video = open_video(frames())
    for start, end, message in ((5, None, "0 to 4"), (-1, None, "from 0"), (3, 2, "before start")):
        with pytest.raises(InputError, match=message):
            video.frames(start, end)
    for start, end in ((5, 0), (2, 3), (2, -1)):
        with pytest.raises(InputError):
            video.reversed_frames(start, end)
    assert list(video.frames(2, 2)) == []
    with pytest.raises(InputError, match="frame 9"):
        list(open_video(iter(frames())).frames(9))


def test_a_video_is_taken_as_it_is() -> None:
    video = open_video(frames())
    assert open_video(video) is video
    assert repr(video) == "Video('the list of frames', 6 x 4, frames: 5)"
