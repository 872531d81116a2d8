"""Runs that are killed (SIGKILL) again and again at any moment, and equal one in one go."""

from __future__ import annotations

import json
import os
import random
import sys
import time
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tempomask.cli import main, run

FRAMES = 12


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two bright squares that cross."""
    folder = tmp_path_factory.mktemp("video") / "squares"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(FRAMES):
        frame = rng.integers(0, 60, (64, 96, 3), dtype=np.uint8)
        frame[16:40, 4 + 2 * index : 24 + 2 * index] = 220
        frame[20:50, 72 - 2 * index : 86 - 2 * index, 0] = 250
        Image.fromarray(frame).save(folder / f"{index}.png")
    return folder


def work(arguments: list[str]) -> None:
    """The command, in a process of its own; the session is kept every 4 frames, however fast."""
    run.KEEP_EVERY, run.KEEP_SHARE = 4, 1e9
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(main.main(arguments))


def start(*arguments: object) -> ForkServerProcess:
    # Copies of one process that has imported everything: a run then takes no longer than its work.
    context = get_context("forkserver")
    context.set_forkserver_preload(["tempomask.cli.tracking_task", "tempomask.model", "av"])
    process = context.Process(target=work, args=(list(map(str, arguments)),))
    process.start()
    return process


def code_of(process: ForkServerProcess) -> int | None:
    process.join()
    return process.exitcode


def lines_of(out: Path) -> dict[int, dict[str, Any]]:
    lines = (out / "frames.jsonl").read_text().splitlines()[1:]
    return {line["frame"]: line for line in map(json.loads, lines)}


def finished(out: Path) -> int:
    journal = out / "frames.jsonl"
    return journal.read_bytes().count(b"\n") - 1 if journal.exists() else 0


def killed_and_resumed(arguments: list[Any], out: Path, kills: int, rng: random.Random) -> int:
    """Kill a run at random frames until it is through; how often it was killed."""
    for killed in range(kills):
        process = start(*arguments, "--out", out, *["--resume"] * (killed > 0))
        until = finished(out) + rng.randint(1, FRAMES // (kills + 1))
        while process.is_alive() and finished(out) < until:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.02))
        if not process.is_alive():
            assert code_of(process) == 0
            return killed
        process.kill()
        process.join()
    assert code_of(start(*arguments, "--out", out, "--resume")) == 0
    return kills


PROMPTS = ("--box", "4,16,24,40", "--frame", 7, "--object", 2, "--point", "55,30")


@pytest.mark.parametrize(
    "seed, given",
    [
        (0, ("--direction", "forward", "--memory", "samurai")),
        (1, ("--direction", "both")),
    ],
)
def test_a_killed_run_of_a_tiny_model(
    clip: Path, checkpoint: Path, tmp_path: Path, seed: int, given: tuple[str, ...]
) -> None:
    arguments = ["track", clip, "--checkpoint", checkpoint, *PROMPTS, *given, "--save", "masks"]
    check(arguments, tmp_path, kills=3, rng=random.Random(seed))


def test_a_killed_run_of_nano_with_its_router(clip: Path, tmp_path: Path) -> None:
    given = ["--budget", "0.6", "--adaptive", "--dtype", "float32", "--save", "masks"]
    given += ["--image-size", "128"]
    check(["track", clip, *PROMPTS, *given], tmp_path, kills=1, rng=random.Random(2))


def check(arguments: list[Any], folder: Path, kills: int, rng: random.Random) -> None:
    assert code_of(start(*arguments, "--out", folder / "whole")) == 0
    assert killed_and_resumed(arguments, folder / "out", kills, rng) > 0
    assert lines_of(folder / "out") == lines_of(folder / "whole")
    masks = {path.name: path.read_bytes() for path in (folder / "whole" / "masks").iterdir()}
    again = {path.name: path.read_bytes() for path in (folder / "out" / "masks").iterdir()}
    assert again == masks and len(masks) == FRAMES
    assert not (folder / "out" / "session.safetensors").exists()
