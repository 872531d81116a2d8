"""Training of instance segmentation: matching, losses, noise, recipes, and runs that resume."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from tempomask.data.instance_clips import MEAN_COLOUR, InstanceClip
from tempomask.errors import InputError, InputWarning
from tempomask.instances.query_routing import QueryRouterConfig
from tempomask.models.instances.config import InstanceConfig
from tempomask.models.instances.config import instance_config as named_config
from tempomask.models.instances.query_decoder import Predictions
from tempomask.models.instances.segmenter import InstanceSegmenter
from tempomask.ops.normalise import normalise
from tempomask.training.checkpoint import save_checkpoint
from tempomask.training.instances import loop
from tempomask.training.instances.loop import (
    InstanceTraining,
    build_router,
    build_segmenter,
    train_instances,
)
from tempomask.training.instances.losses import (
    contrastive_loss,
    set_loss,
    uncertain_points,
)
from tempomask.training.instances.matching import (
    ClipTargets,
    FrameTargets,
    SetLossWeights,
    collate,
    match_clip,
    match_costs,
    match_images,
    sample_points,
)
from tempomask.training.instances.recipe import RECIPES, InstanceRecipe, instance_recipe
from tempomask.training.instances.stages import add_noise, mixture
from tempomask.weights.instances import load_instance_segmenter

pytest.importorskip("accelerate")
MakeConfig = Callable[..., InstanceConfig]
SIDE = 32
COSTS = SetLossWeights(points=512)
WEIGHTS = SetLossWeights(points=128)


def squares(*places: tuple[int, int]) -> Tensor:
    """One 12 x 12 square for each place (row, column): (N, S, S)."""
    masks = torch.zeros(len(places), SIDE, SIDE)
    for mask, (row, column) in zip(masks, places, strict=True):
        mask[row : row + 12, column : column + 12] = 1
    return masks


def perfect(target: FrameTargets, queries: list[int], number: int = 4) -> Predictions:
    """Predictions that answer for instance i by queries[i], and for nothing by the others."""
    classes = torch.zeros(1, number, 4)
    classes[..., 3] = 20.0
    masks = torch.full((1, number, SIDE // 4, SIDE // 4), -20.0)
    small = F.avg_pool2d(target.masks[None], 4)[0]
    for instance, query in enumerate(queries):
        classes[0, query] = 20.0 * F.one_hot(target.labels[instance], 4)
        masks[0, query] = 40 * small[instance] - 20
    return Predictions(classes, masks)


TARGET = FrameTargets(torch.tensor([2, 0]), squares((0, 0), (16, 16)))


@pytest.mark.parametrize("queries", [[0, 1], [3, 1], [2, 0]])
def test_matching_finds_the_queries_that_answer(queries: list[int]) -> None:
    ((match,), _) = match_images([perfect(TARGET, queries)] * 2, [TARGET], COSTS)
    assert dict(zip(match.instances.tolist(), match.queries.tolist(), strict=True)) == dict(
        enumerate(queries)
    )


def test_costs_are_those_of_the_definition() -> None:
    torch.manual_seed(0)
    classes, masks = torch.randn(1, 3, 4), torch.randn(1, 3, 8, 8)
    torch.manual_seed(1)
    cost = match_costs(Predictions(classes, masks), TARGET, COSTS)[0]
    torch.manual_seed(1)
    points = torch.rand(1, COSTS.points, 2)
    for query in range(3):
        for instance in range(2):
            logits = sample_points(masks[:, query : query + 1], points)[0, 0]
            wanted = sample_points(TARGET.masks[None, instance : instance + 1], points)[0, 0]
            p = logits.sigmoid()
            dice = 1 - (2 * (p * wanted).sum() + 1) / (p.sum() + wanted.sum() + 1)
            likelihood = classes[0, query].softmax(-1)[TARGET.labels[instance]]
            value = 5 * F.binary_cross_entropy_with_logits(logits, wanted) + 5 * dice
            torch.testing.assert_close(cost[query, instance], value - 2 * likelihood)


def test_a_perfect_answer_costs_nothing_and_a_worse_one_more() -> None:
    good = perfect(TARGET, [1, 2])
    loss = set_loss([good], [TARGET], WEIGHTS)
    assert loss.classes < 1e-3
    assert loss.dice < 0.2
    worse = Predictions(good.class_logits.roll(1, -1), -good.mask_logits)
    assert set_loss([worse], [TARGET], WEIGHTS).total > 5 * loss.total


def test_a_image_without_instances_trains_the_no_object_class() -> None:
    nothing = FrameTargets(torch.zeros(0, dtype=torch.int64), torch.zeros(0, SIDE, SIDE))
    predictions = Predictions(torch.zeros(1, 4, 4, requires_grad=True), torch.zeros(1, 4, 8, 8))
    loss = set_loss([predictions], [nothing], WEIGHTS)
    assert loss.classes.item() == pytest.approx(np.log(4), rel=1e-5)
    assert loss.mask == loss.dice == 0
    loss.total.backward()


def test_levels_add_up() -> None:
    torch.manual_seed(0)
    levels = [Predictions(torch.randn(1, 4, 4), torch.randn(1, 4, 8, 8)) for _ in range(3)]
    matches = match_images(levels, [TARGET], COSTS)
    alone = [
        set_loss([level], [TARGET], WEIGHTS, [match]).classes
        for level, match in zip(levels, matches, strict=True)
    ]
    together = set_loss(levels, [TARGET], WEIGHTS, matches)
    torch.testing.assert_close(together.classes, torch.stack(alone).sum())


def test_points_gather_where_a_mask_is_uncertain() -> None:
    torch.manual_seed(0)
    logits = torch.linspace(-9, 9, 16).expand(1, 16, 16).contiguous()
    points = uncertain_points(logits, SetLossWeights(points=400))
    near = ((points[0, :, 0] - 0.5).abs() < 0.17).float().mean()
    assert near > 0.7
    assert points.shape == (1, 400, 2)
    assert ((points >= 0) & (points <= 1)).all()


def test_a_clip_is_matched_where_instances_first_appear() -> None:
    masks = torch.stack([TARGET.masks, TARGET.masks])
    masks[0, 1] = 0
    target = ClipTargets(TARGET.labels, masks, torch.tensor([[True, False], [True, True]]))
    # On frame 1 the query of instance 0 seems to answer for instance 1 as well: it is taken.
    frames = [perfect(target.image(0), [3]), perfect(target.image(1), [0, 3])]
    match = match_clip(frames, target, COSTS)
    found = dict(zip(match.instances.tolist(), match.queries.tolist(), strict=True))
    assert found[0] == 3
    assert found[1] != 3


def test_a_clip_without_instances_has_an_empty_match() -> None:
    target = ClipTargets(
        torch.zeros(0, dtype=torch.int64), torch.zeros(1, 0, SIDE, SIDE), torch.zeros(1, 0) > 0
    )
    match = match_clip([Predictions(torch.zeros(1, 4, 4), torch.zeros(1, 4, 8, 8))], target, COSTS)
    assert len(match.queries) == len(match.instances) == 0


def test_contrast_prefers_the_own_neighbour() -> None:
    embeddings = 4 * torch.eye(3).expand(3, 3, 3)
    same = contrastive_loss(embeddings, torch.tensor([[0, 1]] * 3))
    swapped = contrastive_loss(embeddings, torch.tensor([[0, 1], [1, 0], [0, 1]]))
    assert same.cross_entropy < 1e-4
    assert same.cosine < 1e-6
    assert swapped.cross_entropy > 10
    # Cosine error: of three queries the own should be 1 and is 0, another is 1 and should be 0.
    assert swapped.cosine.item() == pytest.approx(2 / 3, rel=1e-4)


def test_contrast_without_a_pair_is_zero_and_differentiable() -> None:
    embeddings = torch.randn(2, 3, 4, requires_grad=True)
    loss = contrastive_loss(embeddings, torch.tensor([[0], [-1]]))
    assert loss.cross_entropy == 0
    (loss.cross_entropy + loss.cosine).backward()


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 9))
def test_noise_mixes_two_queries_and_names_the_heavier(seed: int, number: int) -> None:
    torch.manual_seed(seed)
    queries = torch.eye(number)
    mixed, order = mixture(queries)
    torch.testing.assert_close(mixed.sum(1), torch.ones(number))
    assert ((mixed > 0).sum(1) <= 2).all()
    assert torch.equal(mixed.argmax(1), order)


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_noise_comes_with_its_probability(ratio: float) -> None:
    torch.manual_seed(0)
    queries, order = torch.randn(2, 5, 3), torch.arange(5).flip(0).expand(2, -1)
    tracks, kept = add_noise(ratio, queries, order)
    assert torch.equal(tracks, queries.flip(1)) == (ratio == 0)
    assert torch.equal(kept, order) == (ratio == 0)


class Squares(Dataset[InstanceClip]):
    """Squares that move; item i depends on i alone."""

    def __init__(self, frames: int) -> None:
        self.frames = frames

    def __getitem__(self, index: int) -> InstanceClip:
        random = np.random.default_rng(index)
        images = np.zeros((self.frames, 64, 64, 3), dtype=np.uint8)
        masks = np.zeros((self.frames, 2, 64, 64), dtype=bool)
        for instance in range(2):
            row, column = random.integers(0, 40, 2)
            for t in range(self.frames):
                masks[t, instance, row : row + 16, column + t : column + t + 16] = True
                images[t][masks[t, instance]] = (255, 0, 0) if instance else (0, 255, 0)
        masks[0, 0] = False
        present = masks.any(axis=(2, 3))
        return InstanceClip(images, masks, np.array([0, 2]), present)


def tiny_recipe(stage: str, **values: object) -> InstanceRecipe:
    router = QueryRouterConfig(dim=32, layers=4, hidden_dim=8, num_heads=2)
    recipe = InstanceRecipe(
        stage=stage,  # type: ignore[arg-type]
        image_size=64,
        steps=3,
        batch_size=2,
        num_frames={"minvis": 1, "tar": 2}.get(stage, 3),
        learning_rate=1e-3,
        save_every=2,
        validate_every=3,
        losses=WEIGHTS,
        router=router if stage.startswith("tar") else None,
    )
    return replace(recipe, **values)  # type: ignore[arg-type]


def make_training(make: MakeConfig, recipe: InstanceRecipe, out: Path) -> InstanceTraining:
    out.mkdir(exist_ok=True)
    torch.manual_seed(0)
    segmenter = InstanceSegmenter(make(tracker=recipe.tracks))
    router = build_router(recipe, segmenter)
    clips = Squares(recipe.num_frames)
    return InstanceTraining(recipe, segmenter, router, clips, out, [clips[9]], workers=0)


FROZEN = {
    "minvis": [],
    "tar": ["segmenter.network.backbone.", "segmenter.network.pixel_decoder."],
    "dvis": ["segmenter.network."],
    "tar-dvis": ["segmenter.network."],
}


@pytest.mark.parametrize("stage", FROZEN)
def test_a_stage_trains_what_it_should_and_nothing_else(
    instance_config: MakeConfig, tmp_path: Path, stage: str
) -> None:
    training = make_training(instance_config, tiny_recipe(stage), tmp_path)
    before = {k: x.clone() for k, x in training.core.state_dict().items()}
    training.run()
    after = training.core.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    frozen = tuple(FROZEN[stage])
    assert not [name for name in changed if frozen and name.startswith(frozen)]
    parts = {"minvis": "segmenter.network.backbone.", "tar": "segmenter.network.query_decoder."}
    assert any(name.startswith(parts.get(stage, "segmenter.tracker.")) for name in changed)
    if stage.startswith("tar"):
        assert any(name.startswith("router.routers.") for name in changed)
        assert any(name.startswith("router.synchroniser.") for name in changed)
    line = json.loads((tmp_path / "validation.jsonl").read_text())
    assert line["step"] == 3
    assert ("layers" in line) == stage.startswith("tar")
    training.export(tmp_path / "model.safetensors")
    loaded = load_instance_segmenter(None, tmp_path / "model.safetensors")
    assert (loaded.router is not None) == stage.startswith("tar")


@pytest.mark.parametrize("memory", [True, False], ids=["ctvis", "minvis"])
def test_the_re_identification_head_of_ctvis_stays(
    instance_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: bool
) -> None:
    """DVIS++ starts from CTVIS with its head, which is frozen; after MinVIS it has to learn."""
    config = replace(instance_config(tracker=True), name="tiny-dvis")
    monkeypatch.setattr(loop, "instance_config", lambda name: config)
    start = InstanceSegmenter(replace(instance_config(memory=memory), name="tiny"))
    recipe = tiny_recipe("dvis", frozen_reid=True, model="tiny-dvis")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", InputWarning)
        segmenter = build_segmenter(recipe, config.classes, start)
    assert any("no re-identification head" in str(each.message) for each in caught) != memory
    given = {k: x for k, x in start.state_dict().items() if k.startswith("tracker.reid_head.")}
    assert bool(given) == memory
    clips = Squares(recipe.num_frames)
    before = {k: x.clone() for k, x in segmenter.state_dict().items()}
    training = InstanceTraining(recipe, segmenter, None, clips, tmp_path, [clips[9]], workers=0)
    training.run()
    after = segmenter.state_dict()
    changed = {
        k for k in before if k.startswith("tracker.") and not torch.equal(before[k], after[k])
    }
    assert any(name.startswith("tracker.layers.") for name in changed)
    assert any(name.startswith("tracker.reid_head.") for name in changed) != memory
    assert all(torch.equal(after[name], tensor) for name, tensor in given.items())


def test_a_resumed_run_equals_an_uninterrupted_one(
    instance_config: MakeConfig, tmp_path: Path
) -> None:
    recipe = tiny_recipe("minvis", steps=4)
    whole = make_training(instance_config, recipe, tmp_path / "whole")
    whole.run()
    part = make_training(instance_config, replace(recipe, steps=2), tmp_path / "part")
    part.run()
    rest = make_training(instance_config, recipe, tmp_path / "part")
    rest.resume()
    assert rest.step == 2
    rest.run()
    wanted = whole.core.state_dict()
    for name, tensor in rest.core.state_dict().items():
        torch.testing.assert_close(tensor, wanted[name], msg=name)


def test_a_refused_recipe_leaves_the_other_in_its_folder(
    instance_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "build_segmenter", lambda *_: InstanceSegmenter(instance_config()))
    recipe = tiny_recipe("minvis")
    save_checkpoint(tmp_path / "last.pt", recipe, 2, {})
    (tmp_path / "recipe.json").write_text("the first")
    with pytest.raises(InputError, match="learning_rate=0.001"):
        train_instances(replace(recipe, learning_rate=1.0), Squares(1), ("a",), tmp_path)
    assert (tmp_path / "recipe.json").read_text() == "the first"


def test_training_lowers_the_loss(instance_config: MakeConfig, tmp_path: Path) -> None:
    recipe = tiny_recipe("minvis", steps=25, learning_rate=3e-3, clip_norm=1.0)
    training = make_training(instance_config, recipe, tmp_path)
    batch = collate([Squares(1)[0], Squares(1)[1]])
    losses = []
    for step in range(25):
        training.step = step
        losses.append(training._train_step(batch)["loss"])
    assert np.mean(losses[-3:]) < 0.7 * np.mean(losses[:3])


def test_stages_need_their_start() -> None:
    for name in ("nano-vis-tar", "nano-vis-dvis", "nano-vis-tar-dvis"):
        with pytest.raises(InputError, match="trained segmenter"):
            build_segmenter(instance_recipe(name), ("a",), None)
    recipe = replace(instance_recipe("nano-vis"), model="nano-vis-dvis")
    with pytest.raises(InputError, match="minvis .* nano-vis-dvis"):
        build_segmenter(recipe, ("a",), None)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stage": "magic"}, "unknown stage 'magic'"),
        ({"stage": "dvis"}, "stage dvis needs clips of 2 frames"),
        ({"stage": "tar", "num_frames": 2}, "stage tar needs router"),
        ({"router": QueryRouterConfig()}, "stage minvis has no router"),
    ],
)
def test_recipes_that_do_not_hold_together(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        InstanceRecipe(**values)  # type: ignore[arg-type]


# Steps, first step of the lower rate, batch size and frames: MinVIS's and DVIS++'s configurations,
# and section 4.1 of TAR. All decay weights by 0.05 and start at 1e-4.
PAPERS = {
    "minvis": (6000, 4000, 32, 1),
    "minvis-ytvis21": (8000, 5500, 32, 1),
    "minvis-ovis": (10_000, 7000, 32, 1),
    "dvis": (40_000, 28_000, 8, 5),
    "dvis-ytvis21": (40_000, 28_000, 8, 5),
    "dvis-ovis": (40_000, 28_000, 8, 5),
    "tar": (6000, 5000, 8, 2),
    "tar-ytvis21": (6000, 5000, 8, 2),
    "tar-ovis": (6000, 5000, 8, 2),
    "tar-dvis": (40_000, 28_000, 8, 5),
    "tar-dvis-ytvis21": (40_000, 28_000, 8, 5),
    "tar-dvis-ovis": (20_000, 14_000, 8, 5),
}


@pytest.mark.parametrize("name", [name for name in RECIPES if not name.startswith("nano")])
def test_the_papers_recipes(name: str) -> None:
    recipe, (steps, drop, batch, frames) = RECIPES[name], PAPERS[name]
    assert (recipe.steps, recipe.batch_size, recipe.num_frames) == (steps, batch, frames)
    rates = [recipe.learning_rate * recipe.rate(step) for step in (100, drop - 1, drop, steps - 1)]
    assert rates == pytest.approx([1e-4, 1e-4, 1e-5, 1e-5]) and recipe.weight_decay == 0.05
    config = named_config(recipe.model)
    classes = {"ovis": 25}.get(name.rsplit("-", 1)[-1], 40)
    assert config.num_classes == classes and recipe.image_size == config.short_side
    assert recipe.short_sides is not None and recipe.tracks == ("dvis" in name)
    sides, longest, crop = (320, 640), 768, (384, 600)
    if not recipe.tracks:
        sides, longest, crop = (360, 480), 1333, None
    found = recipe.short_sides
    ends = found.sides[0], found.sides[-1]
    assert (ends, found.longest, found.crop) == (sides, longest, crop)
    assert recipe.with_overrides(image_size=64).short_sides is None
    assert recipe.with_overrides(seed=2).short_sides == found


@pytest.mark.parametrize("stage", ["tar", "tar-dvis"])
def test_clips_of_different_sizes_train_together(
    instance_config: MakeConfig, tmp_path: Path, stage: str
) -> None:
    """The smaller is filled up; its loss is that of the same clip filled up beforehand."""
    training = make_training(instance_config, tiny_recipe(stage), tmp_path)
    small, large = Squares(3)[0], Squares(3)[1]
    small = InstanceClip(
        small.frames[:, :32, :64],
        small.masks[:, :, :32, :64],
        small.labels,
        small.masks[:, :, :32, :64].any(axis=(2, 3)),
    )
    batch = collate([small, large])
    assert batch.frames.shape == (2, 3, *large.frames.shape[1:3], 3)
    assert torch.equal(batch.frames[0, :, :32, :64], torch.from_numpy(small.frames))
    assert (batch.frames[0, :, 32:] == torch.tensor(MEAN_COLOUR)).all()
    assert abs(normalise(batch.frames[0, 0, 40:41, :1][None])).max() < 0.02
    assert not batch.targets[0].masks[:, :, 32:].any()
    assert torch.equal(
        batch.targets[0].masks[:, :, :32, :64], torch.from_numpy(small.masks).float()
    )
    loss = training.core(batch, 1.0)
    assert torch.isfinite(loss.total)


def test_drops_move_with_the_steps() -> None:
    assert RECIPES["tar"].with_overrides(steps=600).drop_steps == (500,)
    with pytest.raises(InputError, match="'colour'"):
        RECIPES["tar"].with_overrides(colour=1)
    with pytest.raises(InputError, match="nano-vis"):
        instance_recipe("nano-viz")
