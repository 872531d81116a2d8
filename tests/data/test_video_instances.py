"""Synthetic video instances, their set on disk, and COCO as pseudo-video."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tempomask.data.coco_pseudo_video import CocoPseudoVideos, labels_of
from tempomask.data.motion import Stage
from tempomask.data.video_instance_set import VideoSetConfig, write_video_set
from tempomask.data.video_instances import (
    CLASSES,
    LEAST_PIXELS,
    InstanceImages,
    SceneConfig,
    compose_scene,
    seen_ids,
)
from tempomask.data.youtube_vis import YouTubeVIS
from tempomask.data.youtube_vis_check import check
from tempomask.errors import InputError

SETS = ("person-ccp", "person-290", "horse-weizmann", "nuclei-dsb2018", "regions-bsds500")
PER_SET = 8
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
    monkeypatch.setattr("tempomask.data.video_instances.PEOPLE_AND_HORSES", frozenset({"0", "1"}))
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
    stage = Stage.plain(64, 48)
    one, again, other = (
        compose_scene(np.random.default_rng(seed), images, 4, stage) for seed in (1, 1, 2)
    )
    assert one.frames.shape == (4, 48, 64, 3)
    assert np.array_equal(one.frames, again.frames) and np.array_equal(one.ids, again.ids)
    assert not np.array_equal(one.frames, other.frames)


def test_twins_look_alike(stills: Path) -> None:
    images = InstanceImages(stills, "train")
    config = SceneConfig(instances=(1, 1), twins=1.0)
    for seed in range(4):
        video = compose_scene(np.random.default_rng(seed), images, 2, Stage.plain(64, 48), config)
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


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """Two images: a car as polygon and a crowd of people; a dog as RLE."""
    (tmp_path / "images").mkdir()
    for name, box in (("a.png", (20, 30, 60, 90)), ("b.png", (10, 10, 50, 50))):
        image = np.full((100, 120, 3), 30, np.uint8)
        image[box[0] : box[2], box[1] : box[3]] = 200
        Image.fromarray(image).save(tmp_path / "images" / name)
    polygon = [[30.0, 20.0, 90.0, 20.0, 90.0, 60.0, 30.0, 60.0]]
    counts = [10 * 100 + 10, *[40, 60] * 39, 40, 70 * 100 + 50]
    content = {
        "images": [
            {"id": 1, "file_name": "a.png", "width": 120, "height": 100},
            {"id": 2, "file_name": "b.png", "width": 120, "height": 100},
            {"id": 3, "file_name": "none.png", "width": 120, "height": 100},
        ],
        "categories": [{"id": 3, "name": "car"}, {"id": 18, "name": "dog"}, {"id": 1, "name": "x"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 3, "segmentation": polygon, "iscrowd": 0},
            {"id": 2, "image_id": 1, "category_id": 18, "segmentation": polygon, "iscrowd": 1},
            {
                "id": 3,
                "image_id": 2,
                "category_id": 18,
                "segmentation": {"size": [100, 120], "counts": counts},
                "iscrowd": 0,
            },
            {"id": 4, "image_id": 3, "category_id": 1, "segmentation": polygon, "iscrowd": 0},
        ],
    }
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    return path


def test_coco_images_move_with_their_instances(coco: Path) -> None:
    clips = CocoPseudoVideos(
        coco, coco.parent / "images", classes=("dog", "sedan"), image_size=64, num_frames=3
    )
    assert len(clips) == 2
    labels = set()
    for index in range(12):
        clip = clips[index]
        labels |= set(clip.labels.tolist())
        assert clip.frames.shape == (3, 64, 64, 3) and len(clip.labels) == 1
        for t in range(3):
            mask = clip.masks[t, 0]
            if mask.sum() > 100 and (~mask).sum() > 100:
                assert clip.frames[t][mask].mean() > 2 * clip.frames[t][~mask].mean()
    assert labels == {0, 1}
    assert np.array_equal(clips[3].masks, clips[3].masks)
    assert not np.array_equal(clip.frames[0], clip.frames[2])


def test_coco_names_in_other_words() -> None:
    names = {1: "person", 3: "car", 4: "motorcycle", 16: "bird", 43: "tennis racket", 6: "bus"}
    assert labels_of(names, ("person", "sedan", "motorbike", "parrot", "tennis_racket")) == {
        1: 0,
        3: 1,
        4: 2,
        43: 4,
    }
    assert labels_of(names, ("vehicle", "bird")) == {3: 0, 6: 0, 16: 1}


def test_coco_input_errors(coco: Path, tmp_path: Path) -> None:
    images = coco.parent / "images"
    with pytest.raises(InputError, match="no image of .* has an instance of cat"):
        CocoPseudoVideos(coco, images, classes=("cat",))
    with pytest.raises(InputError, match="no such folder"):
        CocoPseudoVideos(coco, tmp_path / "none")
    missing = CocoPseudoVideos(coco, images, classes=("x",))
    with pytest.raises(InputError, match="none.png"):
        missing[0]
    other = tmp_path / "videos.json"
    other.write_text('{"videos": []}')
    with pytest.raises(InputError, match="no list of images"):
        CocoPseudoVideos(other, images)
