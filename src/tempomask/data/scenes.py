"""Scenes: single frames that show several objects, with all their masks, for clicks and boxes.

K objects of a scene, B scenes, N objects of all scenes, S side of the square frame. A click has to
choose between the objects, so every one of them is asked for.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from tempomask.data.clips import AREA, Clip, ClipMixture, Mixture
from tempomask.data.colour import vary_colour
from tempomask.data.motion import ImageArray
from tempomask.data.stills import Cutout
from tempomask.data.synthetic import Motion, compose, paste
from tempomask.errors import InputError

# Shares of the sources: mostly those that have several objects.
SCENE_MIXTURE = Mixture(davis=0.0, stills=0.1, paste=0.65, regions=0.1, drawn=0.15)
MOST_OBJECTS = 4
# Extent of what is pasted over a filmed object, smaller than elsewhere, so that both are seen.
OVER_VIDEO = replace(Motion(), size=(0.15, 0.6))
# Scenes to validate on are the same for every run. A cut-out of one is no smaller than this share.
VALIDATION_SEED, VALIDATION_LEAST_AREA = 999, 0.002
# Draws for a validation scene that shows two objects.
VALIDATION_DRAWS = 20


class Scene(NamedTuple):
    """frame (S, S, 3) uint8 RGB; masks (K, S, S) of zeros and ones, disjoint; its source."""

    frame: ImageArray
    masks: ImageArray
    source: str


class SceneBatch(NamedTuple):
    """frames (B, S, S, 3) and masks (N, S, S), both uint8; scene (N,) long: which scene's each."""

    frames: Tensor
    masks: Tensor
    scene: Tensor


def collate_scenes(scenes: list[Scene]) -> SceneBatch:
    """A batch of scenes with all their objects."""
    counts = torch.tensor([len(scene.masks) for scene in scenes])
    return SceneBatch(
        frames=torch.from_numpy(np.stack([scene.frame for scene in scenes])),
        masks=torch.from_numpy(np.concatenate([scene.masks for scene in scenes])),
        scene=torch.repeat_interleave(torch.arange(len(scenes)), counts),
    )


class SceneMixture(Dataset[Scene]):
    """Scenes of one to four objects, one endless seeded mixture; scene i depends on seed and i.

    root, held_out, mixture, length: as of `ClipMixture`, with `SCENE_MIXTURE` for None. InputError
    for data that is missing, or a frame of less than 16 pixels.
    """

    def __init__(
        self,
        root: Path,
        image_size: int = 256,
        seed: int = 1,
        held_out: Collection[str] = (),
        mixture: Mixture | None = None,
        length: int = 100_000,
    ) -> None:
        mixture = mixture or SCENE_MIXTURE
        self.clips = _WholeFrames(root, image_size, 1, seed, held_out, mixture, length)

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> Scene:
        return _scene(self.clips[index])


class _WholeFrames(ClipMixture):
    """Clips of one frame; where objects were put together, the K masks stand in place of T."""

    def _composed(
        self, rng: np.random.Generator, background: ImageArray, cutouts: list[Cutout], source: str
    ) -> Clip | None:
        video = compose(rng, background, cutouts, 1, self._stage(rng))
        return self._together(rng, video.frames, _seen(video.ids[0]), source)

    def _over_real_video(self, rng: np.random.Generator, cutouts: list[Cutout]) -> Clip | None:
        real = self._real_video(rng)
        if real is None:
            return None
        frames, filmed = real
        pasted = cutouts[: int(rng.integers(1, 4))]
        video = paste(rng, frames, pasted, self._stage(rng), OVER_VIDEO)
        ids = video.ids[0]
        masks = [(filmed[0] * (ids == 0)).astype(np.uint8), *_seen(ids)]
        return self._together(rng, video.frames, masks, "paste")

    def _together(
        self, rng: np.random.Generator, frames: ImageArray, masks: list[ImageArray], source: str
    ) -> Clip | None:
        """A frame with at most four of its objects in random order; None if all are too small."""
        masks = [mask for mask in masks if AREA[0] < mask.mean() < AREA[1]]
        if not masks:
            return None
        order = rng.permutation(len(masks))[:MOST_OBJECTS]
        return Clip(vary_colour(rng, frames), np.stack([masks[i] for i in order]), source)


class _HeldOutFrames(_WholeFrames):
    """Objects of some DAVIS sequences only, pasted over frames of these."""

    def __init__(self, root: Path, image_size: int, names: Collection[str]) -> None:
        only_pasted = Mixture(davis=0, stills=0, paste=1, regions=0, drawn=0)
        super().__init__(root, image_size, 1, VALIDATION_SEED, (), only_pasted)
        library = self.library
        for name in names:
            if name not in library.sequences:
                raise InputError(f"no sequence {name!r} under {root} to validate on")
        library.names = [name for name in library.names if name in names]
        library.sequences = {name: library.sequences[name] for name in library.names}

    def paste(self, rng: np.random.Generator) -> Clip | None:
        """Up to three held-out objects over a held-out frame."""
        drawn = [self._held_out_object(rng) for _ in range(3)]
        cutouts = [cutout for cutout in drawn if cutout is not None]
        return self._over_real_video(rng, cutouts) if cutouts else None

    def _held_out_object(self, rng: np.random.Generator) -> Cutout | None:
        path = self.library.davis_frame(rng)
        mask = self.library.davis_mask(path)
        if mask.mean() <= VALIDATION_LEAST_AREA:
            return None
        return Cutout(self.library.image(path), mask)


def validation_scenes(
    root: Path, names: Collection[str], image_size: int = 256, count: int = 40
) -> list[Scene]:
    """The same `count` scenes of at least two objects for every run, from held-out sequences.

    names: DAVIS sequences that no training scene shows; () gives no scenes. InputError for one
    that is not there, and for sequences that do not give two objects a frame.
    """
    if not names:
        return []
    frames = _HeldOutFrames(root, image_size, names)
    scenes: list[Scene] = []
    for index in range(count * VALIDATION_DRAWS):
        clip = frames[index]
        if len(clip.masks) >= 2:
            scenes.append(_scene(clip))
        if len(scenes) == count:
            return scenes
    raise InputError(
        f"only {len(scenes)} of {count * VALIDATION_DRAWS} frames made of {', '.join(names)} show"
        " two objects; hold out sequences with larger objects"
    )


def _seen(ids: ImageArray) -> list[ImageArray]:
    """The masks (S, S) of ids 1, 2, ..., the greatest of an id map (S, S)."""
    return [(ids == number).astype(np.uint8) for number in range(1, int(ids.max()) + 1)]


def _scene(clip: Clip) -> Scene:
    return Scene(clip.frames[0], clip.masks, clip.source)
