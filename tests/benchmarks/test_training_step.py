"""Memory of a training step is counted on fake tensors as it is kept on real ones."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

import pytest
import torch

from benchmarks.speed import training_step
from tempomask.models.config import SEGMENTERS, HybridConfig, segmenter_config
from tempomask.models.segmenter import Segmenter
from tempomask.training import interactive
from tempomask.training.interactive import InteractiveClips
from tempomask.training.losses import LossWeights


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    nano = segmenter_config("nano")
    attention = replace(nano.memory_attention, layers=1, feedforward_dim=32)
    encoder = HybridConfig(dim=32, num_heads=2, depth=2, stem=(1, 1, 1, 1, 1))
    tiny = replace(nano, encoder=encoder, hidden_dim=32, memory_dim=16, memory_attention=attention)
    monkeypatch.setitem(SEGMENTERS, "nano", tiny)
    sampling = training_step.BothFrames(corrections=1)
    monkeypatch.setattr(training_step, "BothFrames", lambda: sampling)


def test_counted_as_kept() -> None:
    counted = training_step.memory("nano", 64, 2)
    network = Segmenter(replace(segmenter_config("nano"), image_size=64))
    core = InteractiveClips(network, LossWeights(), training_step.BothFrames(), True).train()
    clip = training_step.Noise(64, 2)[0]
    inputs = torch.from_numpy(clip.frames)[None], torch.from_numpy(clip.masks)
    found = list[float]()
    with (
        patch.multiple(interactive, click=training_step._fake_click, _chance=lambda *_: False),
        torch.autocast("cpu", torch.bfloat16),
        training_step.Counter(core).counted(found),
    ):
        core(*inputs, torch.zeros(3, dtype=torch.long), 0)
    assert counted.kept == pytest.approx(found[0], rel=0.03)
    assert 0 < counted.recomputed < counted.kept


def test_a_row_has_time_and_memory() -> None:
    row = training_step.measured("nano", 64, 2, 1)
    assert row["kept_mib"] < row["kept_without_recomputing_mib"]
    assert row["seconds"] > 0 and row["calculated_gib"] > 20 * row["parameters"] / 2**30
