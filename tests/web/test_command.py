"""The command itself: its address, its refusals and its end."""

from __future__ import annotations

import asyncio
import signal
import socket
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from benchmarks.browser import served
from tempomask.cli.annotate import _places
from tempomask.cli.main import main
from tempomask.errors import InputError
from tempomask.files import FolderLock
from tempomask.model import Model
from tempomask.web.hub import Hub
from tempomask.web.models import Models
from tempomask.web.workspace import Workspace

pytest.importorskip("uvicorn")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["absent.mp4"], "no such file or folder: absent.mp4"),
        ([""], "an empty name is no file or folder"),
        (["x" * 300], "no file can be called"),
        (["~nobody-here/a.mp4"], "no such file or folder: ~nobody-here"),
        (["--project", __file__], "is a file; name a folder"),
        (["--host", "0.0.0.0"], "lets others on the network reach this page"),
        (["--port", "70000"], "ports go from 0 to 65535"),
        (["--host", "203.0.113.7", "--i-know-others-can-connect"], "cannot serve at 203.0.113.7"),
        (["--upload-mib", "0"], "Must be >= 1"),
        (["--model", "nanno"], "nanno"),
        (["--model", "cutie-base"], "cutie-base tracks masks and knows no clicks"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str],
    problem: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["annotate", *words]) == 2
    said = capsys.readouterr()
    assert problem in said.err.replace("\n", " ") and not said.out
    assert not list(tmp_path.iterdir())


def test_every_name_of_the_machine_is_known_where_others_may_connect() -> None:
    assert _places("127.0.0.1", 80) == ["127.0.0.1:80"]
    assert _places("::1", 80) == ["[::1]:80"]
    assert {f"{socket.gethostname()}:80", "127.0.0.1:80"} <= set(_places("0.0.0.0", 80))


def test_it_serves_until_ctrl_c(frames: Path, tmp_path: Path) -> None:
    with served(frames, "--project", tmp_path / "project", folder=tmp_path) as server:
        assert server.address.startswith("http://127.0.0.1:")
        assert b"<title>tempomask</title>" in urlopen(server.address).read()
        with pytest.raises(HTTPError, match="404"):
            urlopen(server.address[:-5] + "/")
        server.process.send_signal(signal.SIGINT)
        _, errors = server.process.communicate(timeout=60)
        assert server.process.returncode == 0 and "Traceback" not in errors


def test_a_project_that_is_open_elsewhere_is_refused(
    frames: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    held = FolderLock(project)
    assert main(["annotate", str(frames), "--project", str(project), "--no-open"]) == 2
    assert "another run (process " in capsys.readouterr().err
    held.release()
    Workspace([str(frames)], project).check_free()


def test_pages_that_come_late_are_told_of_a_model_that_did_not_load(
    frames: Path, tmp_path: Path
) -> None:
    def damaged(_adapter: str | None) -> Model:
        raise InputError("weights.pt is damaged")

    async def later() -> str:
        hub = Hub(Workspace([str(frames)], tmp_path), Models(damaged, None, "nano"), [], 1000)
        await hub.start()
        while not hub.problem:
            await asyncio.sleep(0.01)
        await hub.close()
        return str(hub.hello()["problem"])

    assert asyncio.run(later()) == "no model: weights.pt is damaged"
