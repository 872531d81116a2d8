"""Training clips: every source, repeatable from seed and index, masks on their objects."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from tempomask.data import clips as clips_module
from tempomask.data import synthetic
from tempomask.data.clips import AREA, Clip, ClipMixture, Mixture, collate
from tempomask.data.synthetic import SyntheticVideo
from tempomask.errors import InputError

SOURCES = [field.name for field in fields(Mixture)]


def only(*names: str) -> Mixture:
    return Mixture(**{name: float(name in names) for name in SOURCES})


def same(a: Clip, b: Clip) -> bool:
    return np.array_equal(a.frames, b.frames) and np.array_equal(a.masks, b.masks)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("num_frames", [1, 3])
def test_every_source_gives_clips(training_folder: Path, source: str, num_frames: int) -> None:
    clips = ClipMixture(
        training_folder, image_size=64, num_frames=num_frames, seed=4, mixture=only(source)
    )
    for index in range(8):
        clip = clips[index]
        assert clip.source == source
        assert clip.frames.shape == (num_frames, 64, 64, 3) and clip.frames.dtype == np.uint8
        assert clip.masks.shape == (num_frames, 64, 64) and clip.masks.dtype == np.uint8
        assert set(np.unique(clip.masks)) <= {0, 1}
        assert AREA[0] < clip.masks[0].mean() < AREA[1]


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
    frames = torch.cat([batch[0] for batch in loader])
    expected, _ = collate([clips[index] for index in (3, 8, 5, 1)])
    assert torch.equal(frames, expected)


def test_sources_come_in_their_shares(training_folder: Path) -> None:
    mixture = Mixture(davis=3, stills=1, paste=0, regions=0, drawn=0)
    clips = ClipMixture(training_folder, image_size=16, num_frames=2, mixture=mixture)
    count = Counter(clips[index].source for index in range(200))
    assert set(count) == {"davis", "stills"}
    assert 0.6 < count["davis"] / 200 < 0.9


@pytest.mark.parametrize("source", ["davis", "stills"])
def test_masks_lie_on_their_bright_objects(training_folder: Path, source: str) -> None:
    clips = ClipMixture(training_folder, image_size=96, num_frames=3, mixture=only(source))
    checked = 0
    for index in range(12):
        clip = clips[index]
        for frame, mask in zip(clip.frames.mean(axis=3), clip.masks, strict=True):
            if not 0.03 < mask.mean() < 0.9:
                continue
            bright = frame > (frame[mask > 0].mean() + frame[mask == 0].mean()) / 2
            overlap = (bright & (mask > 0)).sum() / (bright | (mask > 0)).sum()
            # An image's other bright things (its edge mirrored) may come into view.
            assert overlap > 0.93
            checked += 1
    assert checked > 15


def test_filmed_objects_are_hidden_by_what_is_pasted_over_them(
    training_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos: list[SyntheticVideo] = []

    def watched(*args: Any) -> SyntheticVideo:
        videos.append(synthetic.paste(*args))
        return videos[-1]

    monkeypatch.setattr(clips_module, "paste", watched)
    mixture = ClipMixture(training_folder, image_size=64, num_frames=2, mixture=only("paste"))
    followed = Counter()
    for index in range(60):
        videos.clear()
        clip = mixture[index]
        if videos:
            covered = clip.masks * videos[-1].ids
            (number,) = np.unique(covered[clip.masks > 0])
            followed["filmed" if number == 0 else "pasted"] += 1
            if number:
                assert np.array_equal(clip.masks, videos[-1].mask(number))
    assert followed["filmed"] > 2 and followed["pasted"] > 2


def test_real_video_goes_both_ways_and_at_several_strides(training_folder: Path) -> None:
    """The filmed object moves 3 pixels a frame to the right."""
    clips = ClipMixture(training_folder, image_size=64, num_frames=3, mixture=only("davis"))
    speeds = []
    for index in range(40):
        mask = clips[index].masks
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
    clips = ClipMixture(training_folder, image_size=32, num_frames=1, length=7)
    assert len(clips) == 7
    assert clips[10_000_000].frames.shape == (1, 32, 32, 3)


def test_collate_stacks(training_folder: Path) -> None:
    clips = ClipMixture(training_folder, image_size=64, num_frames=3)
    frames, masks = collate([clips[0], clips[1]])
    assert frames.shape == (2, 3, 64, 64, 3) and frames.dtype == torch.uint8
    assert masks.shape == (2, 3, 64, 64) and masks.dtype == torch.uint8
    assert np.array_equal(frames[1].numpy(), clips[1].frames)


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
