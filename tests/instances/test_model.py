"""`load_instances` and `track`: from a file of weights to results and a summary."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import tempomask
from tempomask.errors import InputError
from tempomask.instances.model import InstanceModel, load_instances
from tempomask.instances.options import PROTOCOL, InstanceOptions
from tempomask.instances.query_routing import FixedLayers, QueryRouterConfig, TemporalQueryRouter
from tempomask.models.instances.config import InstanceConfig
from tempomask.models.instances.segmenter import InstanceSegmenter
from tempomask.weights.own import RouterWeights, save_instance_segmenter

ALL = InstanceOptions(min_score=0.0)

FRAMES = 4


@pytest.fixture(scope="module")
def files(
    tmp_path_factory: pytest.TempPathFactory, instance_config: Callable[..., InstanceConfig]
) -> dict[str, Path]:
    """Weights of a small model, without and with a router that skips everything it may."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    router = TemporalQueryRouter(QueryRouterConfig(dim=32, layers=4, hidden_dim=8, num_heads=2))
    with torch.no_grad():
        for module in router.routers:
            module.score.bias.copy_(torch.tensor([9.0, 0.0]))
    stored = RouterWeights(router.config.to_json(), router.state_dict())
    paths = {name: folder / f"{name}.safetensors" for name in ("plain", "tar", "dvis", "broken")}
    segmenter = InstanceSegmenter(instance_config())
    save_instance_segmenter(segmenter, paths["plain"])
    save_instance_segmenter(segmenter, paths["tar"], stored)
    save_instance_segmenter(InstanceSegmenter(instance_config(tracker=True)), paths["dvis"], stored)
    state = {name: tensor for name, tensor in stored.state.items() if "expand" not in name}
    save_instance_segmenter(segmenter, paths["broken"], stored._replace(state=state))
    return paths


def video(count: int = FRAMES) -> list[NDArray[np.uint8]]:
    random = np.random.default_rng(0)
    return [random.integers(0, 255, (50, 70, 3), dtype=np.uint8) for _ in range(count)]


def load(path: Path, **values: object) -> InstanceModel:
    return load_instances(checkpoint=path, device="cpu", dtype="float32", **values)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["plain", "tar", "dvis"])
def test_a_video_gives_one_result_a_frame_and_a_summary(files: dict[str, Path], name: str) -> None:
    model = load(files[name])
    tracks = model.track(video(), options=PROTOCOL)
    results = list(tracks)
    assert [result.index for result in results] == list(range(FRAMES))
    for result in results:
        assert result.track_ids.tolist() == list(range(1, 8))
        assert result.masks.shape == (7, 50, 70)
        assert ((result.scores >= 0) & (result.scores <= 1)).all()
        assert result.classes == model.classes == ("cat", "dog", "fox")
    summary = tracks.summary()
    assert (summary.num_frames, summary.size, len(summary.tracks)) == (FRAMES, (50, 70), 7)
    assert len(summary.predictions()) == 10


def test_engines_agree(files: dict[str, Path]) -> None:
    fast, plain = (load(files["dvis"], engine=engine) for engine in ("fast", "plain"))
    for own, wanted in zip(
        fast.track(video(), options=PROTOCOL), plain.track(video(), options=PROTOCOL), strict=True
    ):
        np.testing.assert_allclose(own.scores, wanted.scores, atol=1e-4)
        assert (own.masks == wanted.masks).mean() > 0.999
    with pytest.raises(InputError, match="engine"):
        load(files["plain"], engine="slow")


@pytest.mark.parametrize("name", ["plain", "tar", "dvis"])
def test_bfloat16_gives_about_the_same(files: dict[str, Path], name: str) -> None:
    """Every step of a session has to do with what autocast makes of its tensors."""
    exact = load(files[name], router="none")
    reduced = load_instances(checkpoint=files[name], router="none", device="cpu", dtype="bfloat16")
    for options in (InstanceOptions(), ALL, PROTOCOL):
        tracks = reduced.track(video(), options=options)
        results = list(tracks)
        assert [len(result.scores) for result in results] == [len(r.masks) for r in results]
        assert tracks.summary().num_frames == FRAMES
    first = next(exact.track(video(), options=PROTOCOL))
    assert np.abs(first.scores - results[0].scores).mean() < 0.05
    assert (first.masks == results[0].masks).mean() > 0.9


def test_the_front_door_is_exported() -> None:
    assert tempomask.load_instances is load_instances
    assert tempomask.InstanceModel is InstanceModel
    assert {"InstanceResult", "InstanceSummary"} <= set(tempomask.__all__)


