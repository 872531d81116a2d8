"""What the engine's trials compare computes the same; the cost of a model is that of its layers."""

from __future__ import annotations

import json
import runpy
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from tempomask.engine.packed import can_pack
from tempomask.engine.rotated_keys import RotatedKeys
from tempomask.models.config import HieraConfig, segmenter_config
from tempomask.ops.rope import axial_table

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A benchmark as from the command line; returns the JSON that it writes."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def call(script: str, *arguments: str) -> Any:
        out = tmp_path / "report.json"
        monkeypatch.setattr(sys, "argv", [script, *arguments, "--out", str(out)])
        threads, engine = torch.get_num_threads(), torch.backends.quantized.engine
        try:
            runpy.run_path(str(BENCHMARKS / script), run_name="__main__")
        finally:
            torch.set_num_threads(threads)
            torch.backends.quantized.engine = engine
        return json.loads(out.read_text())

    return call


# Of the outputs' norm: products are rounded in bfloat16 where the CPU multiplies it.
ROUNDING = 0.03


@pytest.mark.parametrize(
    "part, names",
    [
        ("encoder", {"attention, windows", "MLP", "2x2 max-pooling", "neck"}),
        ("nano", {"nano's stem, float32", "attention in training, backward pass"}),
    ],
)
def test_ways_that_are_timed_compute_the_same(run: Any, part: str, names: set[str]) -> None:
    trials = run("engine_trials.py", "--quick", "--one-core", "--parts", part)["trials"]
    assert names <= trials.keys()
    for name, trial in trials.items():
        assert all(value < ROUNDING for value in trial["difference"].values()), name
        assert trial["used"] not in trial["ratio"]
        assert all(value > 0 for value in trial["milliseconds"].values())


