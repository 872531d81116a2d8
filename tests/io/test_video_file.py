"""Video files: exact numbers of frames from anywhere, in both directions, and damaged data."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tempomask.errors import InputError, InputWarning
from tempomask.io import video_file
from tempomask.io.frame_index import missing_frames
from tempomask.io.video import open_video

LONG_GOP = {"g": "100", "bf": "3", "b_strategy": "0"}
SHORT_GOP = {"g": "7", "bf": "2", "b_strategy": "0"}
OPEN_GOP = {"g": "9", "bf": "3", "x264-params": "open-gop=1:b-adapt=0:scenecut=0"}

# name, codec, options: with and without true time stamps, closed and open groups, intra only
KINDS = {
    "long group with B-frames": ("a.mp4", "libx264", LONG_GOP),
    "short groups with B-frames": ("a.mp4", "libx264", SHORT_GOP),
    "open groups": ("a.mp4", "libx264", OPEN_GOP),
    "gradual refresh": ("a.mp4", "libx264", {"g": "20", "x264-params": "intra-refresh=1"}),
    "matroska": ("a.mkv", "libx264", SHORT_GOP),
    "transport stream": ("a.ts", "libx264", SHORT_GOP),
    "webm": ("a.webm", "libvpx-vp9", {"g": "12", "lag-in-frames": "12", "deadline": "realtime"}),
    "vp8": ("a.webm", "libvpx", {"g": "12", "deadline": "realtime"}),
    "avi with B-frames": ("a.avi", "mpeg4", {"g": "12", "bf": "2"}),
    "avi with h264": ("a.avi", "libx264", SHORT_GOP),
    "avi of images": ("a.avi", "mjpeg", {}),
    "raw stream": ("a.h264", "libx264", SHORT_GOP),
}


def expected(indices: Any) -> list[tuple[int, int]]:
    return [(index, index) for index in indices]


@pytest.mark.parametrize("kind", KINDS)
def test_every_range_gives_exactly_its_frames(
    encode: Callable[..., Path], kind: str, numbers: Any
) -> None:
    name, codec, options = KINDS[kind]
    pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    path = encode(name, codec=codec, options=options, pixels=pixels)
    with open_video(path) as video:
        assert video.num_frames in (50, None)
        assert video.size == (48, 128)
        assert video.fps == 25
        assert numbers(video.frames()) == expected(range(50))
        for start, end in ((1, 4), (6, 9), (17, None), (31, 50), (49, None)):
            assert numbers(video.frames(start, end)) == expected(range(50)[start:end])
        assert numbers(video.reversed_frames()) == expected(range(49, -1, -1))
        assert video.num_frames == 50


def test_containers_with_true_times_are_counted_at_once(encode: Callable[..., Path]) -> None:
    for name, codec in (("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.ts", "mpeg2video")):
        assert open_video(encode(name, frames=23, codec=codec)).num_frames == 23
    assert open_video(encode("a.avi", 23, "mjpeg", pixels="yuvj420p")).num_frames == 23
    for name, codec in (("a.avi", "mpeg4"), ("a.webm", "libvpx")):
        assert open_video(encode(name, frames=23, codec=codec)).num_frames is None


@pytest.mark.parametrize("kind", ["long group with B-frames", "open groups", "raw stream"])
def test_reading_backward_keeps_few_frames(
    encode: Callable[..., Path], kind: str, monkeypatch: pytest.MonkeyPatch, numbers: Any
) -> None:
    name, codec, options = KINDS[kind]
    path = encode(name, codec=codec, options=options)
    monkeypatch.setattr(video_file, "_BACKWARD_BYTES", 8 * 48 * 128 * 3)
    longest = 0
    plain_read = video_file.VideoFile._read

    def watched(self: video_file.VideoFile, start: int, end: int) -> Any:
        nonlocal longest
        longest = max(longest, end - start)
        return plain_read(self, start, end)

    monkeypatch.setattr(video_file.VideoFile, "_read", watched)
    with open_video(path) as video:
        assert numbers(video.reversed_frames(44, 3)) == expected(range(44, 2, -1))
    assert 1 < longest <= 8


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(start=st.integers(0, 49), length=st.integers(0, 50), data=st.data())
def test_any_range_of_open_groups(
    encode: Callable[..., Path],
    tmp_path: Path,
    start: int | None,
    length: Any,
    data: Any,
    numbers: Any,
) -> None:
    path = tmp_path / "open.mp4"
    if not path.exists():
        encode("open.mp4", options=OPEN_GOP)
    video = open_video(path, prefetch=data.draw(st.sampled_from([0, 2])))
    assert numbers(video.frames(start, start + length)) == expected(range(50)[start:][:length])
    low = data.draw(st.integers(0, start))
    assert numbers(video.reversed_frames(start, low)) == expected(range(start, low - 1, -1))


def test_variable_frame_rate_keeps_every_frame(encode: Callable[..., Path], numbers: Any) -> None:
    times = np.cumsum([1, 1, 7, 2, 1, 30, 1, 1, 12, 1] * 3).tolist()
    with open_video(encode("vfr.mp4", frames=30, options=SHORT_GOP, times=times)) as video:
        assert video.num_frames == 30
        assert numbers(video.frames(11, 20)) == expected(range(11, 20))
        assert numbers(video.reversed_frames()) == expected(range(29, -1, -1))


def test_broken_times_give_a_sane_rate(encode: Callable[..., Path], tmp_path: Path) -> None:
    """All frames at one time, as a careless remuxer leaves them."""
    path = tmp_path / "broken.mp4"
    with av.open(str(encode("good.mp4", frames=12))) as good, av.open(str(path), "w") as broken:
        stream = broken.add_stream_from_template(good.streams.video[0])
        for packet in good.demux(good.streams.video[0]):
            if packet.size:
                packet.pts = packet.dts = 0
                packet.stream = stream
                broken.mux(packet)
    with open_video(path) as video:
        assert video.fps is None or 1 < video.fps <= 120
        assert len(list(video.frames())) == 12


@pytest.mark.parametrize("name", ["%05d.jpg", "*.png", "frame_%d.png", "0000?.jpg"])
def test_patterns_lead_to_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="give their folder, .*, instead of a pattern"):
        open_video(str(tmp_path / name))


def test_odd_sizes(encode: Callable[..., Path], numbered_frame: Callable[..., Any]) -> None:
    frames = [numbered_frame(i, 131, 49) for i in range(6)]
    with open_video(encode("odd.mkv", frames, codec="ffv1", pixels="yuv444p")) as video:
        assert video.size == (49, 131)
        assert [frame.shape for _, frame in video.frames()] == [(49, 131, 3)] * 6


def test_grey_and_deep_pixels_become_eight_bit_rgb(
    encode: Callable[..., Path], numbers: Any
) -> None:
    for pixels in ("gray", "yuv420p10le"):
        with open_video(encode("deep.mkv", frames=3, codec="ffv1", pixels=pixels)) as video:
            assert numbers(video.frames()) == expected(range(3))


@pytest.mark.parametrize(
    ("degrees", "mirrored", "flipped"),
    list(product((0, 90, 180, -90), (False, True), (False,))) + [(0, False, True)],
)
def test_rotation_and_mirroring(
    encode: Callable[..., Path], degrees: Any, mirrored: Any, flipped: Any
) -> None:
    image = np.zeros((48, 64, 3), dtype=np.uint8)
    image[:24, :32], image[:24, 32:] = 255, 128
    upright = np.rot90(image, degrees // 90)
    upright = upright[:, ::-1] if mirrored else upright
    upright = upright[::-1] if flipped else upright

    def turn(stream: Any) -> None:
        stream.set_display_rotation(degrees, mirrored, flipped)

    with open_video(encode("turned.mp4", [image] * 2, prepare=turn)) as video:
        _, frame = next(video.frames())
    assert video.size == upright.shape[:2]
    assert frame.flags["C_CONTIGUOUS"]
    # Away from the edges of the quarters, which compression blurs.
    corners = np.ix_([6, -6], [6, -6])
    np.testing.assert_allclose(frame[corners].astype(int), upright[corners], atol=8)


def test_edit_lists_hide_frames(encode: Callable[..., Path], numbers: Any) -> None:
    """A cut made without re-encoding: the file holds 50 frames, players show the last 40."""
    path = encode("whole.mp4", options={"bf": "0", "g": "100"})
    data = path.read_bytes()
    at = data.index(b"elst") + 4
    version, entries, duration, _media_time = struct.unpack(">4sIIi", data[at : at + 16])
    assert (version, entries) == (b"\0\0\0\0", 1)
    with av.open(str(path)) as file:
        ticks = int(10 / 25 / file.streams.video[0].time_base)
    header = struct.pack(">4sIIi", version, entries, duration * 4 // 5, ticks)
    path.write_bytes(data[:at] + header + data[at + 16 :])
    with open_video(path) as video:
        assert video.num_frames == 40
        assert numbers(video.frames()) == [(i, i + 10) for i in range(40)]
        assert numbers(video.frames(20, 22)) == [(20, 30), (21, 31)]


def cut(path: Path, part: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    return path


@pytest.fixture
def noisy(numbered_frame: Callable[..., Any]) -> list[np.ndarray]:
    """Frames that take many bytes each, so that a cut falls into the images."""
    random = np.random.default_rng(0)
    frames = [numbered_frame(index) for index in range(50)]
    for frame in frames:
        frame[16:] = random.integers(0, 255, frame[16:].shape)
    return frames


@pytest.mark.parametrize(
    ("name", "container"),
    [
        ("cut.mp4", {"movflags": "faststart"}),
        ("cut.mp4", {"movflags": "frag_keyframe+empty_moov"}),
        ("cut.mkv", {}),
        ("cut.avi", {}),
    ],
)
def test_a_cut_file_gives_its_frames_then_an_error(
    encode: Callable[..., Path], noisy: Callable[..., Any], name: str, container: Any, numbers: Any
) -> None:
    codec = "mjpeg" if name.endswith("avi") else "libx264"
    pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    options = {} if codec == "mjpeg" else SHORT_GOP
    path = cut(encode(name, noisy, codec, options, container, pixels=pixels), 0.6)
    with open_video(path) as video:
        count = video.num_frames
        assert 10 < count < 40
        seen = []
        with pytest.raises(InputError, match=rf"frame {count}\b.*missing.*end={count}"):
            for pair in video.frames():
                seen.append(pair)
        assert numbers(seen) == expected(range(count))
        assert numbers(video.frames(0, count)) == expected(range(count))
        assert numbers(video.frames(count - 3, count)) == expected(range(count - 3, count))


def test_damage_inside_names_the_frame(
    encode: Callable[..., Path], noisy: Callable[..., Any], numbers: Any
) -> None:
    path = encode("hole.mp4", noisy, "mjpeg", pixels="yuvj420p")
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as file:
        packets = [(p.pos, p.size) for p in file.demux(video=0) if p.size]
    position, size = packets[30]
    data[position : position + size] = bytes(size)
    path.write_bytes(data)
    seen = []
    with pytest.raises(InputError, match="frame 30 of 50"):
        seen.extend(numbers(open_video(path).frames()))
    with open_video(path) as video:
        assert numbers(video.frames(0, 30)) == expected(range(30))
        assert numbers(video.frames(31, 35)) == expected(range(31, 35))


def test_a_changing_size_is_named(
    encode: Callable[..., Path], numbered_frame: Callable[..., Any]
) -> None:
    small = encode("small.h264", 3)
    large = encode("large.h264", [numbered_frame(i, 144, 64) for i in range(3)])
    path = small.with_name("both.h264")
    path.write_bytes(small.read_bytes() + large.read_bytes())
    with pytest.raises(InputError, match="frame 3 .*144 x 64 .*128 x 48"):
        list(open_video(path).frames())


def write_sound(path: Path) -> None:
    with av.open(str(path), "w") as file:
        stream = file.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        file.mux(stream.encode(frame))
        file.mux(stream.encode())


def test_files_that_are_no_videos(encode: Callable[..., Path], tmp_path: Path) -> None:
    empty, text, sound, noise = (tmp_path / n for n in ("e.mp4", "t.txt", "s.m4a", "n.mp4"))
    empty.touch()
    text.write_text("To whom it may concern.\n" * 50)
    write_sound(sound)
    noise.write_bytes(np.random.default_rng(1).bytes(5000))
    no_end = cut(encode("unfinished.mp4"), 0.6)
    no_frames = encode("header.mp4", container={"movflags": "faststart"})
    data = no_frames.read_bytes()
    no_frames.write_bytes(data[: data.index(b"mdat") + 20])
    table = [
        (tmp_path / "missing.mp4", "no such file"),
        (empty, "is empty"),
        (text, "(holds no|as a) video"),
        (sound, "holds no video .*audio"),
        (noise, "no video|as a video"),
        (no_end, "cut short"),
        (no_frames, "cut short"),
    ]
    for path, message in table:
        with pytest.raises(InputError, match=message) as caught:
            open_video(path)
        assert path.name in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_lost_packets_are_told(encode: Callable[..., Path], tmp_path: Path, suffix: str) -> None:
    whole = encode(f"whole.{suffix}", 40, options={"bf": "0"})
    lossy = tmp_path / f"lossy.{suffix}"
    with av.open(str(whole)) as source, av.open(str(lossy), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(source.streams.video[0])):
            if packet.size and number not in (17, 18, 30):
                packet.stream = stream
                target.mux(packet)
    with pytest.warns(InputWarning, match="3 frames .*16"):
        open_video(lossy)
    with warnings.catch_warnings():
        warnings.simplefilter("error", InputWarning)
        open_video(whole)


@pytest.mark.parametrize(
    "times",
    [
        np.cumsum([0, 1, 1.5, 1, 0.7, 1, 2, 1]),  # the rate varies
        np.arange(8) * 2.0,
        np.array([0.0, 1, 3, 5, 6, 8]),  # as many gaps as steps
    ],
)
def test_times_that_tell_of_no_loss(times: np.ndarray) -> None:
    assert missing_frames(times) is None