def test_routers(files: dict[str, Path]) -> None:
    """The layers that run, by router."""

    def layers(path: Path, **values: object) -> float:
        tracks = load(path, **values).track(video())
        list(tracks)
        return tracks.summary().layers_run * FRAMES

    assert layers(files["plain"]) == 4 * FRAMES
    assert layers(files["tar"]) == 4 + 1 * (FRAMES - 1)
    assert layers(files["tar"], router="tar") == 4 + 1 * (FRAMES - 1)
    assert layers(files["tar"], router="none") == 4 * FRAMES
    assert layers(files["tar"], router=2) == 2 * FRAMES
    assert isinstance(load(files["plain"], router=3).router, FixedLayers)


def test_two_videos_do_not_know_of_each_other(files: dict[str, Path]) -> None:
    model = load(files["dvis"])
    first = [result.scores for result in model.track(video(), options=ALL)]
    again = [result.scores for result in model.track(video(), options=ALL)]
    assert all(map(np.array_equal, first, again))


def test_a_part_of_a_video(files: dict[str, Path]) -> None:
    tracks = load(files["plain"]).track(video(), frames=range(1, 3), options=ALL)
    assert [result.index for result in tracks] == [1, 2]
    assert tracks.summary().tracks[0].first_frame == 1


def test_the_live_session_equals_the_video(files: dict[str, Path]) -> None:
    model = load(files["plain"])
    session = model.session(options=ALL)
    for frame, result in zip(video(), model.track(video(), options=ALL), strict=True):
        stepped = session.step(frame)
        assert np.array_equal(stepped.masks, result.masks)
        assert np.array_equal(stepped.track_ids, result.track_ids)


def test_image_size(files: dict[str, Path]) -> None:
    assert load(files["plain"], image_size=96).config.short_side == 96
    with pytest.raises(InputError, match="image_size 32"):
        load(files["plain"], image_size=32)


def test_classes_from_lists_and_files(files: dict[str, Path], tmp_path: Path) -> None:
    text, names, annotations = (tmp_path / n for n in ("a.txt", "b.json", "c.json"))
    text.write_text("one\ntwo\n\nthree\n")
    names.write_text('["one", "two", "three"]')
    rows = [{"id": 3, "name": "three"}, {"id": 1, "name": "one"}, {"id": 2, "name": "two"}]
    annotations.write_text(json.dumps({"categories": rows}))
    for classes in (text, str(names), annotations, ["one", "two", "three"]):
        assert load(files["plain"], classes=classes).classes == ("one", "two", "three")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "one\ntwo\n", r"a.txt has 2 names, but tiny knows 3 classes \(cat, dog"),
        ("a.json", "{}", "is an object of 0, not a list"),
        ("a.json", "[1, 2, 3]", "is 1, not text"),
        ("a.json", "[", "is not JSON"),
        (None, "", "cannot read the classes file"),
    ],
)
def test_classes_that_do_not_match_the_head(
    files: dict[str, Path], tmp_path: Path, name: str | None, content: str, message: str
) -> None:
    path = tmp_path / (name or "missing.txt")
    if name is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=message):
        load(files["plain"], classes=path)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("plain", {"router": "tar"}, "tiny has no TAR weights"),
        ("plain", {"router": "magic"}, "unknown router 'magic'"),
        ("plain", {"router": 9}, "the decoder has 4 layers; 9 of them cannot run"),
        ("broken", {}, "the checkpoint's router does not fit its configuration"),
    ],
)
def test_routers_that_are_not_there(
    files: dict[str, Path], name: str, values: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        load(files[name], **values)


def test_bad_input_comes_before_the_first_frame(files: dict[str, Path], tmp_path: Path) -> None:
    model = load(files["plain"])
    with pytest.raises(InputError, match="nothing.mp4"):
        model.track(tmp_path / "nothing.mp4")
    with pytest.raises(InputError):
        model.track(video(), frames=range(9, 12))


def test_the_model_says_what_it_is(files: dict[str, Path]) -> None:
    assert repr(load(files["tar"])) == (
        "InstanceModel('tiny', 3 classes, router=TemporalQueryRouter, device='cpu', dtype=float32)"
    )


def test_stopping_early_closes_the_video(files: dict[str, Path]) -> None:
    tracks = load(files["plain"]).track(video())
    next(tracks)
    tracks.close()
    with pytest.raises(StopIteration):
        next(tracks)
    assert tracks.summary().num_frames == 1


def test_a_model_keeps_its_configuration_when_it_is_shared(
    instance_config: Callable[..., InstanceConfig],
) -> None:
    config = replace(instance_config(), short_side=96)
    assert InstanceModel(InstanceSegmenter(config)).config is config
