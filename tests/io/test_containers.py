"""The mp4 that is written: playable, the right size and rate, whole or not there."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tempomask.errors import InputError
from tempomask.io.containers import VideoWriter
from tempomask.io.video import open_video


@pytest.mark.parametrize(("height", "width"), [(48, 128), (49, 131), (1, 1)])
@pytest.mark.parametrize("fps", [None, 25, 30000 / 1001])
def test_sizes_and_rates(tmp_path: Path, height: Any, width: Any, fps: Any) -> None:
    frames = [np.full((height, width, 3), 40 * i + 20, np.uint8) for i in range(5)]
    with VideoWriter(tmp_path / "a.mp4", (height, width), fps) as writer:
        for frame in frames:
            writer.add(frame)
        assert not (tmp_path / "a.mp4").exists()
    with open_video(tmp_path / "a.mp4") as video:
        assert video.size == (height + height % 2, width + width % 2)
        assert video.fps == pytest.approx(fps or 24, rel=1e-4)
        read = [frame for _, frame in video.frames()]
    assert len(read) == 5
    for frame, again in zip(frames, read, strict=True):
        np.testing.assert_allclose(again[:height, :width], frame, atol=6)
        np.testing.assert_allclose(again[-1, -1], frame[-1, -1], atol=6)
    with av.open(str(tmp_path / "a.mp4")) as file:
        assert file.streams.video[0].codec_context.name == "h264"
        assert file.streams.video[0].pix_fmt == "yuv420p"


def test_colours_survive(tmp_path: Path) -> None:
    colors = np.array([[200, 30, 30], [30, 160, 40], [40, 60, 220], [250, 190, 40]], np.uint8)
    frame = np.repeat(np.repeat(colors[None], 32, 0), 32, 1)
    with VideoWriter(tmp_path / "a.mp4", frame.shape[:2]) as writer:
        writer.add(frame)
    _, read = next(open_video(tmp_path / "a.mp4").frames())
    np.testing.assert_allclose(read[16, 16::32].astype(int), colors, atol=8)


def test_nothing_is_left_of_what_was_not_closed(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "a.mp4", (8, 8))
    writer.close()
    for _ in range(100):  # the encoder holds some back
        writer.add(np.zeros((8, 8, 3), np.uint8))
    assert len(list(tmp_path.iterdir())) == 1
    writer.discard()
    assert not list(tmp_path.iterdir())


def test_frames_of_another_size(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match=r"\(4, 8, 3\) in a video of 8 x 8"),
        VideoWriter(tmp_path / "a.mp4", (8, 8)) as writer,
    ):
        writer.add(np.zeros((4, 8, 3), np.uint8))


def boxes_of(path: Path) -> list[bytes]:
    """Kinds of the outermost boxes of an mp4."""
    data, place, kinds = path.read_bytes(), 0, []
    while place < len(data):
        kinds.append(data[place + 4 : place + 8])
        place += int.from_bytes(data[place : place + 4], "big")
    return kinds


def test_the_index_comes_before_the_frames(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", (32, 48)) as writer:
        for value in range(12):
            writer.add(np.full((32, 48, 3), 20 * value, np.uint8))
    kinds = boxes_of(tmp_path / "a.mp4")
    assert kinds.index(b"moov") < kinds.index(b"mdat")
    assert len(list(open_video(tmp_path / "a.mp4").frames())) == 12
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_times_and_shape_of_pixels_are_kept(tmp_path: Path) -> None:
    times = [2.0, 2.04, 2.5, 2.51, 4.0]
    with VideoWriter(tmp_path / "a.mp4", (32, 48), 25, Fraction(3, 2)) as writer:
        for seconds in times:
            writer.add(np.zeros((32, 48, 3), np.uint8), seconds)
    with open_video(tmp_path / "a.mp4") as video:
        assert video.times is not None
        np.testing.assert_allclose(video.times, np.array(times) - 2, atol=1e-4)
        assert video.pixel_aspect == Fraction(3, 2)
