"""The comparison of TAR's variants on tiny weights: rows, table, figures, what it trains."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from studies.tar import variants
from studies.tar.__main__ import main as compare_tar
from studies.tar.variants import VARIANTS, recipe_of
from tempomask.errors import InputError
from tempomask.instances.query_routing import QueryRouterConfig, TemporalQueryRouter
from tempomask.models.instances.segmenter import InstanceSegmenter
from tempomask.weights.own import RouterWeights, save_instance_segmenter


def save(path: Path, config: Any, skips: bool | None) -> Path:
    """Weights at a path; skips: with a router that skips all it may, or runs all."""
    torch.manual_seed(0)
    stored = None
    if skips is not None:
        router = TemporalQueryRouter(QueryRouterConfig(dim=32, layers=4, hidden_dim=8, num_heads=2))
        with torch.no_grad():
            for module in router.routers:
                module.score.bias.copy_(torch.tensor([9.0, -9.0] if skips else [-9.0, 9.0]))
        stored = RouterWeights(router.config.to_json(), router.state_dict())
    path.parent.mkdir(parents=True, exist_ok=True)
    save_instance_segmenter(InstanceSegmenter(config), path, stored)
    return path


def test_the_comparison(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    video_set: Callable[..., Path],
    instance_config: Callable[..., Any],
) -> None:
    def known_classes_alone(content: dict[str, Any]) -> None:
        del content["videos"][1:]
        content["annotations"] = [a for a in content["annotations"] if a["video_id"] == 1]

    data = video_set(known_classes_alone)
    weights, out = tmp_path / "weights", tmp_path / "out/tar.json"
    base = save(tmp_path / "base.safetensors", instance_config(), None)
    save(weights / "tar/model.safetensors", instance_config(), True)
    other = save(tmp_path / "other.safetensors", instance_config(), False)
    arguments = [
        "--base", base, "--weights", weights, "--weights", f"bipartite={other}", "--data", data,
        "--change-data", data,
        "--rounds", 1, "--timed-videos", 1, "--dtype", "float32", "--device", "cpu", "--out", out,
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["tar", *map(str, arguments)])
    compare_tar()
    report = json.loads(out.read_text())
    layers = {row["name"]: row["layers_after_first"] for row in report["rows"]}
    assert layers == {
        "fixed-1": 1, "fixed-2": 2, "fixed-3": 3, "baseline": 4,
        "tar": 1, "bipartite": 4, "tar-all-layers": 4,
    }  # fmt: skip
    by_name = {row["name"]: row for row in report["rows"]}
    assert by_name["tar"]["layers_run"] == pytest.approx((4 + 4 * 1) / 5)
    assert by_name["tar"]["layer_rates"] == [1, 0, 0, 0]
    assert all(0 < row["decoder_ms"] < row["frame_ms"] for row in report["rows"])
    difference = by_name["tar"]["intervals"]["ap"]["difference"]
    assert difference["mean"] == pytest.approx(
        by_name["tar"]["AP"] - by_name["baseline"]["AP"], abs=0.01
    )
    changes = json.loads((out.parent / "tar_change.json").read_text())["frames"]
    assert [(c["step"], c["frame"]) for c in changes] == [
        *((1, f) for f in range(1, 5)), (2, 2), (2, 4), (4, 4)
    ]  # fmt: skip
    table = out.with_suffix(".md").read_text()
    assert "TAR, bipartite synchroniser" in table and "no synchroniser" not in table
    assert "bipartite synchroniser, AP against the baseline" in table
    for figure in ("tar.png", "tar_change.png"):
        assert figure in table and (out.parent / figure).stat().st_size > 1000


def test_recipes_of_the_variants() -> None:
    recipes = {name: recipe_of(v, "nano-vis", 3, 30) for name, v in VARIANTS.items()}
    routers = {
        name: recipe.router and (recipe.router.synchroniser, recipe.router.warmup_layers)
        for name, recipe in recipes.items()
    }
    alone = {
        name for name, recipe in recipes.items() if recipe.router and not recipe.router.routers
    }
    assert alone == {"attention-alone", "bipartite-alone"}
    assert routers == {
        "tar": ("attention", 1),
        "no-synchroniser": ("none", 1),
        "bipartite": ("bipartite", 1),
        "attention-alone": ("attention", 1),
        "bipartite-alone": ("bipartite", 1),
        "warmup-2": ("attention", 2),
        "warmup-3": ("attention", 3),
        "warmup-4": ("attention", 4),
        "layer-loss-2": ("attention", 1),
        "layer-loss-10": ("attention", 1),
        "longer": None,
    }
    weights = {name: recipe.losses.layers for name, recipe in recipes.items()}
    assert {name: x for name, x in weights.items() if x} == {"layer-loss-2": 2, "layer-loss-10": 10}
    for recipe in recipes.values():
        # The control sees the same frames in the same steps at the same rate.
        assert (recipe.seed, recipe.steps, recipe.num_frames, recipe.learning_rate) == (
            3, 30, 2, 1e-4,
        )  # fmt: skip
    assert recipe_of(VARIANTS["tar"], "nano-vis-dvis", 1, None).stage == "tar-dvis"
    assert recipe_of(VARIANTS["longer"], "nano-vis-dvis", 1, None).stage == "dvis"
    assert recipe_of(VARIANTS["tar"], "minvis-r50-ovis", 1, None).model == "minvis-r50-ovis"


def test_training_goes_on_where_it_stopped(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    video_set: Callable[..., Path],
    instance_config: Callable[..., Any],
) -> None:
    trained = []

    def pretend(recipe: Any, clips: Any, classes: Any, folder: Path, *_: Any, **__: Any) -> None:
        trained.append(folder.name)
        save(folder / "model.safetensors", instance_config(), True)
        text = json.dumps(asdict(recipe))
        (folder / "recipe.json").write_text(text)

    monkeypatch.setattr(variants, "train_instances", pretend)
    base = save(tmp_path / "base.safetensors", instance_config(), None)
    data, out = video_set(), tmp_path / "runs"
    made = variants.train(base, data, out, ["tar", "bipartite"], steps=2)
    assert trained == ["tar", "bipartite"] and variants.find_weights([str(out)]) == made
    (out / "bipartite/model.safetensors").unlink()
    variants.train(base, data, out, ["tar", "bipartite", "longer"], steps=2)
    assert trained == ["tar", "bipartite", "bipartite", "longer"]
    with pytest.raises(InputError, match="steps 2, .*3"):
        variants.train(base, data, out, ["tar"], steps=3)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("nowhere", "no folder nowhere"),
        ("other=x.safetensors", "unknown variant 'other'"),
        ("tar=nowhere.safetensors", "no weights of tar"),
    ],
)
def test_weights_that_are_not_there(place: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        variants.find_weights([place])
