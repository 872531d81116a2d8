"""Adaptation training: resuming, what is computed and trained, hooks of methods, and its data."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from tempomask.adaptation.adapter_file import read_adapter
from tempomask.adaptation.method import ClipOutputs, Export, Prepared, Replay
from tempomask.adaptation.options import AdapterConfig, RDSConfig, RouterTraining
from tempomask.adaptation.rds import RDS, FullModel
from tempomask.baselines.settings import AlignmentConfig
from tempomask.data.clips import Clip, collate
from tempomask.data.davis import Davis
from tempomask.data.davis_clips import DavisClips
from tempomask.errors import InputError
from tempomask.models.config import HybridConfig
from tempomask.models.encoder import Encoder, Plan
from tempomask.models.segmenter import Segmenter
from tempomask.routing.static import StaticPlan
from tempomask.training.adapt import Adaptation, AdaptRecipe, start_adaptation
from tempomask.training.adaptation_data import adaptation_data
from tempomask.training.calibration import SequenceMeasure
from tempomask.training.losses import LossWeights
from tempomask.training.objectives import PROMPTS, TrackingObjective
from tempomask.training.prompts import PromptSampling
from tempomask.training.unroll import ClipModel

pytest.importorskip("peft")
SIDE = 64
CONFIG = RDSConfig(0.5, adapters=AdapterConfig(blocks=4, rank=2))
RECIPE = AdaptRecipe(
    model="nano",
    image_size=SIDE,
    steps=4,
    batch_size=2,
    num_frames=3,
    warmup_steps=1,
    decay_steps=2,
    save_every=2,
    validate_every=4,
)


@pytest.fixture
def deep_segmenter(segmenter: Segmenter) -> Segmenter:
    """The tiny segmenter with six blocks."""
    torch.manual_seed(0)
    config = replace(segmenter.config, encoder=HybridConfig(dim=32, num_heads=2, depth=6))
    return Segmenter(config).eval()


def write_sequence(root: Path, name: str, clip: Any, ids: tuple[int, ...] = (1,)) -> None:
    """Six frames in the DAVIS layout; several ids split the object from left to right."""
    for part in ("JPEGImages", "Annotations"):
        (root / part / name).mkdir(parents=True)
    for number in range(6):
        frame, mask = clip.frames[number // 2], clip.masks[0, number // 2]
        Image.fromarray(frame).save(root / "JPEGImages" / name / f"{number:05d}.jpg")
        columns = np.arange(mask.shape[1]) * len(ids) // mask.shape[1]
        label = (mask * np.array(ids, np.uint8)[columns]).astype(np.uint8)
        Image.fromarray(label).save(root / "Annotations" / name / f"{number:05d}.png")


@pytest.fixture
def davis(tmp_path: Path, clips: Dataset[Any]) -> Path:
    """Four sequences in the DAVIS layout; the last has two objects."""
    root = tmp_path / "davis"
    for index in range(4):
        write_sequence(root, f"disk{index}", clips[index], (1, 2) if index == 3 else (1,))
    return root


@pytest.fixture
def measure(davis: Path) -> SequenceMeasure:
    return SequenceMeasure(list(Davis(davis, "all"))[:2], SIDE, torch.device("cpu"))


def trained(run: Adaptation) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in run.clip_model.named_parameters() if p.requires_grad}


def start(
    segmenter: Segmenter,
    clips: Any,
    out: Path,
    measure: Any,
    config: RDSConfig = CONFIG,
    **changes: Any,
) -> Adaptation:
    """Settled from the third of four steps on."""
    recipe, method = replace(RECIPE, **changes), RDS(config, steps=RECIPE.steps)
    return Adaptation(recipe, method, segmenter, clips, out, measure, measure, workers=0)


class Stopped(Exception):
    """A run that was stopped from outside."""


def run_until(run: Adaptation, step: int) -> None:
    """Stop a run before a step."""
    train = run._train_step

    def stopping(batch: Any) -> dict[str, float]:
        if run.step == step:
            raise Stopped
        return train(batch)

    run._train_step = stopping  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        run.run()


def test_interrupted_equals_uninterrupted(
    deep_segmenter: Segmenter, clips: Any, tmp_path: Path, measure: SequenceMeasure
) -> None:
    base = {name: x.clone() for name, x in deep_segmenter.state_dict().items()}

    def fresh() -> Segmenter:
        segmenter = Segmenter(deep_segmenter.config).eval()
        segmenter.load_state_dict(base)
        return segmenter

    whole = start(fresh(), clips, tmp_path / "whole", measure)
    before = trained(whole)
    scores = whole.run()
    first = start(fresh(), clips, tmp_path / "parts", measure)
    run_until(first, 2)
    second = start(fresh(), clips, tmp_path / "parts", measure)
    assert second.step == 2
    second.run()
    settled = [run.method.policy.settled for run in (whole, first, second)]  # type: ignore[attr-defined]
    assert settled == [True, False, True]
    for name, value in trained(whole).items():
        assert torch.allclose(value, trained(second)[name], atol=1e-7), name
    moved = [n for n, value in trained(whole).items() if not torch.equal(value, before[n])]
    assert any("lora" in n for n in moved) and any("router" in n for n in moved)
    # Nothing else has moved.
    state = whole.prepared.network.state_dict()
    same = [n for n in base if n in state]
    assert len(same) > 100 and all(torch.equal(state[n], base[n]) for n in same)
    assert set(scores) == {"disk0", "disk1", "mean"}
    line = json.loads((whole.out / "validation.jsonl").read_text().splitlines()[-1])
    assert line["step"] == 4 and 0 <= line["mean"] <= 1
    one, other = (read_adapter(run.export()).export for run in (whole, second))
    assert one.settings == other.settings
    for name, x in one.tensors.items():
        assert torch.allclose(x, other.tensors[name], atol=1e-7)


def test_a_run_with_other_settings_is_not_gone_on_with(
    deep_segmenter: Segmenter, clips: Any, tmp_path: Path, measure: SequenceMeasure
) -> None:
    run_until(start(deep_segmenter, clips, tmp_path, measure), 2)
    with pytest.raises(InputError, match="seed=1"):
        start(deep_segmenter, clips, tmp_path, measure, seed=2)
    for steps in (2, 8):
        message = f"was made with steps=4, this run has {steps}; use the same settings"
        with pytest.raises(InputError, match=message):
            start(deep_segmenter, clips, tmp_path, measure, steps=steps, warmup_steps=steps // 2)


def test_a_run_with_other_data_or_weights_is_not_gone_on_with(
    deep_segmenter: Segmenter, davis: Path, clips: Any, tmp_path: Path
) -> None:
    base = {name: x.clone() for name, x in deep_segmenter.state_dict().items()}
    out = tmp_path / "out"

    def resumed(held_out: list[str], factor: float = 1.0) -> Adaptation:
        segmenter = Segmenter(deep_segmenter.config).eval()
        segmenter.load_state_dict({name: factor * x for name, x in base.items()})
        return start_adaptation(segmenter, davis, out, FullModel(CONFIG), recipe, held_out, 0)

    recipe = replace(RECIPE, steps=1)
    resumed(["disk3"]).run()
    assert resumed(["disk3"]).step == 1
    with pytest.raises(InputError, match="other weights"):
        resumed(["disk3"], factor=1.5)
    with pytest.raises(InputError, match="other training sequences: disk3 is new"):
        resumed([])
    write_sequence(davis, "disk4", clips[4])
    with pytest.raises(InputError, match="other training sequences: disk4 is new"):
        resumed(["disk3"])
    with pytest.raises(InputError, match="other held-out sequences: disk4 is new"):
        resumed(["disk3", "disk4"])
    for part in ("JPEGImages", "Annotations"):
        shutil.rmtree(davis / part / "disk0")
        shutil.rmtree(davis / part / "disk4")
    with pytest.raises(InputError, match="other training sequences: disk0 is missing"):
        resumed(["disk3"])


@pytest.mark.parametrize("skipped_gradient", [True, False])
def test_skipped_blocks_are_computed_for_the_router_alone_or_not_at_all(
    deep_segmenter: Segmenter,
    clips: Any,
    tmp_path: Path,
    measure: SequenceMeasure,
    skipped_gradient: bool,
) -> None:
    config = replace(CONFIG, router=RouterTraining(skipped_gradient=skipped_gradient))
    run = start(deep_segmenter, clips, tmp_path, measure, config)
    samples, silent = [0] * 6, [0] * 6

    def count(index: int, given: torch.Tensor) -> None:
        counts = samples if torch.is_grad_enabled() else silent
        counts[index] += len(given)

    for index, block in enumerate(run.prepared.network.encoder.blocks):
        block.register_forward_hook(lambda _, given, __, i=index: count(i, given[0]))
    watched = run._train_step(collate([clips[i] for i in range(2)]))
    total = 2 * 3 * 6
    assert sum(samples) == round(watched["blocks"] * total) < total
    assert watched["load"] == watched["load_in_use"] == pytest.approx(0.5)
    # The first frame of both clips runs everything, and so do the blocks of K on all frames.
    assert samples[0] == samples[5] == 6 and all(n >= 2 for n in samples)
    assert silent == [6 - n if skipped_gradient else 0 for n in samples]


class Watching(StaticPlan):
    """Runs everything and keeps the masks that it is given."""

    recurrent = True

    def __init__(self, encoder: Encoder) -> None:
        super().__init__(range(encoder.num_blocks), encoder)
        self.seen: list[Tensor | None] = []

    def plan(self, embedding: Tensor, previous_masks: Tensor | None) -> Plan:
        self.seen.append(previous_masks)
        return super().plan(embedding, previous_masks)


def test_a_router_in_training_sees_the_union_of_a_clips_objects(
    deep_segmenter: Segmenter, clips: Any
) -> None:
    """The second clip has two objects; the greatest logit counts, as in use."""
    one, other = clips[0], clips[1]
    halves = other.masks.repeat(2, axis=0)
    halves[0, ..., : SIDE // 2], halves[1, ..., SIDE // 2 :] = 0, 0
    batch = collate([one, Clip(other.frames, halves, "halves")])
    policy = Watching(deep_segmenter.encoder)
    model = ClipModel(deep_segmenter.eval(), LossWeights(), PROMPTS["mask"], policy)
    with torch.no_grad():
        outputs = model.unroll(model.clips(*batch, seed=0)).outputs
    assert policy.seen[0] is None and len(policy.seen) == 3
    for index, seen in enumerate(policy.seen[1:]):
        assert seen is not None and seen.shape[:2] == (2, 1)
        logits = outputs.logits[:, index]
        assert torch.equal(seen[0, 0], logits[0])
        assert torch.equal(seen[1, 0], torch.maximum(logits[1], logits[2]))


def test_adaptation_follows_several_objects_from_their_masks(davis: Path) -> None:
    recipe = AdaptRecipe()
    assert recipe.num_frames == 8 and recipe.most_objects > 1
    assert recipe.objective == TrackingObjective(prompts=PROMPTS["mask"])
    data = adaptation_data(davis, SIDE, 3, 1, (), most_objects=recipe.most_objects)
    assert {len(data.clips[index].masks) for index in range(24)} == {1, 2}


class Spy:
    """A method that trains one block, and notes what the loop does."""

    name = "spy"

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def prepare(self, segmenter: Segmenter, measure: Any, state: Any = None) -> Prepared:
        self.segmenter, self.teacher = segmenter, Segmenter(segmenter.config).eval()
        self.teacher.load_state_dict(segmenter.state_dict())
        self.calls.append(("prepare", state))
        return self._train(1 if state is None else state["phase"])

    def _train(self, index: int) -> Prepared:
        self.phase = index
        self.segmenter.requires_grad_(False)
        block = self.segmenter.encoder.blocks[index].requires_grad_(True)
        group = {"params": list(block.parameters()), "lr": 1e-3, "weight_decay": 0.0}
        keep = [i for i in range(6) if i != 2]
        return Prepared(self.segmenter, StaticPlan(keep, self.segmenter.encoder), [group])

    def on_step(self, step: int) -> Prepared | None:
        self.calls.append(("on_step", step))
        return self._train(3) if step == 1 else None

    def extra_loss(self, outputs: ClipOutputs, replay: Replay, step: int) -> Tensor | None:
        whole = replay(self.teacher, None)
        assert whole.logits.shape == outputs.logits.shape and not whole.logits.requires_grad
        assert whole.blocks.all() and not outputs.blocks[..., 2].any()
        assert outputs.features.shape[:2] == outputs.blocks.shape[:2] == (2, 3)
        assert torch.equal(whole.targets, outputs.targets)
        self.calls.append(("extra", step))
        return (outputs.features - whole.features).square().mean() + 100.0

    def state(self) -> dict[str, Any]:
        return {"phase": self.phase}

    def export(self) -> Export:
        return Export({}, {})


def test_the_loop_keeps_the_contract_of_methods(
    deep_segmenter: Segmenter, clips: Any, tmp_path: Path, measure: SequenceMeasure
) -> None:
    spy = Spy()
    base = {name: x.clone() for name, x in deep_segmenter.state_dict().items()}
    run = Adaptation(
        replace(RECIPE, steps=2), spy, deep_segmenter, clips, tmp_path, measure, None, 0
    )
    step, losses = run._train_step, []
    run._train_step = lambda *b: losses.append(w := step(*b)) or w  # type: ignore[method-assign]
    assert run.run() == {}
    assert spy.calls == [
        ("prepare", None),
        ("on_step", 0),
        ("extra", 0),
        ("on_step", 1),
        ("extra", 1),
    ]
    assert all(w["extra"] >= 100 and w["loss"] > w["extra"] for w in losses)
    # The second phase trains another block.
    assert {name.split(".")[3] for name in trained(run)} == {"3"}
    again = Spy()
    recipe = replace(RECIPE, steps=2)
    fresh = Segmenter(deep_segmenter.config).eval()
    fresh.load_state_dict(base)
    resumed = Adaptation(recipe, again, fresh, clips, tmp_path, measure, None, 0)
    assert again.calls == [("prepare", {"phase": 3})] and resumed.step == 2
    # What the first phase trained is there as well.
    for block in (1, 3):
        one, other = (s.segmenter.encoder.blocks[block].state_dict() for s in (spy, again))
        assert all(torch.equal(one[name], other[name]) for name in one)
        assert not torch.equal(one["qkv.weight"], base[f"encoder.blocks.{block}.qkv.weight"])


class Alone(Spy):
    """A spy for whom the task does not count."""

    def _train(self, index: int) -> Prepared:
        return replace(super()._train(index), task=False)


@pytest.mark.parametrize("spy", [Spy, Alone])
def test_alignment_is_added_for_any_method_and_the_task_left_out_on_request(
    spy: type[Spy], deep_segmenter: Segmenter, clips: Any, tmp_path: Path, measure: SequenceMeasure
) -> None:
    base, found = deepcopy(deep_segmenter), []
    for name, alignment in (("alone", AlignmentConfig()), ("held", AlignmentConfig(5.0, 5.0))):
        recipe = replace(RECIPE, steps=1, alignment=alignment)
        run = Adaptation(recipe, spy(), deepcopy(base), clips, tmp_path / name, measure, None, 0)
        (batch,) = run._batches()
        found.append(run._train_step(batch))
    alone, held = found
    assert held["extra"] > alone["extra"] + 0.01
    for losses in found:
        assert (losses["loss"] - losses["extra"] > 1) == (spy is Spy)


def test_replay_repeats_prompts_and_memories(segmenter: Segmenter, clips: Any) -> None:
    """The same network as its own teacher says the same."""

    class Same(Spy):
        def extra_loss(self, outputs: ClipOutputs, replay: Replay, step: int) -> None:
            other = replay(segmenter, None)
            assert torch.allclose(other.logits, outputs.logits, atol=1e-4)
            self.calls.append("compared")

    spy = Same()
    for sampling in (PromptSampling(mask=0, box=0), PromptSampling(mask=0, box=1)):
        model = ClipModel(segmenter.eval(), LossWeights(), sampling, method=spy)
        model(*collate([clips[i] for i in range(2)]), seed=3)
    assert spy.calls == ["compared"] * 2


def test_one_frame_after_another_as_all_at_once(segmenter: Segmenter, clips: Any) -> None:
    """A recurrent policy that runs everything gives the losses of no policy."""

    class Everything(StaticPlan):
        recurrent = True

    everything = Everything(range(segmenter.encoder.num_blocks), segmenter.encoder)
    batch = collate([clips[0]])
    plain = ClipModel(segmenter, LossWeights(), PromptSampling())(*batch, seed=2)
    routed = ClipModel(segmenter, LossWeights(), PromptSampling(), everything)(*batch, seed=2)
    assert routed.total.item() == pytest.approx(plain.total.item(), rel=1e-4)
    assert plain.blocks == routed.blocks == 1


def test_a_measure_scores_networks_and_restores_their_mode(
    deep_segmenter: Segmenter, measure: SequenceMeasure
) -> None:
    deep_segmenter.train()
    whole = measure.score(deep_segmenter)
    assert deep_segmenter.training and 0 <= whole <= 1
    assert measure.score(deep_segmenter) == whole
    few = StaticPlan([0, 5], deep_segmenter.encoder)
    assert measure.score(deep_segmenter, few) != whole
    images = measure.images(3)
    assert images.shape == (3, 3, SIDE, SIDE) and torch.equal(images, measure.images(9)[:3])


def test_a_measure_knows_its_data_again(davis: Path, measure: SequenceMeasure) -> None:
    sequences, cpu = list(Davis(davis, "all")), torch.device("cpu")
    assert SequenceMeasure(sequences[:2], SIDE, cpu).fingerprint == measure.fingerprint
    others = [
        SequenceMeasure(sequences[1:3], SIDE, cpu),
        SequenceMeasure(sequences[:2], 2 * SIDE, cpu),
        SequenceMeasure(sequences[:2], SIDE, cpu, stride=1),
    ]
    assert len({m.fingerprint for m in (measure, *others)}) == 4


def test_a_perfect_tracker_scores_one(
    deep_segmenter: Segmenter, measure: SequenceMeasure, monkeypatch: pytest.MonkeyPatch
) -> None:
    truths = iter([loaded.masks[1:] for loaded in measure._loaded])
    monkeypatch.setattr("tempomask.training.objectives.track_sequence", lambda *_: next(truths))
    assert measure.score(deep_segmenter) == 1.0


def test_training_from_a_davis_folder(
    davis: Path, tmp_path: Path, deep_segmenter: Segmenter
) -> None:
    method = FullModel(CONFIG)
    recipe = replace(RECIPE, method="full", steps=1)
    run = start_adaptation(deep_segmenter, davis, tmp_path / "out", method, recipe, ["disk3"], 0)
    scores = run.run()
    assert set(scores) == {"disk3", "mean"}
    assert read_adapter(run.export()).method == "full"


def test_clips_of_a_davis_folder(davis: Path) -> None:
    clips = DavisClips(list(Davis(davis, "all")), SIDE, num_frames=3, seed=4)
    for index in range(12):
        clip = clips[index]
        assert clip.frames.shape == (3, SIDE, SIDE, 3) and clip.frames.dtype == np.uint8
        assert set(np.unique(clip.masks)) <= {0, 1} and clip.masks[0, 0].any()
        assert np.array_equal(clip.frames, clips[index].frames), "a clip depends on its index alone"
    other = DavisClips(list(Davis(davis, "all")), SIDE, num_frames=3, seed=5)
    assert not np.array_equal(clips[0].frames, other[0].frames)


def test_what_is_held_out_is_not_trained_on(davis: Path) -> None:
    data = adaptation_data(davis, SIDE, 3, 1, ["disk1"])
    assert [s.name for s in data.held_out] == ["disk1"]
    assert {s.name for s in data.measured} == {"disk0", "disk2", "disk3"}
    assert isinstance(data.clips, DavisClips)
    assert {s.name for s in data.clips.sequences} == {"disk0", "disk2", "disk3"}
    lists = davis / "ImageSets" / "2017"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("disk0\ndisk2\n")
    (lists / "val.txt").write_text("disk1\n")
    data = adaptation_data(davis, SIDE, 3, 1)
    assert {s.name for s in data.measured} == {"disk0", "disk2"} and not data.held_out


def empty_first_mask(root: Path) -> None:
    for name in ("disk0", "disk1", "disk2", "disk3"):
        path = root / "Annotations" / name / "00000.png"
        Image.fromarray(np.zeros((SIDE, SIDE), np.uint8)).save(path)


HARMS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no masks at all": (
        lambda root: shutil.rmtree(root / "Annotations"),
        "Annotations is missing",
    ),
    "a sequence without masks": (
        lambda root: shutil.rmtree(root / "Annotations" / "disk2"),
        "sequence disk2 has frames but no annotations",
    ),
    "a frame without a mask": (
        lambda root: (root / "Annotations" / "disk1" / "00003.png").unlink(),
        "sequence disk1: frame 00003.jpg has no annotation",
    ),
    "a mask without a frame": (
        lambda root: (root / "JPEGImages" / "disk1" / "00005.jpg").unlink(),
        "sequence disk1: annotation 00005.png has no frame",
    ),
    "empty masks": (empty_first_mask, "sequence disk0: the first annotation is empty"),
    "nothing": (lambda root: shutil.rmtree(root), "no such folder"),
}


@pytest.mark.parametrize(("harm", "message"), HARMS.values(), ids=HARMS)
def test_bad_data_is_named(
    harm: Callable[[Path], object],
    message: str,
    davis: Path,
    tmp_path: Path,
    deep_segmenter: Segmenter,
) -> None:
    harm(davis)
    with pytest.raises(InputError, match=message):
        start_adaptation(deep_segmenter, davis, tmp_path / "out", RDS(CONFIG), RECIPE, (), 0)


@pytest.mark.parametrize(
    ("held_out", "message"),
    [
        (["disk9"], "no sequence 'disk9' to hold out"),
        (["disk0", "disk1", "disk2", "disk3"], "nothing is left to train on"),
    ],
)
def test_impossible_validation_sets(davis: Path, held_out: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        adaptation_data(davis, SIDE, 3, 1, held_out)


def test_clips_longer_than_every_sequence_are_refused(davis: Path) -> None:
    with pytest.raises(InputError, match="9 frames"):
        DavisClips(list(Davis(davis, "all")), SIDE, num_frames=9)


@pytest.mark.parametrize("change", [{"steps": 0}, {"batch_size": 0}, {"num_frames": 1}])
def test_impossible_recipes_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(InputError, match=next(iter(change))):
        replace(RECIPE, **change)
