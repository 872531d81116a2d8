"""Parts of the engine take turns; the cost of a model is that of its layers; the floor adds up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.speed import frame_profile, instance_models
from benchmarks.speed.engine_steps import _InPairs
from tempomask.engine.rotated_keys import RotatedKeys
from tempomask.models.config import HieraConfig, segmenter_config
from tempomask.ops.rope import axial_table
from tempomask.weights.zoo import INSTANCE_MODELS


def test_engine_steps_take_turns(run_script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = HieraConfig(embed_dim=16, stages=(1, 1, 1, 1), global_attention_blocks=(2,))
    small = replace(segmenter_config("sam2.1-tiny"), encoder=encoder, image_size=128)
    monkeypatch.setattr("tempomask.models.config.segmenter_config", lambda name: small)
    (model,) = run_script("benchmarks/speed/engine_steps.py", "--models", "small", "--rounds", "2")[
        "models"
    ]
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


def test_keys_turned_in_pairs_are_the_engine_s() -> None:
    layer = nn.Linear(8, 16)
    pairs = axial_table(4, 4, 16, 10000.0, torch.device("cpu"))
    table = tuple(x.repeat_interleave(2, dim=1) for x in pairs)
    memory, keys = torch.randn(2, 48, 8), torch.empty(2, 2, 48, 16)
    with torch.no_grad():
        for kind, out in zip((RotatedKeys, _InPairs), keys, strict=True):
            kind(layer, table, 4, torch.float32)(memory, out)
    assert torch.allclose(*keys, atol=1e-5)


def test_model_cost_adds_up(run_script: Any) -> None:
    (nano,) = run_script("benchmarks/speed/model_cost.py", "--models", "nano")["models"]
    parts = dict(nano["million_parameters"])
    whole, inside = parts.pop("whole"), parts.pop("of the encoder")
    # Beside the parts there are a few embeddings.
    assert sum(parts.values()) == pytest.approx(whole, abs=0.01)
    assert sum(inside.values()) == pytest.approx(parts["encoder"], abs=0.01)
    cost = nano["giga_multiply_adds"]
    assert cost["encoder"]["weights"] < cost["encoder"]["all"] < cost["frame"]["all"]


def test_models_take_turns(run_script: Any) -> None:
    names = "nano,nano@0.6@0.3"
    report = run_script("benchmarks/speed/models.py", "--models", names, "--frames", "1")
    first, second = report["rows"]
    assert [first["model"], second["model"]] == names.split(",")
    assert first["times_the_first"] == 1 and second["times_the_first"] > 0
    # Eight memories of 64 channels in bfloat16, on 24 x 24 places, and pointers.
    assert first["memory_bank_mb"] == second["memory_bank_mb"] > 7 * 64 * 24**2 * 2 / 2**20


@pytest.mark.parametrize("name", ["nano-vis", "nano-vis-dvis"])
def test_instance_models_are_timed(name: str) -> None:
    row = instance_models.measured(name, 2)
    assert row["model"] == name and row["seconds"] > 0
    # As the list of models says.
    assert row["million_parameters"] == pytest.approx(INSTANCE_MODELS[name].parameters, rel=0.03)


def test_the_floor_adds_products_and_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products take what is longer, their arithmetic or their bytes; a share is seen in turns."""
    recorder = frame_profile.Recorder()
    query = torch.randn(1, 2, 64, 16)
    with torch.no_grad(), recorder:
        torch.randn(8, 4) @ torch.randn(4, 2)
        torch.nn.functional.scaled_dot_product_attention(query, query, query)
    assert recorder.products == [(2 * 8 * 4 * 2, 4 * (8 * 4 + 4 * 2 + 8 * 2))]
    assert recorder.attentions == [4 * 2 * 64 * 64 * 16]
    peak = {"products": 64.0, "attention": 2.0**18, "bandwidth": 1e9}
    assert recorder.floor(peak) == {"products": 2.0, "attention": 2.0}
    assert recorder.floor({**peak, "bandwidth": 56.0})["products"] == 4.0

    monkeypatch.setattr(frame_profile, "shortest", lambda *_: 1.0)
    monkeypatch.setattr(frame_profile, "sustained", lambda *_: 5.0)
    report = frame_profile.floor_report(
        lambda: None, recorder, SimpleNamespace(measure=lambda _: peak)
    )
    assert report["encoder_share_of_floor"] == 0.8
    assert report["encoder_share_of_floor_by_turn"] == [0.8] * frame_profile.TURNS


def test_sides_take_turns(run_script: Any, save_pair: Any, tmp_path: Path) -> None:
    for t in range(9):
        labels = np.zeros((96, 128), np.uint8)
        labels[30:66, 20 + 3 * t : 60 + 3 * t] = 1
        save_pair(tmp_path, f"dog/{t:05d}", labels, ("JPEGImages/480p", "Annotations/480p"))
    sides = "plain:float32,fast+pooled+memory=0.5+blocks=0.6:float32"
    arguments = ("--data", tmp_path, "--model", "nano", "--frames", "9", "--sides", sides)
    report = run_script("benchmarks/speed/in_turns.py", *arguments)
    assert [row["side"] for row in report["rows"]] == sides.split(",")
    assert report["rows"][0]["times_as_fast"] == 1
    for row in report["rows"]:
        assert 0 < row["from_to"][0] <= row["times_as_fast"] <= row["from_to"][1]
    assert report["machine"]["float32_product_gflops"] > 0
