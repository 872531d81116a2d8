"""RDS on DINOv3: adapted to propagate labels, kept as an adapter, and loaded into a propagator."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from tempomask import Prompt, load_propagator
from tempomask.adaptation.adapter_file import read_adapter
from tempomask.adaptation.method import ClipOutputs, Replay
from tempomask.adaptation.options import AdapterConfig, RDSConfig, RouterTraining
from tempomask.adaptation.rds import RDS
from tempomask.baselines.methods import build_method
from tempomask.cli import main as cli
from tempomask.data.clips import Clip
from tempomask.data.davis import Davis
from tempomask.errors import InputError
from tempomask.models.dinov3 import DINOV3_SIZES, DINOv3Config, transformers_config
from tempomask.models.encoder import RoutedNetwork
from tempomask.models.segmenter import Segmenter
from tempomask.ops.modes import evaluation_mode
from tempomask.propagation.network import PatchEncoder
from tempomask.propagation.session import PropagationSession
from tempomask.routing.options import Routing
from tempomask.routing.recurrent import recurrent_policy
from tempomask.routing.static import StaticPlan
from tempomask.training.adapt import Adaptation, AdaptRecipe, start_adaptation
from tempomask.training.calibration import SequenceMeasure
from tempomask.training.objectives import PropagationObjective, load_for

pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")
SIDE, NAME, DEPTH = 96, "dinov3-vits16", 6
CONFIG = RDSConfig(0.5, adapters=AdapterConfig(blocks=DEPTH, rank=4, rate=5e-3))


class NoisySquares(Dataset[Clip]):
    """Two squares move over a ground, all three under noise that hides their colour in a patch."""

    def __len__(self) -> int:
        return 1000

    def __getitem__(self, index: int) -> Clip:
        rng = np.random.default_rng(index % 2)
        colours = rng.integers(60, 200, (3, 3))
        places, moves = rng.integers([[8], [52]], [[40], [72]], (2, 2)), rng.integers(-6, 7, (2, 2))
        frames, masks = [], []
        for t in range(4):
            labels = np.zeros((SIDE, SIDE), np.uint8)
            for label in (1, 2):
                top, left = np.clip(places[label - 1] + moves[label - 1] * t, 0, SIDE - 40)
                side = 40 if label == 1 else 24
                labels[top : top + side, left : left + side] = label
            noisy = colours[labels] + rng.normal(0, 45, (SIDE, SIDE, 3))
            frames.append(noisy.clip(0, 255).astype(np.uint8))
            masks.append(labels == np.array([1, 2])[:, None, None])
        return Clip(np.stack(frames), np.stack(masks, 1).astype(np.uint8), "squares")


@pytest.fixture
def davis(tmp_path: Path) -> Path:
    """Three sequences of four frames with two objects."""
    root = tmp_path / "davis"
    for number in range(3):
        clip = NoisySquares()[number]
        labels = np.maximum(clip.masks[0], 2 * clip.masks[1])
        for part in ("JPEGImages", "Annotations"):
            (root / part / f"square{number}").mkdir(parents=True)
        for t, (frame, mask) in enumerate(zip(clip.frames, labels, strict=True)):
            name = f"square{number}/{t:05d}"
            Image.fromarray(frame).save(root / "JPEGImages" / f"{name}.jpg", quality=95)
            Image.fromarray(mask).save(root / "Annotations" / f"{name}.png")
    return root


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Random weights of a tiny network by the name of a DINOv3, as transformers keeps them."""
    config = DINOv3Config(NAME, 32, 2, DEPTH, 64)
    monkeypatch.setitem(DINOV3_SIZES, NAME, config)
    torch.manual_seed(0)
    network = transformers.DINOv3ViTModel(transformers_config(config))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    torch.save(network.state_dict(), tmp_path / "dinov3.pth")
    return tmp_path / "dinov3.pth"


def recipe_for(network: RoutedNetwork, objective: Any, **changes: Any) -> AdaptRecipe:
    recipe = AdaptRecipe(
        model=network.name,
        objective=objective,
        image_size=SIDE,
        steps=2,
        batch_size=2,
        num_frames=4,
        warmup_steps=1,
        decay_steps=1,
        validate_every=2,
    )
    return replace(recipe, **changes)