def test_engine_steps_take_turns(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = HieraConfig(embed_dim=16, stages=(1, 1, 1, 1), global_attention_blocks=(2,))
    small = replace(segmenter_config("sam2.1-tiny"), encoder=encoder, image_size=128)
    monkeypatch.setattr("tempomask.models.config.segmenter_config", lambda name: small)
    (model,) = run("engine_steps.py", "--models", "small", "--rounds", "2")["models"]
    assert model["seconds"].keys() == {
        "plain",
        "fast",
        "without packed layers",
        "without strips",
        "without the fused neck",
        "memory keys turned pair by pair",
    }
    for parts in model["seconds"].values():
        for times in parts.values():
            assert 0 < times["shortest"] <= times["median"] <= times["longest"]
    assert all(times["ratio"] == 1 for times in model["seconds"]["fast"].values())


def test_keys_turned_in_pairs_are_the_engine_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    steps, layer = import_module("engine_steps"), nn.Linear(8, 16)
    pairs = axial_table(4, 4, 16, 10000.0, torch.device("cpu"))
    table = tuple(x.repeat_interleave(2, dim=1) for x in pairs)
    memory, keys = torch.randn(2, 48, 8), torch.empty(2, 2, 48, 16)
    with torch.no_grad():
        for kind, out in zip((RotatedKeys, steps._InPairs), keys, strict=True):
            kind(layer, table, 4, torch.float32)(memory, out)
    assert torch.allclose(*keys, atol=1e-5)


def test_compiled_trials_compute_the_same(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # Compiling takes a minute and a C++ compiler; what is compared must agree without it.
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    trials = run("engine_trials.py", "--quick", "--one-core", "--parts", "compiled")["trials"]
    assert trials.keys() == {"compiled encoder", "compiled attention to memories"}
    for name, trial in trials.items():
        assert all(value < ROUNDING for value in trial["difference"].values()), name


def test_memory_trials_compute_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    memory, encoder, trials = map(
        import_module, ("trials_of_memory", "trials_of_encoder", "trials")
    )
    makers = [memory.cross_trials, memory.rotation_trials, memory.small_trials]
    if can_pack(nn.Linear(8, 8), torch.bfloat16):
        makers.append(memory.epilogue_trials)
    for make in makers:
        for trial in make(encoder.QUICK, torch.bfloat16):
            differences = trials.run(trial)["difference"].values()
            assert all(value < ROUNDING for value in differences), trial.name


@pytest.mark.skipif(
    not can_pack(nn.Linear(8, 8), torch.bfloat16), reason="no bfloat16 matrix units"
)
def test_int8_layers_are_near_the_exact_ones(run: Any) -> None:
    for layer in run("int8_trials.py", "--quick")["layers"].values():
        assert 0 < layer["difference"]["bfloat16"] < layer["difference"]["int8 (oneDNN)"] < 0.05


def test_model_cost_adds_up(run: Any) -> None:
    (nano,) = run("model_cost.py", "--models", "nano")["models"]
    parts = dict(nano["million_parameters"])
    whole, inside = parts.pop("whole"), parts.pop("of the encoder")
    # Beside the parts there are a few embeddings.
    assert sum(parts.values()) == pytest.approx(whole, abs=0.01)
    assert sum(inside.values()) == pytest.approx(parts["encoder"], abs=0.01)
    cost = nano["giga_multiply_adds"]
    assert cost["encoder"]["weights"] < cost["encoder"]["all"] < cost["frame"]["all"]


def test_nano_prompts(run: Any, tmp_path: Path) -> None:
    """Bright rectangles: every number is there, and they are followed from their mask."""
    root = tmp_path / "data" / "davis16-train-256"
    for number, name in enumerate(("dance-jump", "horsejump-low", "rollerblade", "soccerball")):
        for t in range(2):
            labels = np.zeros((256, 320), np.uint8)
            labels[60:200, 60 + 9 * number + 2 * t : 180 + 9 * number + 2 * t] = 1
            save_pair(root, ("JPEGImages", "Annotations"), f"{name}/{t:05d}", labels)
    # The library of cut-outs lists them; none is drawn for the images that validate.
    for name in ("person-ccp", "person-290", "horse-weizmann", "nuclei-dsb2018", "regions-bsds500"):
        folder = root.parent / "stills-256" / name
        save_pair(folder, ("images", "labels"), "0", np.eye(64, dtype=np.uint8))
    arguments = ("--frames", "2", "--images", "2", "--image-size", "256")
    report = run("nano_prompts.py", "--data", str(root.parent), *arguments)
    assert report["images"] == 2 and report["objects"] >= 4
    assert set(report["iou"]) == {"click", "box"}
    assert report["tracking"]["mask"]["J"] > 70
    scores = report["position_scores"]
    assert scores["clicked"] > scores["deviation"]


def save_pair(root: Path, folders: tuple[str, str], name: str, labels: NDArray[np.uint8]) -> None:
    """An image of what the labels (H, W) mark, and the labels."""
    frame = np.stack([30 + 200 * labels, 90 - 60 * labels, 60 + 30 * labels], axis=2)
    for folder, values, ending in zip(folders, (frame, labels), (".jpg", ".png"), strict=True):
        path = root / folder / f"{name}{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values.astype(np.uint8)).save(path)


def test_the_floor_adds_products_and_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products take what is longer, their arithmetic or their bytes; a share is seen in turns."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    benchmark = import_module("frame_profile")
    recorder = benchmark.Recorder()
    query = torch.randn(1, 2, 64, 16)
    with torch.no_grad(), recorder:
        torch.randn(8, 4) @ torch.randn(4, 2)
        torch.nn.functional.scaled_dot_product_attention(query, query, query)
    assert recorder.products == [(2 * 8 * 4 * 2, 4 * (8 * 4 + 4 * 2 + 8 * 2))]
    assert recorder.attentions == [4 * 2 * 64 * 64 * 16]
    peak = {"products": 64.0, "attention": 2.0**18, "bandwidth": 1e9}
    assert recorder.floor(peak) == {"products": 2.0, "attention": 2.0}
    assert recorder.floor({**peak, "bandwidth": 56.0})["products"] == 4.0

    monkeypatch.setattr(benchmark, "best", lambda *_: 1.0)
    monkeypatch.setattr(benchmark, "sustained", lambda *_: 5.0)
    report = benchmark.floor_report(lambda: None, recorder, SimpleNamespace(measure=lambda _: peak))
    assert report["encoder_share_of_floor"] == 0.8
    assert report["encoder_share_of_floor_by_turn"] == [0.8] * benchmark.TURNS
