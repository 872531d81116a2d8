"""Whatever happens, the command line says it in one line, and with the right exit code."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tempomask.cli import console, main
from tempomask.cli.progress import RunStats
from tempomask.errors import InputError
from tempomask.limits import VARIABLE, limits
from tempomask.weights import hub

Run = Callable[..., tuple[int, str, str]]


def failing(error: BaseException) -> Callable[..., int]:
    def fail(*_: Any, **__: Any) -> int:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (RuntimeError("a\nb"), 1, ["error: unexpected RuntimeError: a b; its traceback is in"]),
        (KeyError("x" * 5000), 1, ["unexpected KeyError", "SECURITY.md"]),
        (RecursionError("deep"), 1, ["unexpected RecursionError"]),
        (AttributeError("no width"), 1, ["unexpected AttributeError: no width"]),
        (MemoryError(), 1, ["out of memory; give smaller frames"]),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 1, ["out of memory"]),
        (OSError(errno.ENOSPC, "No space left on device"), 1, ["No space left on device"]),
        (OSError(errno.EIO, "Input/output error", "a.png"), 1, ["Input/output error: a.png"]),
        (OSError(errno.ENAMETOOLONG, "Too long", "a" * 300), 2, ["Too long: aaa", "a shorter one"]),
        (InputError("bad\x1b[31m\x07 name \u202e" + "x" * 9000), 2, ["error: bad?[31m? name"]),
        (KeyboardInterrupt(), 130, ["stopped by Ctrl-C"]),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 1, []),
    ],
)
def test_every_error_is_one_line(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Any, code: int, words: Any
) -> None:
    monkeypatch.setattr(main, "_run", failing(error))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    found, out, err = run("models")
    assert (found, out) == (code, "")
    assert err.count("\n") == bool(words) and len(err) < 2200
    assert "\x1b[31m\x07" not in err and "\u202e" not in err
    assert all(word in err for word in words)
    kept = list(tmp_path.glob("tempomask-*.txt"))
    assert len(kept) == ("its traceback is in" in err)
    for file in kept:
        assert str(file) in err and "Traceback" in file.read_text()


def test_the_traceback_lies_with_the_results(
    run: Run, video: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(RunStats, "add", lambda *_: 1 / 0)
    out, arguments = tmp_path / "out", ("--checkpoint", checkpoint, "--point", "12,16", "--out")
    code, _, err = run("track", video, *arguments, out)
    (kept,) = out.glob("tempomask-*.txt")
    assert code == 1 and str(kept) in err and "ZeroDivisionError" in kept.read_text()
    monkeypatch.undo()
    assert run("track", video, *arguments, out)[0] == 0


def test_without_room_for_a_traceback_there_is_still_a_line(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(main, "_run", failing(ZeroDivisionError("by zero")))
    full = failing(OSError(errno.ENOSPC, "full"))
    monkeypatch.setattr(console, "NamedTemporaryFile", lambda *_, **__: full([]))
    assert run("models")[0] == 1
    assert "unexpected ZeroDivisionError" in run("models")[2]
    with pytest.raises(ZeroDivisionError):
        run("models", "--traceback")


def tempomask(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tempomask", *words]
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, **options)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_and_plain_output() -> None:
    with open("/dev/full", "w") as full:
        done = tempomask("models", "--json", stdout=full)
        assert subprocess.run([sys.executable, "-m", "tempomask", "x"], stderr=full).returncode == 2
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "No space left" in done.stderr
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = tempomask("models", stdout=subprocess.PIPE, env=environment)
    assert done.returncode == 0 and "nano" in done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell that closes streams")
def test_closed_streams() -> None:
    def closed(words: str, streams: str) -> subprocess.CompletedProcess[str]:
        command = f"exec {sys.executable} -m tempomask {words} {streams}"
        return subprocess.run(["sh", "-c", command], capture_output=True, text=True)

    done = closed("models", ">&-")
    assert (done.returncode, done.stderr) == (0, "")
    done = closed("track --nope", ">&-")
    assert done.returncode == 2 and done.stderr.startswith("error: ")
    done = closed("track --nope", "<&- >&- 2>&-")
    assert (done.returncode, done.stdout) == (2, "")


def test_typing_errors_are_found_without_torch(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom tempomask.cli.main import main\ncode = main(sys.argv[1:])\n"
        "print(code, 'torch' in sys.modules)"
    )
    for words, message in (
        (["track", "x.mp4", "--point", "1,1", "--save", "mask"], "--save mask: unknown; did you"),
        (["propagate", "x.mp4", "--save", "maks"], "--save maks: unknown; did you mean masks"),
        (["instances", "x.mp4", "--save", "rle"], "--save rle: unknown"),
        (["track", "x.mp4", "--pont", "1,1"], "--pont"),
        (["track", "x.mp4", "--limits", "pixel=3"], "did you mean pixels"),
    ):
        command = [sys.executable, "-c", program, *words]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.stdout.split() == ["2", "False"], done.stderr
        assert message in done.stderr


def test_limits_are_given_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "objects=7")
    words = ["track", "--limits", "pixels=5", "v.mp4", "--allow-playlists", "--limits=nesting=9"]
    assert main.take_limits(words) == ["track", "v.mp4"]
    found = limits()
    assert (found.objects, found.pixels, found.nesting, found.playlists) == (7, 5, 9, 1)


@pytest.mark.parametrize("flag", ["--prompts", "--mask", "--checkpoint"])
def test_a_pipe_is_no_file(run: Run, video: Path, tmp_path: Path, flag: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    prompt = ["--point", "1,1"] if flag == "--checkpoint" else []
    code, _, err = run("track", video, flag, tmp_path / "pipe", *prompt, "--out", tmp_path / "o")
    assert code == 2 and "pipe" in err and err.count("\n") == 1


@pytest.mark.parametrize("command", ["segment", "track"])
def test_a_pipe_is_no_image_and_no_journal(
    run: Run, video: Path, tmp_path: Path, command: str
) -> None:
    """Reading one would wait for ever."""
    source = tmp_path / "pipe.png" if command == "segment" else video
    out = tmp_path / "out"
    out.mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    os.mkfifo(out / "frames.jsonl")
    code, _, err = run(command, source, "--point", "1,1", "--out", out)
    assert code == 2 and "is not a file" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--threads", "99999"], "threads must be from 1 to"),
        (["--threads", "9" * 5000], "is not a whole number"),
        (["--image-size", "100000"], "image_size 100000 does not fit"),
        (["--out", "x" * 300], "no file can be called"),
        (["--audio", "--save", "masks"], "--audio is of the overlay"),
        (["--audio"], "audio comes from a video file"),
    ],
)
def test_what_no_machine_can_do(
    run: Run, video: Path, words: list[str], problem: str, tmp_path: Path
) -> None:
    """More threads than can be started ended in a segmentation fault."""
    out = [] if "--out" in words else ["--out", tmp_path / "out"]
    code, _, err = run("track", video, "--point", "1,1", *words, *out)
    assert code == 2 and problem in err and err.splitlines()[-1].startswith("error: ")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("prompt", "problem"),
    [
        ({"points": [[1, 2]] * 1001}, "1,001 objects, more than the limit"),
        ({"mask": "x" * 5000}, "no file can be called"),
        ({"mask": "/dev/zero"}, "is not a file"),
    ],
)
def test_prompts_that_cannot_be_meant(
    run: Run, video: Path, tmp_path: Path, prompt: dict[str, Any], problem: str
) -> None:
    (tmp_path / "p.json").write_text(json.dumps([prompt]))
    code, _, err = run("track", video, "--prompts", tmp_path / "p.json", "--out", tmp_path / "o")
    assert code == 2 and problem in err and err.count("\n") == 1


def test_without_a_file_that_can_be_opened_there_is_still_a_line(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console.err, "print", failing(OSError(errno.EMFILE, "Too many open files")))
    code, _, err = run("track", "no.mp4", "--point", "1,1")
    assert code == 2 and err.startswith("error: no such file") and err.count("\n") == 1


def test_names_that_are_not_text(run: Run, video: Path, checkpoint: Path, tmp_path: Path) -> None:
    """Names on disk are bytes: they may hold what is no UTF-8, and what moves a cursor."""
    folder = tmp_path / os.fsdecode(b"v\xff\x1b[31m\n")
    shutil.copytree(video, folder)
    (folder / "1.png").rename(folder / os.fsdecode(b"\xff1\n.png"))
    given = ["--box", "4,8,20,24", "--checkpoint", checkpoint, "--out", folder / "out"]
    save = "masks,overlay,rle,coco,boxes,yolo,mot,mots,npz"
    code, out, err = run("track", folder, *given, "--save", save)
    assert code == 0, err
    assert "\x1b[31m" not in out + err
    assert {path.name for path in (folder / "out").iterdir()} >= {"boxes.csv", "overlay.mp4"}


@pytest.mark.parametrize("name", ["~x.mp4", "x" * 300 + ".mp4", "concat:a|b", "file:x", "a%d", "-"])
def test_odd_names_of_files_that_are_not_there(run: Run, name: str) -> None:
    code, _, err = run("track", f"./{name}" if name == "-" else name, "--point", "1,1")
    assert code == 2 and err.startswith("error: no ") and err.count("\n") == 1


def test_without_a_connection_a_download_ends_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The address is of a network for documentation alone (RFC 5737): nothing answers."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://192.0.2.1")
    started = time.perf_counter()
    assert not hub.reachable()
    assert time.perf_counter() - started < 3
