"""Synthetic video instances, and their set on disk."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from recipes.nano_vis.scenes import (
    CLASSES,
    LEAST_PIXELS,
    InstanceImages,
    SceneConfig,
    compose_scene,
    seen_ids,
)
from recipes.nano_vis.video_set import VideoSetConfig, write_video_set
from tempomask.data.motion import Stage
from tempomask.data.youtube_vis import YouTubeVIS
from tempomask.data.youtube_vis_check import check
from tempomask.errors import InputError

SETS = ("person-ccp", "person-290", "horse-weizmann", "nuclei-dsb2018", "regions-bsds500")
PER_SET = 8
STAGE = Stage.plain(64, 48)
SMALL = VideoSetConfig(train=3, validation=2, length=(3, 5), size=(48, 64))


@pytest.fixture(scope="module")
def stills(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight images a source, each of a grey of its own: bright on a dark ground."""
    root = tmp_path_factory.mktemp("stills")
    for place, name in enumerate(SETS):
        for number in range(PER_SET):
            label = np.zeros((80, 100), np.uint8)
            label[20:60, 30:70] = 1
            if name.startswith("nuclei"):
                label[5:15, 5:15] = 2
            image = np.full((80, 100, 3), 10 + number, np.uint8)
            image[label > 0] = 120 + 20 * place
            for part, array in (("images", image), ("labels", label)):
                folder = root / "stills-256" / name / part
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(folder / f"{number}.png")
    return root


def test_splits_share_no_image(stills: Path) -> None:
    train, validation = (InstanceImages(stills, split) for split in ("train", "validation"))

    def names(images: InstanceImages) -> set[Path]:
        listed = [still for part in images.things.values() for still in part]
        return {still.image for still in [*listed, *images.scenery]}

    assert not names(train) & names(validation)
    assert len(names(train)) + len(names(validation)) == PER_SET * len(SETS)
    assert {len(part) for part in validation.things.values()} == {2, 4}


def test_people_are_no_scenery(stills: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recipes.nano_vis.scenes.PEOPLE_AND_HORSES", frozenset({"0", "1"}))
    names = {still.image.stem for still in InstanceImages(stills, "train").scenery}
    assert names == {"2", "4", "5", "6"}


@pytest.mark.parametrize("category", CLASSES)
def test_cutouts_are_of_one_thing(stills: Path, category: str) -> None:
    images = InstanceImages(stills, "train")
    rng = np.random.default_rng(0)
    for _ in range(5):
        cutout = images.cutout(rng, category)
        assert cutout is not None and cutout.category == category
        if category != "shape":
            assert int(cutout.mask.sum()) in (1600, 100) and cutout.mask.max() == 1


def test_scenes_are_seeded(stills: Path) -> None:
    images = InstanceImages(stills, "train")
    one, again, other = (
        compose_scene(np.random.default_rng(seed), images, 4, STAGE) for seed in (1, 1, 2)
    )
    assert one.frames.shape == (4, 48, 64, 3)
    assert np.array_equal(one.frames, again.frames) and np.array_equal(one.ids, again.ids)
    assert not np.array_equal(one.frames, other.frames)


def test_twins_look_alike(stills: Path) -> None:
    images = InstanceImages(stills, "train")
    config = SceneConfig(instances=(1, 1), twins=1.0)
    for seed in range(4):
        video = compose_scene(np.random.default_rng(seed), images, 2, STAGE, config)
        assert len(video.categories) == 2 and len(set(video.categories)) == 1


def test_short_clips_deform_less() -> None:
    config = SceneConfig()
    amounts = [config.motion_of(length).deformation for length in (1, 2, 14, 30)]
    assert amounts == sorted(amounts) and amounts[1] < config.motion.deformation / 10
    assert amounts[2] == amounts[3] == config.motion.deformation
    assert config.motion_of(5).crossing == config.motion.crossing


def test_slivers_are_not_seen() -> None:
    ids = np.zeros((1, 20, 20), np.uint8)
    ids[0, 0, : LEAST_PIXELS - 1] = 1
    ids[0, 1, :LEAST_PIXELS] = 2
    assert np.flatnonzero(seen_ids(ids)[0]).tolist() == [2]


def test_the_set_on_disk(stills: Path, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    paths = write_video_set(stills, tmp_path / "set", SMALL, progress=lambda *n: calls.append(n))
    assert [path.name for path in paths] == ["train.json", "validation.json"]
    assert calls == [(number, 5) for number in range(1, 6)]
    for path, count in zip(paths, (3, 2), strict=True):
        assert list(check(path, decode=True)) == []
        dataset = YouTubeVIS(path)
        assert len(dataset) == count and dataset.classes == CLASSES
        for video in dataset.videos:
            assert video.size == (48, 64) and 3 <= len(video) <= 5
            masks = np.stack([a.mask(0) for a in dataset.annotations(video.id)])
            assert masks.sum(axis=0).max() <= 1
    boxes = json.loads(paths[0].read_text())["annotations"][0]
    place = next(t for t, box in enumerate(boxes["bboxes"]) if box)
    rows, columns = np.nonzero(YouTubeVIS(paths[0]).annotations(1)[0].mask(place))
    width, height = columns.max() - columns.min() + 1, rows.max() - rows.min() + 1
    assert boxes["bboxes"][place] == [columns.min(), rows.min(), width, height]


def test_the_set_follows_from_the_seed(stills: Path, tmp_path: Path) -> None:
    only = replace(SMALL, validation=0)
    texts = [
        write_video_set(stills, tmp_path / str(place), replace(only, seed=seed))[0].read_text()
        for place, seed in enumerate((1, 1, 2))
    ]
    assert texts[0] == texts[1] != texts[2]


def test_nothing_is_overwritten_and_nothing_half_written(
    stills: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_video_set(stills, tmp_path / "set", SMALL)
    with pytest.raises(InputError, match="is there already"):
        write_video_set(stills, tmp_path / "set", SMALL)

    def stop(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_video_set(stills, tmp_path / "other", SMALL, progress=stop)
    assert list((tmp_path / "other").iterdir()) == []


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"train": 0, "validation": 0}, "no videos to make"),
        ({"length": (5, 3)}, "5 to 3 frames"),
        ({"size": (20, 64)}, "64 x 20 pixels"),
    ],
)
def test_sets_that_cannot_be_made(values: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        VideoSetConfig(**values)


def test_bad_sources(stills: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no labelled images"):
        InstanceImages(tmp_path, "train")
    with pytest.raises(InputError, match="'test'"):
        InstanceImages(stills, "test")  # type: ignore[arg-type]
