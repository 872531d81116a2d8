"""Fine-tuning: rates and groups by value, prompted frames, resuming, adapters, what comes out."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tempomask.cli import main as cli
from tempomask.data.clips import Clip, ClipBatch, collate
from tempomask.errors import InputError
from tempomask.models.config import (
    SEGMENTERS,
    HieraConfig,
    MaskDecoderConfig,
    SegmenterConfig,
    ViTConfig,
    segmenter_config,
)
from tempomask.models.segmenter import Segmenter
from tempomask.training import run as run_module
from tempomask.training.finetune import Finetuning, layers_after, trained_groups, validated
from tempomask.training.finetune_recipe import (
    FinetuneRecipe,
    InteractiveSampling,
    finetune_recipe,
)
from tempomask.training.interactive import InteractiveClips
from tempomask.training.losses import LossWeights
from tempomask.training.one_device import OneDevice
from tempomask.training.regularise import add_drop_path, add_dropout
from tempomask.weights import load_segmenter, to_official
from tests.data.test_footage import davis, sa1b, sav
from tests.training.conftest import SIDE, DiskClips

HIERA = HieraConfig(
    embed_dim=8, stages=(1, 1, 2, 1), global_attention_blocks=(3,), position_size=(3, 3)
)
VIT = ViTConfig(dim=16, num_heads=2, depth=2, global_attention_blocks=(1,), position_size=3)
RECIPE = FinetuneRecipe(
    image_size=SIDE,
    steps=4,
    num_frames=3,
    save_every=2,
    validate_every=2,
    at_once=2,
    batch_size=2,
    checkpointing=False,
    prompts=InteractiveSampling(corrections=1),
)


def shrunk(config: SegmenterConfig) -> SegmenterConfig:
    return replace(
        config,
        encoder=VIT if isinstance(config.encoder, ViTConfig) else HIERA,
        image_size=SIDE,
        hidden_dim=32,
        memory_dim=16,
        memory_attention=replace(config.memory_attention, layers=1, feedforward_dim=32),
        mask_decoder=MaskDecoderConfig(num_heads=4, feedforward_dim=32, iou_hidden_dim=16),
    )


@pytest.fixture(autouse=True)
def small_models(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sam2.1-tiny", "sam2-tiny", "efficienttam-ti"):
        monkeypatch.setitem(SEGMENTERS, name, shrunk(SEGMENTERS[name]))


def network(name: str = "sam2.1-tiny") -> Segmenter:
    torch.manual_seed(0)
    return Segmenter(segmenter_config(name))


def save_official(path: Path, name: str = "sam2.1-tiny") -> Path:
    torch.save({"model": to_official(network(name).state_dict())}, path)
    return path


# -- schedules and groups


@pytest.mark.parametrize(
    ("name", "step", "share"),
    [
        ("sam2", 0, 1.0),
        ("sam2", 500, 0.55),
        ("sam2", 1000, 0.1),
        # 1k steps of warm-up, then 1 / sqrt(1 + t / 1000), and 5k of cooldown to the 90,000th.
        ("efficienttam-images", 0, 1 / 1000),
        ("efficienttam-images", 499, 0.5),
        ("efficienttam-images", 999, 1.0),
        ("efficienttam-images", 4000, 0.5),
        ("efficienttam-images", 81_000, 1 / 9),
        ("efficienttam-images", 87_500, 0.5 / math.sqrt(87.5)),
        ("efficienttam-images", 89_999, 1 / 5000 / math.sqrt(89.999)),
        # 15k of warm-up, then a half-cosine to a tenth.
        ("efficienttam-videos", 7499, 0.5),
        ("efficienttam-videos", 15_000, 1.0),
        ("efficienttam-videos", 157_500, 0.55),
        ("efficienttam-videos", 300_000, 0.1),
    ],
)
def test_rates_by_step(name: str, step: int, share: float) -> None:
    recipe = finetune_recipe(name)
    recipe = replace(recipe, steps=1000) if name == "sam2" else recipe
    assert recipe.rate(step) == pytest.approx(share, rel=1e-6)


def test_recipes_are_the_papers() -> None:
    sam2, images, videos = map(
        finetune_recipe, ("sam2", "efficienttam-images", "efficienttam-videos")
    )
    assert (sam2.num_frames, sam2.most_objects, sam2.passes) == (8, 3, 80)
    assert (sam2.learning_rate, sam2.encoder_rate, sam2.clip_norm) == (5e-6, 3e-6, 0.1)
    assert (sam2.layer_decay, sam2.weight_decay, sam2.drop_path) == (0.9, 0.1, 0.1)
    assert (images.steps, images.num_frames, images.most_objects) == (90_000, 1, 64)
    assert images.learning_rate == images.encoder_rate == 4e-4
    assert (videos.steps, videos.learning_rate, videos.encoder_rate) == (300_000, 3e-4, 6e-5)
    assert images.layer_decay == videos.layer_decay == 0.8 and videos.most_objects == 3
    assert (images.changes.degrees, videos.changes.degrees, videos.changes.shear) == (0, 25, 20)
    with pytest.raises(InputError, match="'sam'.* sam2"):
        finetune_recipe("sam")


def test_every_parameter_has_the_rate_and_decay_of_the_official_code() -> None:
    segmenter = network()
    groups = trained_groups(segmenter, RECIPE)
    names = {id(p): name for name, p in segmenter.named_parameters()}
    found = {
        names[id(p)]: (group["lr"], group["weight_decay"])
        for group in groups
        for p in group["params"]
    }
    assert found.keys() == dict(segmenter.named_parameters()).keys()
    expected = {
        "mask_decoder.stride_4.weight": (5e-6, 0.1),
        "no_memory": (5e-6, 0.1),
        "memory_attention.norm.weight": (5e-6, 0.0),
        "memory_encoder.fuser.0.scale": (5e-6, 0.1),
        "neck.laterals.0.weight": (3e-6, 0.1),
        "encoder.window_position": (3e-6, 0.1),
        # Five blocks: the last is one layer below what follows, the embedding six.
        "encoder.blocks.4.qkv.weight": (3e-6 * 0.9, 0.1),
        "encoder.blocks.0.qkv.bias": (3e-6 * 0.9**5, 0.0),
        "encoder.blocks.0.mlp_norm.weight": (3e-6 * 0.9**5, 0.0),
        "encoder.patch_embedding.weight": (3e-6 * 0.9**6, 0.1),
    }
    for name, (rate, decay) in expected.items():
        assert found[name] == (pytest.approx(rate), decay), name
    assert layers_after(segmenter.encoder, "encoder.blocks.2.expand.weight") == 3


# -- noise


def test_drop_path_leaves_out_whole_samples_and_keeps_the_mean() -> None:
    segmenter = network()
    plain, block = network(), segmenter.encoder.blocks[3]
    add_drop_path(segmenter.encoder, 0.5)
    x = torch.randn(400, 2, 2, 32)
    block.train()
    torch.manual_seed(0)
    added = block.attend(x) - x
    whole = plain.encoder.blocks[3].attend(x) - x
    dropped = added.flatten(1).abs().amax(1) == 0
    assert 0.3 < dropped.float().mean() < 0.45, "three quarters of the last block's"
    torch.testing.assert_close(added[~dropped], 1.6 * whole[~dropped], atol=1e-5, rtol=1e-4)
    block.eval()
    torch.testing.assert_close(block.attend(x) - x, whole)
    first = segmenter.encoder.blocks[0].train()
    assert torch.equal(first(x[..., :8]), plain.encoder.blocks[0](x[..., :8])), "none at first"


def test_dropout_acts_in_training_alone() -> None:
    segmenter, plain = network().eval(), network().eval()
    add_dropout(segmenter.memory_attention, 0.5)
    x = torch.randn(2, 16, 32)
    layer, same = segmenter.memory_attention.layers[0], plain.memory_attention.layers[0]
    told = layer.self_attention.attend_self(x, (4, 4))
    assert torch.equal(told, same.self_attention.attend_self(x, (4, 4)))
    layer.train()
    dropped = layer.self_attention.attend_self(x, (4, 4)) == 0
    assert 0.4 < dropped.float().mean() < 0.6


# -- clips


def drawn(sampling: InteractiveSampling, length: int, count: int = 400) -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    return [sampling.drawn(length, generator) for _ in range(count)]


def test_frames_are_prompted_as_in_the_official_code() -> None:
    found = drawn(InteractiveSampling(), 8)
    points = [one for one in found if one.points]
    assert 0.4 < len(points) / len(found) < 0.6
    for one in found:
        assert one.conditioning[0] == 0 and len(one.conditioning) in (1, 2)
        assert len(set(one.conditioning)) == len(one.conditioning)
        assert one.points == bool(one.corrected)
    for one in points:
        assert one.corrected[: len(one.conditioning)] == one.conditioning
        assert len(one.corrected) <= 2
    assert {len(one.conditioning) for one in found} == {1, 2}
    assert {i for one in found for i in one.conditioning} == set(range(8))
    for one in drawn(InteractiveSampling(), 1, 20):
        assert one.points and one.conditioning == one.corrected == (0,)


def clip_model(sampling: InteractiveSampling, checkpointing: bool = False) -> InteractiveClips:
    return InteractiveClips(network(), LossWeights(), sampling, checkpointing)


@pytest.mark.parametrize(
    ("sampling", "predictions"),
    [
        # Eight frames: tracked ones; the prompted one with 7 corrections, and one more corrected.
        (InteractiveSampling(points=0, conditioning=1), 7),
        (InteractiveSampling(points=1, conditioning=1, corrected=1), 8 + 7),
        (InteractiveSampling(points=1, conditioning=1, corrected=1, corrections=2), 8 + 2),
    ],
)
def test_every_prediction_counts_once(sampling: InteractiveSampling, predictions: int) -> None:
    model = clip_model(sampling)
    model._decode, calls = _counted(model._decode)  # type: ignore[method-assign]
    losses = model(*collate([DiskClips(8)[0], DiskClips(8)[1]]), seed=1)
    assert len(calls) == predictions
    torch.testing.assert_close(losses.total, torch.stack(calls).sum())
    assert 0 <= losses.iou <= 1


def _counted(function: Callable[..., Any]) -> tuple[Callable[..., Any], list[Tensor]]:
    seen: list[Tensor] = []

    def call(*arguments: Any) -> Any:
        result = function(*arguments)
        seen.append(result[1])
        return result

    return call, seen


def test_a_later_conditioning_frame_is_seen_by_those_before_it() -> None:
    sampling = InteractiveSampling(points=0.0, conditioning=2)
    model = clip_model(sampling)
    seed = next(
        seed
        for seed in range(50)
        if sampling.drawn(8, torch.Generator().manual_seed(seed)).conditioning == (0, 6)
    )
    seen = []
    attend = model.segmenter.attend

    def watched(features: Tensor, memory: Any) -> Tensor:
        seen.append(memory)
        return attend(features, memory)

    model.segmenter.attend = watched  # type: ignore[method-assign]
    model(*collate([DiskClips(8)[0]]), seed=seed)
    inputs = seen[2]  # of frame 3
    assert inputs.temporal_index.tolist() == [6, 6, 1, 0]
    # Signed, over the clip's frames less one, as in the official training.
    assert (7 * inputs.pointer_distance).round().tolist() == [3, -3, 1, 2]


def test_recomputing_changes_neither_loss_nor_gradient() -> None:
    batch = collate([DiskClips(4)[0], DiskClips(4)[1]])
    found = []
    for checkpointing in (False, True):
        model = clip_model(InteractiveSampling(points=1.0), checkpointing)
        add_drop_path(model.segmenter.encoder, 0.3)
        add_dropout(model.segmenter.memory_attention, 0.3)
        torch.manual_seed(5)
        losses = model.train()(*batch, seed=3)
        losses.total.backward()
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        found.append((losses.total.detach(), torch.cat([g.flatten() for g in grads])))
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-4)


# -- runs


def score(segmenter: Segmenter) -> dict[str, float]:
    """Something that depends on the weights alone."""
    value = segmenter.no_memory.detach().float().abs().mean().item()
    return {"disk": value, "mean": value}


def make(out: Path, recipe: FinetuneRecipe = RECIPE, **changes: Any) -> Finetuning:
    recipe = replace(recipe, **changes)
    segmenter = network(recipe.model)
    return Finetuning(recipe, segmenter, DiskClips(recipe.num_frames), out, score, workers=0)


class Stopped(Exception):
    """A run that was stopped from outside."""


def test_a_stopped_run_goes_on_to_the_same_numbers(tmp_path: Path) -> None:
    whole = make(tmp_path / "whole")
    whole.complete()
    part = make(tmp_path / "parts")
    step = part._train_step

    def stopping(batch: ClipBatch) -> dict[str, float]:
        if part.step == 2:
            raise Stopped
        return step(batch)

    part._train_step = stopping  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        part.complete()
    again = make(tmp_path / "parts")
    again.complete()
    assert again.step == 4
    for one, other in zip(whole.average.parameters(), again.average.parameters(), strict=True):
        assert torch.equal(one, other)
    assert validated(tmp_path / "whole") == validated(tmp_path / "parts")
    assert [row["step"] for row in validated(tmp_path / "parts")] == [0, 2, 4]
    with pytest.raises(InputError, match="learning_rate"):
        make(tmp_path / "parts", learning_rate=1.0).complete()
    for text in ('{"step": 0, "me', '{"step": 0}\n', '{"step": 0, "mean": NaN}\n'):
        (tmp_path / "parts" / "validation.jsonl").write_text(text)
        with pytest.raises(InputError, match="validation.jsonl"):
            validated(tmp_path / "parts")
    with pytest.raises(InputError, match="steps"):
        make(tmp_path / "parts", steps=9).complete()


def test_the_best_step_is_kept(tmp_path: Path) -> None:
    run = make(tmp_path, steps=6, learning_rate=1e-3)
    given = iter([0.1, 0.5, 0.9, 0.3])
    seen = {}

    def scores(segmenter: Segmenter) -> dict[str, float]:
        seen[run.step] = segmenter.no_memory.detach().clone()
        return {"mean": next(given)}

    run.scores = scores
    run.complete()
    kept = load_segmenter(None, run.finish())
    torch.testing.assert_close(kept.no_memory.detach(), seen[4], atol=0, rtol=0)
    assert not torch.equal(seen[4], seen[6])


def test_parts_of_a_batch_are_computed_apart(tmp_path: Path) -> None:
    run = make(tmp_path, batch_size=3, at_once=2)
    clips = [DiskClips()[i] for i in range(3)]
    two = Clip(clips[1].frames, np.concatenate([clips[1].masks, clips[1].masks]), "two")
    batch = collate([clips[0], two, clips[2]])
    first, second = run._parts(batch)
    assert first.clip.tolist() == [0, 1, 1] and second.clip.tolist() == [0]
    assert torch.equal(torch.cat([first.masks, second.masks]), batch.masks)
    assert torch.equal(torch.cat([first.frames, second.frames]), batch.frames)


def test_adapters_are_merged_into_the_weights(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    run = make(tmp_path, lora=2, learning_rate=0.02, encoder_rate=0.02, frozen=("neck",), steps=3)
    before = network()
    run.complete()
    image = torch.randn(1, 3, SIDE, SIDE)
    plain, wrapped = run.averaged, run.average.segmenter.eval()
    assert plain.state_dict().keys() == before.state_dict().keys()
    told = plain.encode(image).features
    torch.testing.assert_close(told, wrapped.encode(image).features, atol=1e-4, rtol=1e-4)
    changed = {
        name
        for name, value in plain.state_dict().items()
        if not torch.equal(value, before.state_dict()[name])
    }
    assert any(name.startswith("encoder.blocks.1.qkv.weight") for name in changed)
    assert not any(
        name.startswith(("neck.", "encoder.patch", "encoder.window")) for name in changed
    )
    trained, every = run.parameters
    assert trained < every == sum(p.numel() for p in before.parameters())


def test_what_cannot_be_frozen(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'encodr'.* encoder"):
        make(tmp_path, frozen=("encodr",))
    every = tuple(name for name, _ in network().named_parameters())
    with pytest.raises(InputError, match="nothing is left"):
        make(tmp_path, recipe=RECIPE, frozen=every)


def test_one_device_trains_without_accelerate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_it = make(tmp_path / "with")
    with_it.complete()
    monkeypatch.setitem(__import__("sys").modules, "accelerate", None)
    alone = make(tmp_path / "alone")
    assert isinstance(alone.accelerator, OneDevice)
    alone.complete()
    for one, other in zip(with_it.average.parameters(), alone.average.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="accelerate"):
        run_module.make_accelerator()


@pytest.mark.parametrize("name", ["efficienttam-images", "efficienttam-videos"])
def test_efficienttam_learns_a_few_clips_by_heart(name: str, tmp_path: Path) -> None:
    recipe = replace(
        finetune_recipe(name),
        image_size=SIDE,
        steps=60,
        warmup_steps=10,
        decay_steps=10,
        timescale=1000,
        num_frames=min(3, finetune_recipe(name).num_frames),
        learning_rate=3e-3,
        encoder_rate=3e-3,
        clip_norm=1.0,
        dropout=0.0,
        checkpointing=False,
        prompts=InteractiveSampling(corrections=1),
        save_every=1000,
        validate_every=1000,
    )

    class Few(DiskClips):
        def __getitem__(self, index: int) -> Clip:
            return super().__getitem__(0)

    run = Finetuning(recipe, network(recipe.model), Few(recipe.num_frames), tmp_path, workers=0)
    ious, step = [], run._train_step

    def watched(batch: ClipBatch) -> dict[str, float]:
        values = step(batch)
        ious.append(values["iou"])
        return values

    run._train_step = watched  # type: ignore[method-assign]
    run.complete()
    assert np.mean(ious[:8]) < 0.5 < 0.8 < np.mean(ious[-8:])


def test_data_that_fails_on_the_way_is_one_line(tmp_path: Path) -> None:
    class Broken(DiskClips):
        def __getitem__(self, index: int) -> Clip:
            raise InputError("sequence dog: it is gone")

    for workers in (0, 1):
        run = Finetuning(RECIPE, network(), Broken(3), tmp_path / str(workers), workers=workers)
        with pytest.raises(InputError) as error:
            run.complete()
        assert str(error.value) == "sequence dog: it is gone"


# -- the command


def arguments(out: Path, *data: str) -> list[str]:
    sizes = ("--steps", "2", "--num-frames", "2", "--workers", "0", "--validation", "dog")
    sets = [word for text in data for word in ("--data", text)]
    return ["finetune", *sets, "--out", str(out), *sizes]


def test_the_command_ends_with_weights_a_card_and_the_official_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = save_official(tmp_path / "sam2.1_hiera_tiny.pt")
    data = [f"davis:{davis(tmp_path / 'davis')}@2", str(sav(tmp_path / "sav"))]
    out, official = tmp_path / "run", tmp_path / "exported" / "tuned.pt"
    words = [*arguments(out, *data), "--model", "sam2.1-tiny", "--checkpoint", str(start)]
    assert cli.main([*words, "--export-official", str(official)]) == 0, capsys.readouterr().err
    before, after = (torch.load(path, weights_only=True)["model"] for path in (start, official))
    assert {k: v.shape for k, v in before.items()} == {k: v.shape for k, v in after.items()}
    assert any(not torch.equal(before[name], after[name]) for name in before)
    tuned = load_segmenter("sam2.1-tiny", official)
    ours = load_segmenter(None, out / "model.safetensors")
    assert ours.name == "sam2.1-tiny"
    for name, value in ours.state_dict().items():
        assert torch.equal(value, tuned.state_dict()[name])
    rows = [json.loads(line) for line in (out / "validation.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 2] and "dog/1" in rows[0]
    card = (out / "README.md").read_text()
    for word in (
        "sam2.1-tiny",
        "davis | davis | 2 | videos | 2.0",
        "sav | sav | 2 | videos | 1.0",
        "J&F",
        "dog/1",
        "Apache-2.0",
    ):
        assert word in card, word
    assert list((out / "log").glob("events*")) and (out / "recipe.json").is_file()
    assert cli.main([*words, "--export-official", str(official)]) == 0, "the same run, at its end"


def test_images_alone_are_scored_by_prompts(tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["finetune", "--data", str(sa1b(tmp_path / "sa1b")), "--out", str(out)]
    words += ["--recipe", "efficienttam-images", "--from-scratch", "--image-size", str(SIDE)]
    assert cli.main([*words, "--steps", "1", "--workers", "0", "--validation", "3"]) == 2
    assert cli.main([*words, "--steps", "1", "--workers", "0", "--validation", "sa_3"]) == 0
    rows = validated(out)
    assert {"click", "box", "mean"} <= rows[-1].keys()
    assert load_segmenter(None, out / "model.safetensors").name == "efficienttam-ti"


BAD: dict[str, tuple[list[str], str]] = {
    "layout": (["--data", "daviz:{davis}"], "unknown layout 'daviz'"),
    "no data": (["--data", "{tmp}/none"], "no such file or folder"),
    "recipe": (["--data", "{davis}", "--recipe", "sam3"], "unknown recipe"),
    "other checkpoint": (
        ["--data", "{davis}", "--model", "sam2-tiny", "--checkpoint", "{start}"],
        "is a checkpoint of sam2.1-tiny",
    ),
    "held out": (["--data", "{davis}", "--checkpoint", "{start}", "--validation", "x"], "hold out"),
    "frozen": (
        ["--data", "{davis}", "--checkpoint", "{start}", "--freeze", "x", "--num-frames", "2"],
        "no part 'x'",
    ),
    "long clips": (
        ["--data", "{davis}", "--checkpoint", "{start}", "--num-frames", "9"],
        "annotated frames of a clip",
    ),
    "both starts": (["--data", "{davis}", "--checkpoint", "x", "--from-scratch"], "--from-scratch"),
    "no twin": (
        ["--data", "{davis}", "--model", "nano", "--export-official", "{tmp}/x.pt"],
        "cannot convert",
    ),
}


@pytest.mark.parametrize(("words", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_one_line_and_leaves_nothing(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {
        "tmp": tmp_path,
        "davis": davis(tmp_path / "davis"),
        "start": save_official(tmp_path / "sam2.1_hiera_tiny.pt"),
    }
    out = tmp_path / "run"
    given = [word.format(**places) for word in words]
    assert cli.main(["finetune", *given, "--out", str(out)]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error
    assert not out.exists() or not any(out.rglob("*.*"))
