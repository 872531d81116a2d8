"""`tempomask batch`: the bytes of `track`, jobs skipped and resumed, failures."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tempomask.batch.pool import Processes
from tempomask.cli.batch import WorkerOptions
from tempomask.devices import cuda_devices
from tempomask.errors import InputError

Run = Callable[..., tuple[int, str, str]]
OWN = ("job.json", "thumbnail.jpg")


@pytest.fixture
def listed(tmp_path: Path, video: Path, checkpoint: Path) -> Path:
    """Three jobs: a click in the row, a box, and a click that lies outside the video."""
    click = [{"object": 1, "points": [[12, 16]], "labels": [1]}]
    rows: list[dict[str, Any]] = [
        {"source": str(video), "out": "click", "prompts": click, "save": "masks,rle"},
        {"source": str(video), "out": "box", "box": [4, 8, 20, 24], "end": 3, "save": "masks"},
        {"source": str(video), "out": "outside", "point": [900, 16]},
    ]
    path = tmp_path / "jobs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def files_of(folder: Path) -> dict[str, Any]:
    found = (path for path in folder.rglob("*") if path.is_file() and path.name not in OWN)
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def long_clip(video: Path, folder: Path) -> Path:
    long = folder / "long"
    long.mkdir()
    for index in range(120):
        shutil.copy(video / f"{index % 7}.png", long / f"{index:03}.png")
    return long


def await_frames(out: Path, process: subprocess.Popen[bytes]) -> None:
    """Until a job has written a few frames."""
    journal, until = out / "frames.jsonl", time.monotonic() + 600
    while not journal.exists() or journal.read_bytes().count(b"\n") < 5:
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.005)


def test_batch_is_track_and_says_what_failed(
    run: Run, listed: Path, video: Path, checkpoint: Path, tmp_path: Path
) -> None:
    out, weights = tmp_path / "out", f"checkpoint={checkpoint}"
    call = ("batch", listed, "--out", out, "--each", weights, "--json", "--workers", 1)
    code, said, err = run(*call)
    report = json.loads(said)
    assert code == 1 and [report[n] for n in ("done", "failed", "frames")] == [2, 1, 10], err
    assert "failed: outside: " in err and "900" in err
    given = {
        "click": ("--point", "12,16", "--save", "masks,rle"),
        "box": ("--box", "4,8,20,24", "--end", 3, "--save", "masks"),
    }
    for name, options in given.items():
        alone = tmp_path / "alone" / name
        single = run("track", video, "--checkpoint", checkpoint, "--out", alone, *options)
        assert single[0] == 0, single[2]
        assert files_of(out / name) == files_of(alone)
        assert (out / name / "thumbnail.jpg").exists()
    page = (out / "report.html").read_text()
    assert 'src="click/thumbnail.jpg"' in page and page.index("outside") < page.index("click")
    click, box, outside = json.loads((out / "report.json").read_text())["jobs"]
    assert outside["state"] == "failed" and box["report"]["warnings"] == []
    # Random weights: the click can mean several things.
    (doubt,) = click["report"]["warnings"]
    assert "the click on object 1" in doubt and f"done: {doubt}" in page

    # What is done or has failed is not done again; a job of other words and a lost one are.
    rows = listed.read_text().replace("[900, 16]", "[12, 16]")
    journal = (out / "click" / "frames.jsonl").stat().st_mtime_ns
    assert run(*call)[0] == 1
    listed.write_text(rows)
    shutil.rmtree(out / "box")
    code, said, err = run(*call)
    states = [job["state"] for job in json.loads(said)["jobs"]]
    assert code == 0 and states == ["skipped", "done", "done"], err
    assert (out / "click" / "frames.jsonl").stat().st_mtime_ns == journal


def test_a_place_beyond_this_machine(
    run: Run, video: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "jobs.csv").write_text(
        f"source,out,detections\n{video},a,\"{{'0': [[4, 8, 20, 24]]}}\"\n{video},b,\n".replace(
            "'", '""'
        )
    )
    options = "--each", f"checkpoint={checkpoint}", "--each", "save=masks", "--each", "end=3"
    far = tmp_path / "far"
    call = "batch", tmp_path / "jobs.csv", "--out", f"file://{far}", *options, "--json"
    # Its second job has no prompt; of two machines the first one does the first job.
    assert run(*call)[0] == 2
    code, said, err = run(*call, "--shard", "1/2")
    assert code == 0 and json.loads(said)["done"] == 1, err
    alone = tmp_path / "alone"
    found = '{"0": [[4, 8, 20, 24]]}'
    single = run("track", video, "--checkpoint", checkpoint, "--out", alone, "--save", "masks",
                 "--end", 3, "--detections", found)  # fmt: skip
    assert single[0] == 0, single[2]
    assert files_of(far / "a") == files_of(alone) and (far / "report-1-of-2.html").exists()
    assert not list(tmp_path.glob("tempomask-*/*"))
    code, said, err = run(*call, "--shard", "1/2")
    assert code == 0 and json.loads(said)["skipped"] == 1, err
    assert run(*call, "--shard", "3/2")[0] == 2


def test_ray_is_the_pool(run: Run, video: Path, checkpoint: Path, tmp_path: Path) -> None:
    """Two actors, one of which is killed in the middle of its video: the bytes of `track`."""
    pytest.importorskip("ray")
    long = long_clip(video, tmp_path)
    points = {"one": [12, 16], "two": [14, 16], "bad": [900, 16]}
    shared = {"source": str(long), "save": "rle"}
    rows = [{**shared, "out": name, "point": point} for name, point in points.items()]
    listed = tmp_path / "jobs.jsonl"
    listed.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out"
    call = ["batch", listed, "--out", out, "--json", "--each", f"checkpoint={checkpoint}"]
    command = [sys.executable, "-m", "tempomask", *map(str, call), "--ray", "local", "--workers", 2]
    # Ray's workers let all others of a machine go first by default.
    environment = {**os.environ, "RAY_worker_niceness": "0"}
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, env=environment)
    try:
        await_frames(out / "one", process)
        os.kill(int((out / "one" / ".tempomask.lock").read_text()), signal.SIGKILL)
        said, _ = process.communicate(timeout=300)
    finally:
        process.kill()
    report = json.loads(said)
    assert process.returncode == 1 and report["done"] == 2 and report["failed"] == 1
    assert report["jobs"][0]["report"]["resumed_at"] > 3
    assert "900" in report["jobs"][2]["error"]
    # The pool finds the same jobs done, by the same markers.
    code, said, _ = run(*call)
    assert code == 1 and [job["state"] for job in json.loads(said)["jobs"]] == [
        "skipped", "skipped", "failed"]  # fmt: skip
    for row in rows[:2]:
        alone, point = tmp_path / "alone" / row["out"], ",".join(map(str, row["point"]))
        single = run("track", long, "--checkpoint", checkpoint, "--out", alone,
                     "--point", point, "--save", "rle")  # fmt: skip
        assert single[0] == 0, single[2]
        assert files_of(out / row["out"]) == files_of(alone)


def test_failed_jobs_wait_for_retry_failed(
    run: Run, video: Path, checkpoint: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "clip"
    shutil.copytree(video, mine)
    whole = (mine / "0.png").read_bytes()
    (mine / "0.png").write_bytes(whole[:40])
    call = ("batch", tmp_path / "c*p", "--out", tmp_path / "out", "--workers", 1, "--json",
            "--each", f"checkpoint={checkpoint}", "--each", "box=4,8,20,24")  # fmt: skip
    assert run(*call)[0] == 1
    (mine / "0.png").write_bytes(whole)
    code, said, _ = run(*call)
    assert code == 1 and json.loads(said)["jobs"][0]["state"] == "failed"
    code, said, err = run(*call, "--retry-failed")
    assert code == 0 and json.loads(said)["done"] == 1, err


def test_a_killed_batch_goes_on_from_its_journals(
    run: Run, video: Path, checkpoint: Path, tmp_path: Path
) -> None:
    long = long_clip(video, tmp_path)
    call = [str(word) for word in (
        "batch", tmp_path / "lon*", "--out", tmp_path / "out", "--workers", 1, "--json",
        "--each", f"checkpoint={checkpoint}", "--each", "point=12,16", "--each", "save=rle",
    )]  # fmt: skip
    command = [sys.executable, "-m", "tempomask", *call]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ})
    await_frames(tmp_path / "out" / "long", process)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert json.loads(said)["jobs"][0]["state"] == "stopped"
    code, out, err = run(*call)
    report = json.loads(out)["jobs"][0]["report"]
    assert code == 0 and report["resumed_at"] > 3, err
    alone = tmp_path / "alone"
    run(
        "track",
        long,
        "--checkpoint",
        checkpoint,
        "--out",
        alone,
        "--point",
        "12,16",
        "--save",
        "rle",
    )
    assert files_of(tmp_path / "out" / "long") == files_of(alone)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"pointt": [1, 2]}, "line 1: unknown column 'pointt'"),
        ({"direction": "up", "point": [1, 2]}, "line 1: "),
        ({"every": 3, "point": [1, 2]}, "line 1: --every 3 says how often"),
        ({}, "line 1: no prompt given"),
    ],
)
def test_a_bad_job_is_refused_before_anything_runs(
    run: Run, video: Path, tmp_path: Path, row: dict[str, Any], message: str
) -> None:
    path = tmp_path / "jobs.jsonl"
    path.write_text(json.dumps({"source": str(video), **row}))
    code, _, err = run("batch", path, "--out", tmp_path / "out")
    assert code == 2 and message in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--gpus", "all"), "--gpus all: no CUDA GPU is there; leave it out"),
        (("--gpus", "1", "--ray", "local"), "--gpus 1: with --ray the cluster chooses; give all"),
        (("--timeout", "0"), "--timeout 0 must be more than 0 seconds"),
        (("--shard", "0/2"), "--shard '0/2' is not a share"),
        (("--ray", "local"), "pip install 'tempomask[ray]'"),
        (("--ray", "127.0.0.1:1"), "pip install 'tempomask[ray]'"),
    ],
)
def test_workers_that_are_not_there(
    run: Run, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: Any, message: str
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    call = "batch", video.parent, "--each", "point=12,16", "--out", tmp_path / "out"
    code, _, err = run(*call, *words)
    assert code == 2 and message in err and err.count("\n") == 1, err


def test_gpus_by_the_names_that_they_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert cuda_devices("all") == ["0", "1", "2"] and cuda_devices("2, 0") == ["2", "0"]
    with pytest.raises(InputError, match="--gpus 0,3: .*0, 1, 2"):
        cuda_devices("0,3")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-a,7")
    assert cuda_devices("all") == ["5", "GPU-a", "7"]
    options = WorkerOptions(gpus="all")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    fleet, count, threads = options.fleet(10)
    assert isinstance(fleet, Processes) and (count, threads) == (3, 2)
    assert WorkerOptions(gpus="5", workers=2).fleet(10)[1] == 2
