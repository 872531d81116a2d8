"""Training clips: every source, repeatable from seed and index, masks on their objects."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from tempomask.data import clips as clips_module
from tempomask.data import synthetic
from tempomask.data.clips import AREA, Clip, ClipMixture, Mixture, chosen_objects, collate
from tempomask.data.synthetic import LabelledVideo
from tempomask.errors import InputError

SOURCES = [field.name for field in fields(Mixture)]


def only(*names: str) -> Mixture:
    return Mixture(**{name: float(name in names) for name in SOURCES})


def same(a: Clip, b: Clip) -> bool:
    return np.array_equal(a.frames, b.frames) and np.array_equal(a.masks, b.masks)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(("num_frames", "most_objects"), [(1, 6), (5, 1), (3, 3)])
def test_every_source_gives_clips(
    training_folder: Path, source: str, num_frames: int, most_objects: int
) -> None:
    clips = ClipMixture(
        training_folder, 64, num_frames, seed=4, mixture=only(source), most_objects=most_objects
    )
    counts = set()
    for index in range(12):
        clip = clips[index]
        assert clip.source == source
        assert clip.frames.shape == (num_frames, 64, 64, 3) and clip.frames.dtype == np.uint8
        assert clip.masks.shape[1:] == (num_frames, 64, 64) and clip.masks.dtype == np.uint8
        assert clip.masks.sum(axis=0).max() == 1, "disjoint"
        shares = clip.masks[:, 0].mean(axis=(1, 2))
        assert AREA[0] < shares.min() and shares.max() < AREA[1]
        counts.add(len(clip.masks))
    assert min(counts) >= 1 and max(counts) <= most_objects
    assert most_objects == 1 or source == "regions" or max(counts) > 1


def test_clips_depend_on_seed_and_index_alone(training_folder: Path) -> None:
    def mixture(seed: int) -> ClipMixture:
        return ClipMixture(training_folder, image_size=64, num_frames=3, seed=seed)

    first, again, other = mixture(4), mixture(4), mixture(5)
    backwards = [again[index] for index in reversed(range(12))][::-1]
    assert all(same(first[index], clip) for index, clip in enumerate(backwards))
    assert not any(same(first[index], first[index + 12]) for index in range(12)), "fresh epochs"
    assert not any(same(first[index], other[index]) for index in range(12))


def test_loader_processes_give_the_same_clips(training_folder: Path) -> None:
    clips = ClipMixture(training_folder, image_size=32, num_frames=2, seed=1)
    loader = DataLoader(
        clips, batch_size=2, sampler=[3, 8, 5, 1], collate_fn=collate, num_workers=2
    )
    frames = torch.cat([batch.frames for batch in loader])
    expected = collate([clips[index] for index in (3, 8, 5, 1)])
    assert torch.equal(frames, expected.frames)


def test_sources_come_in_their_shares(training_folder: Path) -> None:
    mixture = Mixture(video=3, stills=1, paste=0, regions=0, drawn=0)
    clips = ClipMixture(training_folder, image_size=16, num_frames=2, mixture=mixture)
    count = Counter(clips[index].source for index in range(200))
    assert set(count) == {"video", "stills"}
    assert 0.6 < count["video"] / 200 < 0.9


@pytest.mark.parametrize("source", ["video", "stills"])
def test_masks_lie_on_their_bright_objects(training_folder: Path, source: str) -> None:
    mixture = only(source)
    clips = ClipMixture(training_folder, 96, num_frames=3, mixture=mixture, most_objects=4)
    checked, beside = 0, []
    for index in range(12):
        clip = clips[index]
        for frame, mask in zip(clip.frames.mean(axis=3), clip.masks.sum(axis=0), strict=True):
            if not 0.03 < mask.mean() < 0.9:
                continue
            bright = frame > (frame[mask > 0].mean() + frame[mask == 0].mean()) / 2
            assert bright[mask > 0].mean() > 0.9
            # Other bright things may be near: an image's mirrored edge, what is not asked for.
            around = (cv2.dilate(mask.astype(np.uint8), np.ones((7, 7))) > 0) & (mask == 0)
            beside.append(bright[around].mean())
            checked += 1
    assert checked > 15 and np.median(beside) < 0.2


def test_what_lies_below_is_hidden_by_what_is_pasted_over_it(
    training_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos: list[LabelledVideo] = []

    def watched(*args: Any) -> LabelledVideo:
        videos.append(synthetic.paste(*args))
        return videos[-1]

    monkeypatch.setattr(clips_module, "paste", watched)
    mixture = ClipMixture(training_folder, 64, 2, mixture=only("paste"), most_objects=8)
    kinds = Counter()
    for index in range(60):
        videos.clear()
        clip = mixture[index]
        for mask in clip.masks if videos else ():
            (number,) = np.unique(videos[-1].ids[mask > 0])
            kinds["below" if number == 0 else "pasted"] += 1
            if number:
                assert np.array_equal(mask, videos[-1].ids == number)
    assert kinds["below"] > 5 and kinds["pasted"] > 5


def test_objects_are_drawn_from_those_that_the_first_frame_shows() -> None:
    ids = np.zeros((2, 40, 40), np.uint8)
    ids[0, :10, :10], ids[:, 20:30], ids[1, 35:], ids[0, 39, 39] = 1, 2, 3, 4
    rng = np.random.default_rng(0)
    masks = chosen_objects(rng, ids, 5)
    assert masks is not None
    assert {tuple(np.unique(ids[mask > 0])) for mask in masks} == {(1,), (2,)}
    alone = [chosen_objects(rng, ids, 1) for _ in range(20)]
    assert {int(ids[one[0] > 0].max()) for one in alone if one is not None} == {1, 2}
    assert chosen_objects(rng, np.zeros((1, 8, 8), np.uint8), 3) is None


def test_pasted_objects_leave_and_come_back(training_folder: Path) -> None:
    clips = ClipMixture(training_folder, 64, 8, mixture=only("drawn"), most_objects=4)
    returned = 0
    for index in range(80):
        for mask in clips[index].masks:
            seen = mask.any(axis=(1, 2))
            gone = np.flatnonzero(~seen)
            returned += bool(len(gone) and seen[gone[0] :].any())
    assert returned > 3


def test_real_video_goes_both_ways_and_at_several_strides(training_folder: Path) -> None:
    """The filmed object moves 3 pixels a frame to the right."""
    clips = ClipMixture(training_folder, image_size=64, num_frames=3, mixture=only("video"))
    speeds = []
    for index in range(40):
        mask = clips[index].masks[0]
        if mask[0].any() and mask[-1].any():
            speeds.append(np.nonzero(mask[-1])[1].mean() - np.nonzero(mask[0])[1].mean())
    assert min(speeds) < -2 and max(speeds) > 2
    assert np.ptp(np.abs(speeds)) > 4


def test_held_out_sequences_are_never_read(training_folder: Path) -> None:
    clips = ClipMixture(training_folder, image_size=32, num_frames=2, held_out=("cow",))
    for index in range(60):
        clips[index]
    seen = {path.parent.name for path in clips.library._read}
    assert "dog" in seen and "cow" not in seen


def test_length_is_an_epoch_and_indices_go_on(training_folder: Path) -> None:
    clips = ClipMixture(training_folder, image_size=32, num_frames=1)
    assert len(clips) == 100_000
    assert clips[10_000_000].frames.shape == (1, 32, 32, 3)


def test_collate_keeps_which_object_is_whose() -> None:
    def clip(count: int, value: int) -> Clip:
        masks = np.full((count, 2, 16, 16), value, np.uint8)
        return Clip(np.full((2, 16, 16, 3), value, np.uint8), masks, "drawn")

    batch = collate([clip(2, 0), clip(1, 1), clip(3, 2)])
    assert batch.frames.shape == (3, 2, 16, 16, 3) and batch.frames.dtype == torch.uint8
    assert batch.masks.shape == (6, 2, 16, 16) and batch.masks.dtype == torch.uint8
    assert batch.clip.tolist() == [0, 0, 1, 2, 2, 2]
    # The value of a mask above is the number of its clip.
    assert torch.equal(batch.masks[:, 0, 0, 0].long(), batch.clip)


def test_data_without_objects_is_refused(empty_labels_folder: Path) -> None:
    clips = ClipMixture(empty_labels_folder, image_size=32, num_frames=2, mixture=only("stills"))
    with pytest.raises(InputError, match="stills"):
        clips[0]


@pytest.mark.parametrize("shares", [(0, 0, 0, 0, 0), (1, -1, 0, 0, 0)])
def test_shares_must_make_sense(shares: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="shares"):
        Mixture(*shares)


@pytest.mark.parametrize(("image_size", "num_frames"), [(8, 4), (64, 0)])
def test_sizes_must_make_sense(training_folder: Path, image_size: int, num_frames: int) -> None:
    with pytest.raises(InputError, match=f"image_size={image_size}, num_frames={num_frames}"):
        ClipMixture(training_folder, image_size=image_size, num_frames=num_frames)