def test_an_adapter_of_dinov3_in_a_propagator(
    checkpoint: Path, davis: Path, tmp_path: Path
) -> None:
    """What runs is what was trained: merged or not, the same plans and labels to 1e-5."""
    network, objective, side = load_for(None, NAME, checkpoint, SIDE)
    assert isinstance(network, PatchEncoder) and side == SIDE
    assert isinstance(objective, PropagationObjective) and objective.options.short_side == SIDE
    method, out = RDS(CONFIG, steps=2), tmp_path / "adapter"
    run = start_adaptation(
        network, davis, out, method, recipe_for(network, objective), ["square2"], 0
    )
    scores = run.run()
    assert set(scores) == {"square2", "mean"} and 0 <= scores["mean"] <= 1
    adapter = read_adapter(run.export())
    assert (adapter.method, adapter.model) == ("rds", NAME)
    importance = adapter.export.settings["importance"]
    assert len(importance["global_drops"]) == DEPTH and any(importance["local_changes"])
    layers = {name.split(".")[-2] for name in adapter.export.tensors if name.startswith("lora.")}
    assert layers == {f"{x}_proj" for x in ("q", "k", "v", "o", "up", "down")}

    assert method.router is not None
    frames, masks = (getattr(NoisySquares()[0], part) for part in ("frames", "masks"))
    policy = recurrent_policy(method.router, Routing(0.5), 0.5)
    trained = PropagationSession(network, objective.options, policy=policy)
    loaded = load_propagator(NAME, checkpoint, SIDE, "cpu", "float32", adapter.folder)
    assert loaded.adapter is not None and loaded.adapter.method == "rds"
    used = loaded.session(routing=0.5)
    with evaluation_mode(network, method.router):
        for session in (trained, used):
            for object_id, mask in enumerate(masks[:, 0], start=1):
                session.prompt(object_id=object_id, mask=mask.astype(bool))
        for index, frame in enumerate(frames):
            ours, theirs = trained.step(frame), used.step(frame)
            assert np.array_equal(ours.blocks, theirs.blocks)
            assert theirs.blocks.sum() == (DEPTH if index == 0 else DEPTH // 2)
            torch.testing.assert_close(
                used.context.labels, trained.context.labels, atol=1e-5, rtol=0
            )
    plain = load_propagator(NAME, checkpoint, SIDE, "cpu", "float32").network
    image = torch.randn(1, 3, SIDE, SIDE)
    with torch.inference_mode():
        change = loaded.network.encode(image).features - plain.encode(image).features
    assert change.abs().max() > 1e-3, "the adapters are in the weights"


def test_the_command_lines(
    checkpoint: Path, davis: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`adapt --model dinov3-vits16`, then `propagate --adapter --budget` of two objects."""
    adapter, out = tmp_path / "adapter", tmp_path / "out"
    model = ("--model", NAME, "--checkpoint", str(checkpoint))
    quick = ("--steps", "2", "--batch-size", "1", "--num-frames", "3", "--workers", "0")
    which = ("--blocks", "1,2,3", "--always-on", "0,5", "--image-size", str(SIDE))
    data = ("--data", str(davis), "--out", str(adapter))
    assert cli.main(["adapt", *data, *model, *quick, *which, "--learn-worth", "1"]) == 0
    settings = json.loads((adapter / "adapter.json").read_text())["settings"]
    assert settings["adapted_blocks"] == [1, 2, 3] and settings["router"]["always_on"] == [0, 5]
    capsys.readouterr()
    video, mask = davis / "JPEGImages" / "square0", davis / "Annotations" / "square0" / "00000.png"
    run = ["propagate", str(video), "--mask", str(mask), *model, "--short-side", str(SIDE)]
    routed = ["--adapter", str(adapter), "--budget", "0.5", "--json", "--out", str(out)]
    assert cli.main([*run, *routed, "--device", "cpu"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [item["id"] for item in report["objects"]] == [1, 2] and report["frames"] == 4
    frames = [json.loads(line) for line in (out / "frames.jsonl").read_text().splitlines()]
    ran = [frame["blocks"].count("1") for frame in frames[1:]]
    assert ran == [DEPTH] + [DEPTH // 2] * 3


def test_adapters_of_other_networks_are_refused(
    checkpoint: Path, davis: Path, tmp_path: Path
) -> None:
    network, objective, _ = load_for("propagation", NAME, checkpoint, SIDE)
    recipe = recipe_for(network, objective, steps=1)
    folder = start_adaptation(network, davis, tmp_path / "a", RDS(CONFIG), recipe, (), 0).export()
    assert load_propagator(NAME, checkpoint, SIDE, "cpu", adapter=folder).name == NAME
    for name in ("dinov3-vitb16", "nano"):
        with pytest.raises(InputError, match=f"belongs to {NAME}, not to {name}"):
            load_propagator(name, checkpoint, SIDE, "cpu", adapter=folder)
    with pytest.raises(InputError, match=f"belongs to nano, not to {NAME}"):
        load_propagator(NAME, checkpoint, SIDE, "cpu", adapter="nano-rds")
    state = torch.load(checkpoint, weights_only=True)
    torch.save({name: 1.5 * x for name, x in state.items()}, checkpoint)
    with pytest.raises(InputError, match=f"other weights of {NAME} than those loaded"):
        load_propagator(NAME, checkpoint, SIDE, "cpu", adapter=folder)


def test_what_a_user_may_ask_of_the_router(checkpoint: Path, davis: Path, tmp_path: Path) -> None:
    """Rules, adaptive budgets and frame rates, as with a tracker."""
    network, objective, _ = load_for(None, NAME, checkpoint, SIDE)
    recipe = recipe_for(network, objective, steps=1)
    folder = start_adaptation(network, davis, tmp_path / "a", RDS(CONFIG), recipe, (), 0).export()
    propagator = load_propagator(NAME, checkpoint, SIDE, "cpu", "float32", folder)
    clip = NoisySquares()[0]
    prompts = [Prompt(0, i + 1, mask=mask[0].astype(bool)) for i, mask in enumerate(clip.masks)]
    asked = [
        Routing(0.5, rule="stochastic", seed=3),
        Routing(rule="threshold", threshold=0.4),
        Routing(0.5, adaptive=True),
        Routing(fps=0.5),
        Routing(router="none"),
    ]
    results = []
    for routing in asked:
        results = list(propagator.track(list(clip.frames), prompts, routing=routing))
        assert len(results) == 4 and all(len(r.masks) == 2 for r in results)
        assert all(r.blocks[[0, -1]].all() for r in results)
    assert results[-1].blocks.all()
    with pytest.raises(InputError, match="budget"):
        propagator.session(routing=0.1)


def test_the_loss_falls_at_the_budget(checkpoint: Path, davis: Path, tmp_path: Path) -> None:
    network, objective, _ = load_for(None, NAME, checkpoint, SIDE)
    measure = SequenceMeasure(
        list(Davis(davis, "all")), SIDE, torch.device("cpu"), objective=objective
    )
    shallow = StaticPlan([0, DEPTH - 1], network.encoder)
    frames, masks = (torch.from_numpy(x) for x in NoisySquares()[1][:2])
    with evaluation_mode(network):
        full, routed = (
            objective.follow(network, frames, masks[0, 0], policy) for policy in (None, shallow)
        )
    assert full.shape == masks[0, 1:].shape and not torch.equal(full, routed)
    recipe = recipe_for(network, objective, steps=30, validate_every=99, decay_steps=5)
    method = RDS(replace(CONFIG, router=RouterTraining(router_rate=1e-3)), steps=30)
    run = Adaptation(recipe, method, network, NoisySquares(), tmp_path / "o", measure, None, 0)
    watched: list[dict[str, float]] = []
    step = run._train_step
    run._train_step = lambda batch: watched.append(w := step(batch)) or w  # type: ignore[method-assign]
    run.run()
    losses = [w["loss"] for w in watched]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.05, losses
    # The first of four frames runs in full, the others hold half of the blocks, once settled.
    assert all(w["blocks"] == pytest.approx((1 + 3 * 0.5) / 4) for w in watched[-5:])


def test_methods_compare_with_the_whole_network(
    checkpoint: Path, davis: Path, tmp_path: Path
) -> None:
    """A teacher is replayed on the same clips; a method for segmenters says so."""
    network, objective, _ = load_for(None, NAME, checkpoint, SIDE)
    recipe = recipe_for(network, objective, steps=1)
    seen: list[ClipOutputs] = []
    pbd = build_method("pbd", CONFIG)
    extra = pbd.extra_loss

    def watching(outputs: ClipOutputs, replay: Replay, step: int) -> Any:
        seen.append(outputs)
        return extra(outputs, replay, step)

    pbd.extra_loss = watching  # type: ignore[method-assign]
    start_adaptation(network, davis, tmp_path / "pbd", pbd, recipe, (), 0).run()
    assert seen[0].logits.shape == (4, 4, 6, 6) and seen[0].features.shape == (2, 4, 32, 6, 6)
    assert (seen[0].blocks.sum(dim=-1) == DEPTH // 2).all()
    whole = load_for(None, NAME, checkpoint, SIDE)[0]
    with pytest.raises(InputError, match=NAME):
        start_adaptation(
            whole, davis, tmp_path / "slim", build_method("slim", CONFIG), recipe, (), 0
        )


@pytest.mark.parametrize(
    ("objective", "name", "side", "message"),
    [
        ("tracking", NAME, None, "is an encoder alone and cannot track"),
        ("segmentation", "nano", None, "unknown objective 'segmentation'; choose from tracking"),
        ("propagation", "nano", 100, "images of 100 pixels do not fit nano; give a multiple of 32"),
    ],
)
def test_what_cannot_be_adapted(
    objective: Any, name: str, side: int | None, message: str, checkpoint: Path
) -> None:
    with pytest.raises(InputError, match=message):
        load_for(objective, name, checkpoint if name == NAME else None, side)


def test_the_encoder_of_a_segmenter_is_adapted_alone() -> None:
    network, objective, side = load_for("propagation", "nano")
    assert (network.name, side, objective.name) == ("nano", 480, "propagation")
    tracked, tracking, own = load_for(None, "nano")
    assert isinstance(tracked, Segmenter)
    assert (tracked.name, tracking.name, own) == ("nano", "tracking", tracked.config.image_size)
