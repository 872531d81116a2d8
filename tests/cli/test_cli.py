"""The command line as a whole: help, version, models, train, eval."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tempomask
from tempomask.io.images import write_label_png

Run = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--help"], ["track", "eval", "demo", "models", "train", "--traceback"]),
        (["track", "-h"], ["--point", "--negative", "--object", "--resume", "Ctrl-C"]),
        (["eval", "davis", "--help"], ["ROOT", "--sequences", "--single-object"]),
        (["train", "--help"], ["--data", "--out", "--steps", "--decay-steps", "--start"]),
        (["demo", "--help"], ["--out"]),
        (["--version"], [f"tempomask {tempomask.__version__}"]),
    ],
)
def test_help_and_version(run: Run, arguments: list[str], words: list[str]) -> None:
    code, out, _ = run(*arguments)
    assert code == 0
    assert all(word in out for word in words)


@pytest.mark.parametrize("arguments", [["trak"], ["track"], ["track", "v.mp4", "--pnt", "1,2"]])
def test_wrong_usage_is_code_2(run: Run, arguments: list[str]) -> None:
    code, out, err = run(*arguments)
    assert code == 2 and not out and err


def test_python_dash_m_works() -> None:
    command = [sys.executable, "-m", "tempomask", "track", "nothing.mp4", "--point", "1,1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    # A slow machine may say that it is starting.
    assert done.stderr.endswith("error: no such file or folder: nothing.mp4; check the path\n")


def test_models_lists_every_model(run: Run) -> None:
    from tempomask.weights.zoo import DINOV3_MODELS, INSTANCE_MODELS, MATCHING_MODELS, MODELS

    code, out, _ = run("models")
    assert code == 0
    names = [*MODELS, *MATCHING_MODELS, *INSTANCE_MODELS, *DINOV3_MODELS]
    assert all(name in out for name in names)
    rows = json.loads(run("models", "--json")[1])
    assert [row["name"] for row in rows] == names
    tasks = {"track", "track masks", "instances", "propagate"}
    assert {row["task"] for row in rows} == tasks
    assert {"parameters_millions", "image_size", "source", "licence", "path"} <= set(rows[0])


def test_models_tells_all_about_one(run: Run) -> None:
    code, out, _ = run("models", "nano")
    assert code == 0 and "nano-rds" in out and "nano.safetensors" in out
    one = json.loads(run("models", "sam2.1-tiny", "--json")[1])
    assert one["name"] == "sam2.1-tiny" and one["adapters"] == [] and one["url"]
    code, _, err = run("models", "nanno")
    assert code == 2 and "did you mean nano" in err


def test_train_passes_the_recipe_on(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tempomask.training import loop
    from tempomask.training.recipe import Recipe

    calls: list[Any] = []
    monkeypatch.setattr(loop, "train", lambda *arguments: calls.append(arguments))
    out, start = tmp_path / "run", tmp_path / "start.safetensors"
    arguments = ("--data", tmp_path, "--out", out, "--start", start, "--steps", 5, "--seed", 7)
    code, _, err = run("train", "nano", *arguments)
    assert code == 0 and str(out / "model.safetensors") in err
    assert calls == [(tmp_path, out, Recipe(steps=5, seed=7), 1, start)]


def test_train_names_weights_that_are_not_there(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = ("--data", tmp_path, "--out", out, "--start", tmp_path / "none.safetensors")
    code, _, err = run("train", "nano", *arguments)
    assert code == 2 and "none.safetensors" in err and not out.exists()


def test_train_needs_its_folders(run: Run, tmp_path: Path) -> None:
    code, _, err = run("train", "nano", "--data", tmp_path / "none", "--out", tmp_path)
    assert code == 2 and "is not a folder" in err
    (tmp_path / "file").touch()
    code, _, err = run("train", "nano", "--data", tmp_path, "--out", tmp_path / "file")
    assert code == 2 and "is a file" in err


@pytest.fixture
def davis(tmp_path: Path) -> Path:
    """Two sequences of five frames in the DAVIS layout."""
    root = tmp_path / "davis"
    for number, name in enumerate(("dog", "cat")):
        images = root / "JPEGImages" / "480p" / name
        truths = root / "Annotations" / "480p" / name
        images.mkdir(parents=True)
        truths.mkdir(parents=True)
        for index in range(5):
            labels = np.zeros((32, 48), dtype=np.int32)
            labels[8:20, 4 + index : 16 + index] = 1
            labels[22:30, 30:40] = 2 * number
            frame = np.repeat((labels * 90).astype(np.uint8)[..., None], 3, axis=2)
            Image.fromarray(frame).save(images / f"{index:05d}.jpg")
            write_label_png(truths / f"{index:05d}.png", labels)
    return root


def test_eval_davis_prints_and_writes_scores(
    run: Run, davis: Path, checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "scores"
    code, text, err = run("eval", "davis", davis, "--checkpoint", checkpoint, "--out", out)
    assert code == 0, err
    assert "J&F" in text and "dog" in text and "FPS" in text
    summary = json.loads((out / "summary.json").read_text())
    assert set(summary["sequences"]) == {"dog", "cat"}
    assert (summary["frames"], summary["objects"]) == (10, 3)
    assert len(list((out / "masks" / "dog").iterdir())) == 5

    arguments = ("--sequences", "dog", "--prompt", "box", "--json")
    code, text, _ = run("eval", "davis", davis, "--checkpoint", checkpoint, *arguments)
    assert code == 0
    assert set(json.loads(text)["sequences"]) == {"dog"}


def test_eval_davis_scores_masks_on_disk(run: Run, davis: Path) -> None:
    truth = davis / "Annotations" / "480p"
    code, text, err = run("eval", "davis", davis, "--masks", truth, "--json")
    assert code == 0, err
    assert json.loads(text)["J&F"] == 100
    code, _, err = run("eval", "davis", davis, "--masks", davis / "none")
    assert code == 2 and err.startswith("error: no such folder of masks")
    for option in (
        ("--model", "nano"),
        ("--propagator", "nano"),
        ("--device", "cpu"),
        ("--prompt", "box"),
        ("--fill-holes", 8),
        ("--budget", 0.6),
    ):
        code, _, err = run("eval", "davis", davis, "--masks", truth, *option)
        wanted = f"error: --masks scores a folder without a model; leave {option[0]} out"
        assert code == 2 and err.strip() == wanted
