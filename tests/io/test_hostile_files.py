"""Files and names that would lead FFmpeg and PIL elsewhere, full disks, two runs in a folder."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tempomask.errors import InputError
from tempomask.files import FolderLock
from tempomask.io.containers import VideoWriter
from tempomask.io.images import image_size, read_image, read_mask
from tempomask.io.video import open_video
from tempomask.limits import VARIABLE

Encode = Callable[..., Path]
NAMES = [
    "take:1",
    "~root",
    "concat:a|b",
    "file:a",
    "subfile,,end,9,,:a",
    "a%03d",
    "-i",
    "a?b",
]
HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.0,\n{}\n#EXT-X-ENDLIST\n"


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_only_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    for path in (Path(f"{name}.mp4"), Path(name) / "overlay.mp4"):
        path.parent.mkdir(exist_ok=True)
        with VideoWriter(path, (16, 16)) as writer:
            writer.add(np.zeros((16, 16, 3), np.uint8))
        assert path.is_file()
        for source in (path, str(path), str(path.absolute())):
            with open_video(source, prefetch=0) as video:
                assert len(list(video.frames())) == 1
    assert {each.name for each in tmp_path.iterdir()} == {name, f"{name}.mp4"}


@pytest.fixture
def requests() -> Any:
    """Addresses that a server on this machine was asked for, and its port as the first."""
    asked: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: Any) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    asked.append(server.server_port)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield asked
    server.shutdown()
    server.server_close()


def playlists(folder: Path, port: int) -> dict[str, str]:
    part = folder / "elsewhere" / "part.ts"
    dash = '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"></MPD>'
    return {
        "a.m3u8": HLS.format(part),
        "b.mp4": HLS.format(f"file://{part}"),
        "c.mp4": f"ffconcat version 1.0\nfile '{part}'\n",
        "d.mp4": HLS.format(f"http://127.0.0.1:{port}/x.ts"),
        "e.mpd": dash,
        "f.mp4": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 5 RTP/AVP 96\n",
    }


def test_playlists_are_not_followed(
    tmp_path: Path, encode: Encode, requests: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    encode("elsewhere/part.ts", frames=5)
    for name, text in playlists(tmp_path, requests[0]).items():
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match=f"{name} is a playlist.*--allow-playlists"):
            open_video(tmp_path / name)
    monkeypatch.setenv(VARIABLE, "playlists=1")
    with open_video(tmp_path / "a.m3u8", prefetch=0) as video:
        assert video.size == (48, 128)
    with pytest.raises(InputError):
        open_video(tmp_path / "d.mp4")
    assert len(requests) == 1, "a file never leads to the network"


@pytest.mark.parametrize(
    "url", ["concat://a", "ftp://a/b.mp4", "data://x", "lavfi://x", "pipe://0"]
)
def test_other_schemes_are_refused(url: str) -> None:
    with pytest.raises(InputError, match="nor a URL that can be opened"):
        open_video(url)


@pytest.mark.parametrize("name", ["a.mp4", "a.svg", "a.avi"])
@pytest.mark.parametrize(
    "text",
    [
        '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"></svg>',
        '<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"></svg>',
        "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
        "plain text, which FFmpeg would draw",
    ],
)
def test_what_only_looks_like_a_video(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError):
        open_video(tmp_path / name)
    (tmp_path / "a.png").write_text(text)
    with pytest.raises(InputError, match="cannot read the image"):
        read_image(tmp_path / "a.png")


def bomb(path: Path, side: int) -> None:
    """A black PNG, a few kilobytes for each hundred million pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    packer = zlib.compressobj(9)
    rows = [packer.compress(bytes((side + 1) * 100)) for _ in range(side // 100)]
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    data = b"".join([*rows, packer.flush()])
    chunks = chunk(b"IHDR", header), chunk(b"IDAT", data), chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


@pytest.mark.filterwarnings("ignore:Image size")
def test_an_image_is_measured_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb(tmp_path / "bomb.png", 13_000)
    for reader in (image_size, read_image, read_mask):
        with pytest.raises(InputError, match="169,000,000"):
            reader(tmp_path / "bomb.png")
    Image.new("L", (20, 10)).save(tmp_path / "small.png")
    monkeypatch.setenv(VARIABLE, "pixels=199")
    with pytest.raises(InputError, match="200 .*199.*--limits pixels"):
        read_image(tmp_path / "small.png")
    monkeypatch.setenv(VARIABLE, "pixels=200")
    assert read_image(tmp_path / "small.png").shape == (10, 20, 3)


@pytest.mark.parametrize("mode", ["L", "I;16"])
def test_every_page_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    pages = [Image.new(mode, (8, 6)), Image.new(mode, (30, 40))]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    monkeypatch.setenv(VARIABLE, "pixels=1199")
    video = open_video(tmp_path / "a.tif", prefetch=0)
    with pytest.raises(InputError, match="page 1 of .*a.tif has 1,200 pixels"):
        list(video.frames())


def test_a_video_is_measured_before_it_is_decoded(
    encode: Encode, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = encode(frames=3)
    monkeypatch.setenv(VARIABLE, "pixels=6143")
    with pytest.raises(InputError, match="6,144"):
        open_video(path)
    monkeypatch.setenv(VARIABLE, "pixels=6144")
    with open_video(path, prefetch=0) as video:
        assert len(list(video.frames())) == 3


def test_images_that_go_away_while_they_are_read(tmp_path: Path) -> None:
    for index in range(5):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{index}.png")
    video = open_video(tmp_path, prefetch=0)
    (tmp_path / "3.png").unlink()
    frames = video.frames()
    assert [next(frames)[0] for _ in range(3)] == [0, 1, 2]
    with pytest.raises(InputError, match="3.png: No such file"):
        next(frames)


FULL = """
import resource, sys, numpy as np
from tempomask.io.containers import VideoWriter
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
rng = np.random.default_rng(0)
try:
    with VideoWriter(sys.argv[1], (96, 128)) as writer:
        for _ in range(40):
            writer.add(rng.integers(0, 255, (96, 128, 3), dtype=np.uint8))
except OSError as error:
    print("OSError", error.errno)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
@pytest.mark.parametrize("size", [0, 30, 40, 48, 5000, 32_768, 100_000, 262_144])
def test_a_disk_that_fills_up_is_an_error_and_no_crash(tmp_path: Path, size: int) -> None:
    """Also while the header and the index at the end are written."""
    command = [sys.executable, "-X", "faulthandler", "-c", FULL, str(tmp_path / "a.mp4"), str(size)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("OSError"), done.stderr
    assert not list(tmp_path.iterdir())


HOLD = """
import sys, time
from tempomask.files import FolderLock
lock = FolderLock(sys.argv[1])
print("held", flush=True)
time.sleep(60)
"""


def test_a_folder_is_one_run_s_at_a_time(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with pytest.raises(InputError, match=f"process {holder.pid}"):
        FolderLock(tmp_path)
    os.kill(holder.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
    holder.wait()
    lock = FolderLock(tmp_path)  # the dead hold nothing, although their file is there
    with pytest.raises(InputError, match=str(os.getpid())):
        FolderLock(tmp_path)
    lock.release()
    lock.release()
    assert not list(tmp_path.iterdir())
    FolderLock(tmp_path).release()


def test_many_runs_at_once_hold_a_folder_one_after_the_other(tmp_path: Path) -> None:
    inside, most, refused = [0], [0], [0]

    def work() -> None:
        for _ in range(200):
            try:
                lock = FolderLock(tmp_path)
            except InputError:
                refused[0] += 1
                continue
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            inside[0] -= 1
            lock.release()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] == 1 and refused[0] < 800
