"""The audio of a source in its overlay: what is heard stays beside what is seen."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tempomask import InputError
from tempomask.io.journal import VideoInfo
from tempomask.io.video import open_video
from tempomask.io.writer import ResultWriter

RATE, FPS, BEEP = 16_000, 25, 1.0


@pytest.fixture
def spoken(tmp_path: Path, numbered_frame: Callable[..., Any]) -> Callable[..., Path]:
    """A function that writes two seconds of video that are silent but for a beep in the middle."""

    def write(name: str, codec: str) -> Path:
        time = np.arange(2 * RATE) / RATE
        beep = 20_000 * np.sin(2 * np.pi * 440 * time) * (abs(time - BEEP) < 0.1)
        sound = beep.astype(np.int16)[None]
        with av.open(str(tmp_path / name), "w") as file:
            images, heard = file.add_stream("mpeg4", rate=FPS), file.add_stream(codec, rate=RATE)
            images.height, images.width, images.pix_fmt = 48, 128, "yuv420p"
            heard.layout = "mono"
            for index in range(2 * FPS):
                frame = av.VideoFrame.from_ndarray(numbered_frame(index), format="rgb24")
                frame.pts, frame.time_base = index, Fraction(1, FPS)
                file.mux(images.encode(frame))
                part = sound[:, index * RATE // FPS : (index + 1) * RATE // FPS]
                audio = av.AudioFrame.from_ndarray(np.ascontiguousarray(part), "s16", "mono")
                audio.sample_rate, audio.pts = RATE, index * RATE // FPS
                audio.time_base = Fraction(1, RATE)
                file.mux(heard.encode(audio))
            file.mux(images.encode())
            file.mux(heard.encode())
        return tmp_path / name

    return write


def heard_in(path: Path) -> tuple[float, float]:
    """The middle of the beep and the length of an mp4, in seconds."""
    with av.open(str(path)) as file:
        found = []
        for frame in file.decode(file.streams.audio[0]):
            loud = np.abs(frame.to_ndarray().astype(float)).reshape(-1)
            loud = loud > 0.2 * (32768 if "s16" in frame.format.name else 1)
            found += (frame.time + np.flatnonzero(loud) / frame.sample_rate).tolist()
        return float(np.mean(found)), file.duration / 1e6


@pytest.mark.parametrize(
    ("name", "codec", "order"),
    [
        ("a.mp4", "aac", range(20, 50)),
        ("a.mkv", "pcm_s16le", range(45, 9, -1)),
        ("a.avi", "mp2", range(50)),
    ],
)
def test_an_overlay_has_the_audio_of_its_frames(
    name: str, codec: str, order: range, spoken: Any, moving: Any, tmp_path: Path
) -> None:
    with open_video(spoken(name, codec)) as video:
        frames = dict(video.frames())
        info = VideoInfo.of(video, {})
        writer = ResultWriter(tmp_path / "out", info, ["overlay"], video=video, audio=True)
        with writer:
            for index in order:
                writer.add(frames[index], moving(index))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "frames.jsonl",
        "overlay.mp4",
    ]
    middle, length = heard_in(tmp_path / "out" / "overlay.mp4")
    assert middle == pytest.approx(BEEP - min(order) / FPS, abs=0.08)
    assert length == pytest.approx(len(order) / FPS, abs=0.12)
    with av.open(str(tmp_path / "out" / "overlay.mp4")) as file:
        assert sum(1 for _ in file.decode(video=0)) == len(order)


def test_a_source_without_audio_is_refused_at_once(encode: Any, tmp_path: Path) -> None:
    with open_video(encode()) as video, pytest.raises(InputError, match="has no audio"):
        ResultWriter(tmp_path / "out", VideoInfo.of(video, {}), video=video, audio=True)
    assert not (tmp_path / "out").exists()
    frames = [np.zeros((16, 16, 3), np.uint8)]
    with open_video(frames) as video, pytest.raises(InputError, match="from a video file"):
        ResultWriter(tmp_path / "out", VideoInfo.of(video, {}), video=video, audio=True)


def test_damaged_audio_leaves_the_overlay(spoken: Any, moving: Any, tmp_path: Path) -> None:
    path = spoken("a.mkv", "flac")
    with open_video(path) as video:
        frames = dict(video.frames())
        writer = ResultWriter(
            tmp_path / "out", VideoInfo.of(video, {}), ["overlay"], video=video, audio=True
        )
        for index, frame in frames.items():
            writer.add(frame, moving(index))
        path.write_bytes(b"\0" * 2000)
        with pytest.raises(InputError, match=r"a\.mkv"):
            writer.finish()
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["frames.jsonl", "overlay.mp4"]
