"""How much commands say, and with how many threads they compute."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tempomask import devices, load, progress
from tempomask.cli import console
from tempomask.errors import InputError, InputWarning

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    threads = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
    yield
    console.speak(quiet=False, verbose=False)
    torch.set_num_threads(threads)


def test_what_takes_long_says_so_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "FIRST", 0.05)
    monkeypatch.setattr(progress, "EVERY", 0.1)
    with console.waiting("measuring") as status:
        time.sleep(0.3)
        status.update("training")
        time.sleep(0.3)
    bar = console.bars(" frames")
    with bar:
        bar.add_task("video one", total=9, completed=4)
        time.sleep(0.2)
    said = capfd.readouterr().err.splitlines()
    assert "measuring ..." in said and "training ..." in said
    assert any(line.startswith("video one  4/9 frames") for line in said)
    assert progress.FIRST < 5


def test_what_is_quick_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with console.waiting("starting"), console.bars():
        pass
    assert capfd.readouterr().err == ""


def test_quiet_leaves_errors_and_json(
    run: Run, video: Path, checkpoint: Path, tmp_path: Path
) -> None:
    given = ("track", video, "--checkpoint", checkpoint, "--out", tmp_path / "out", "--quiet")
    assert run(*given, "--box", "4,8,20,24") == (0, "", "")
    code, out, err = run(*given, "--box", "4,8,20,24", "--json")
    assert (code, err) == (0, "") and json.loads(out)["frames"] == 7
    code, out, err = run(*given, "--point", "99,99")
    assert (code, out) == (2, "") and err.startswith("error: ")


def test_quiet_leaves_warnings(capfd: pytest.CaptureFixture[str]) -> None:
    console.speak(quiet=True, verbose=False)
    console.note("frame 1")
    console.show_warning("the mask is too small", InputWarning)
    console.note("frame 2")
    assert capfd.readouterr().err == "warning: the mask is too small\n"


def test_the_report_names_what_it_was_computed_on(
    run: Run, video: Path, checkpoint: Path, tmp_path: Path
) -> None:
    given = ("track", video, "--checkpoint", checkpoint, "--out", tmp_path, "--point", "12,16")
    code, out, err = run(*given, "--json", "--threads", 2, "--verbose", "--dtype", "float32")
    report = json.loads(out)
    assert code == 0 and torch.get_num_threads() == 2
    assert (report["device"], report["dtype"], report["threads"]) == ("cpu", "float32", 2)
    assert report["machine"] == devices.processor()
    assert "float32, 2 threads" in err and err.count("computing on") == 1
    assert "computing on" not in run(*given, "--threads=1")[2] and torch.get_num_threads() == 1


@pytest.mark.parametrize("value", ["0", "-1", "x", ""])
def test_bad_threads_are_one_line(run: Run, value: str) -> None:
    code, out, err = run("models", "--threads", value)
    message = "must be from 1 to" if value == "0" else f"--threads {value!r} is not a whole number"
    assert (code, out) == (2, "") and message in err and err.count("\n") == 1
    with pytest.raises(InputError, match="threads"):
        load(threads=0)


def test_threads_of_a_process() -> None:
    """Of one that has not imported torch yet."""
    code = (
        "import sys; from tempomask.cli import main; print(main.take_threads(sys.argv[1:]));"
        "import torch; print(torch.get_num_threads())"
    )
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    command = [sys.executable, "-c", code, "track", "--threads", "1"]
    assert subprocess.check_output(command, env=environment).split() == [b"['track']", b"1"]
