"""Scenes: every object of a frame with a mask of its own, repeatable, held-out ones apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tempomask.data import scenes as scenes_module
from tempomask.data.clips import AREA, Mixture
from tempomask.data.scenes import (
    MOST_OBJECTS,
    Scene,
    SceneMixture,
    collate_scenes,
    validation_scenes,
)
from tempomask.data.synthetic import SyntheticVideo
from tempomask.errors import InputError

SOURCES = [field.name for field in fields(Mixture)]


def only(name: str) -> Mixture:
    return Mixture(**{source: float(source == name) for source in SOURCES})


def same(a: Scene, b: Scene) -> bool:
    return np.array_equal(a.frame, b.frame) and np.array_equal(a.masks, b.masks)


@pytest.mark.parametrize("source", SOURCES)
def test_masks_are_disjoint_objects_of_one_frame(training_folder: Path, source: str) -> None:
    scenes = SceneMixture(training_folder, image_size=64, seed=4, mixture=only(source))
    for index in range(10):
        scene = scenes[index]
        assert scene.source == source
        assert scene.frame.shape == (64, 64, 3) and scene.frame.dtype == np.uint8
        assert scene.masks.shape[1:] == (64, 64) and scene.masks.dtype == np.uint8
        assert 1 <= len(scene.masks) <= MOST_OBJECTS
        assert scene.masks.sum(axis=0).max() == 1
        shares = scene.masks.mean(axis=(1, 2))
        assert AREA[0] < shares.min() and shares.max() < AREA[1]


@pytest.mark.parametrize("source", ["drawn", "paste"])
def test_every_object_that_is_seen_has_its_mask(
    training_folder: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[SyntheticVideo] = []

    def watched(maker: Callable[..., SyntheticVideo]) -> Callable[..., SyntheticVideo]:
        def make(*arguments: Any) -> SyntheticVideo:
            made.append(maker(*arguments))
            return made[-1]

        return make

    for name in ("compose", "paste"):
        monkeypatch.setattr(scenes_module, name, watched(getattr(scenes_module, name)))
    scenes = SceneMixture(training_folder, 64, mixture=only(source))
    counts = Counter()
    for index in range(30):
        scene = scenes[index]
        ids = made[-1].ids[0]
        masks = {(ids == i).tobytes() for i in range(1, 5) if AREA[0] < (ids == i).mean() < AREA[1]}
        found = {(mask > 0).tobytes() for mask in scene.masks}
        filmed = found - masks
        # Over real video the filmed object counts too, where nothing is pasted over it.
        assert len(filmed) <= 1 and all(
            not (ids[np.frombuffer(one, bool).reshape(ids.shape)] > 0).any() for one in filmed
        )
        assert masks <= found or len(found) == MOST_OBJECTS
        counts[len(found)] += 1
    assert {1, 2, 3} <= set(counts)


def test_scenes_depend_on_seed_and_index_alone(training_folder: Path) -> None:
    first, again, other = (SceneMixture(training_folder, 64, seed) for seed in (4, 4, 5))
    backwards = [again[index] for index in reversed(range(12))][::-1]
    assert all(same(first[index], scene) for index, scene in enumerate(backwards))
    assert not any(same(first[index], first[index + 12]) for index in range(12))
    assert not any(same(first[index], other[index]) for index in range(12))


def test_collate_keeps_which_object_is_whose() -> None:
    def scene(count: int, value: int) -> Scene:
        masks = np.full((count, 16, 16), value, np.uint8)
        return Scene(np.full((16, 16, 3), value, np.uint8), masks, "drawn")

    batch = collate_scenes([scene(2, 0), scene(1, 1), scene(3, 2)])
    assert batch.frames.shape == (3, 16, 16, 3) and batch.frames.dtype == torch.uint8
    assert batch.masks.shape == (6, 16, 16) and batch.masks.dtype == torch.uint8
    assert batch.scene.tolist() == [0, 0, 1, 2, 2, 2]
    # The value of a mask above is the number of its scene.
    assert torch.equal(batch.masks[:, 0, 0].long(), batch.scene)


def test_validation_shows_two_objects_of_held_out_sequences(training_folder: Path) -> None:
    scenes = validation_scenes(training_folder, ("dog",), 64, count=6)
    assert len(scenes) == 6
    assert all(2 <= len(scene.masks) <= MOST_OBJECTS for scene in scenes)
    assert all(scene.masks.sum(axis=0).max() == 1 for scene in scenes)
    again = validation_scenes(training_folder, ("dog",), 64, count=6)
    assert all(same(a, b) for a, b in zip(scenes, again, strict=True))
    assert not same(scenes[0], validation_scenes(training_folder, ("cow",), 64, count=1)[0])


def test_validation_reads_nothing_but_held_out_sequences(
    training_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tempomask.data.stills import ImageLibrary

    seen: set[str] = set()
    read = ImageLibrary.image

    def watched(self: ImageLibrary, path: Path) -> np.ndarray:
        seen.add(path.parent.name)
        return read(self, path)

    monkeypatch.setattr(ImageLibrary, "image", watched)
    validation_scenes(training_folder, ("dog",), 64, count=4)
    assert seen == {"dog"}
    seen.clear()
    scenes = SceneMixture(training_folder, 64, held_out=("dog",))
    for index in range(40):
        scenes[index]
    assert "cow" in seen and "dog" not in seen


def test_no_sequence_held_out_is_no_scene(training_folder: Path) -> None:
    assert validation_scenes(training_folder, ()) == []


def test_bad_input(training_folder: Path, empty_labels_folder: Path) -> None:
    with pytest.raises(InputError, match="'cat'"):
        validation_scenes(training_folder, ("dog", "cat"))
    with pytest.raises(InputError, match="'cat'"):
        SceneMixture(training_folder, held_out=("cat",))
    with pytest.raises(InputError, match="image_size=8"):
        SceneMixture(training_folder, image_size=8)
    with pytest.raises(InputError, match="no object covers"):
        validation_scenes(empty_labels_folder, ("dog",), 32)
