"""Training clips from any folder in the DAVIS layout: real video, cropped, shaken and recoloured.

T frames, S side of the square frames. Clip i depends on the seed and i alone (see `clips.py`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from tempomask.data.clips import (
    AREA,
    ATTEMPTS,
    LONGEST_STRIDE,
    Clip,
    chosen_objects,
    crop_around,
    shaken,
    view,
)
from tempomask.data.colour import vary_colour
from tempomask.data.motion import ImageArray
from tempomask.data.sequences import MaskSequence
from tempomask.errors import InputError
from tempomask.io.images import read_image

# Decoded frames that are kept in memory, about 0.7 GB of 480p video.
KEPT_FRAMES = 512


class DavisClips(Dataset[Clip]):
    """Clips of T frames of one to most_objects objects, visible in the first frame.

    sequences: see `data.davis.Davis`, those to train on. length is what len() says; larger
    indices give further clips.
    """

    def __init__(
        self,
        sequences: Sequence[MaskSequence],
        image_size: int,
        num_frames: int = 4,
        seed: int = 1,
        length: int = 100_000,
        most_objects: int = 1,
    ) -> None:
        self.sequences = [sequence for sequence in sequences if len(sequence) >= num_frames]
        if not self.sequences:
            raise InputError(
                f"no sequence has the {num_frames} frames of a clip; give longer ones, or set"
                " shorter clips"
            )
        self.side, self.num_frames, self.seed, self.length = image_size, num_frames, seed, length
        self.most_objects = most_objects
        self._kept: OrderedDict[Path, ImageArray] = OrderedDict()

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Clip:
        for attempt in range(ATTEMPTS):
            clip = self._clip(np.random.default_rng((self.seed, index, attempt)))
            if clip is not None:
                return clip
        raise InputError(
            f"no object covers {AREA[0]:.1%} to {AREA[1]:.0%} of a frame in {ATTEMPTS} tries at"
            f" clip {index}; are there masks in {self.sequences[0].annotations[0].parent.parent}?"
        )

    def _clip(self, rng: np.random.Generator) -> Clip | None:
        """A clip at a random stride and direction, one random crop for all of it.

        None if nothing fit to follow is in its first frame.
        """
        sequence = self.sequences[rng.integers(len(self.sequences))]
        gaps = max(1, self.num_frames - 1)
        stride = min(int(rng.integers(1, LONGEST_STRIDE + 1)), max(1, (len(sequence) - 1) // gaps))
        start = int(rng.integers(len(sequence) - stride * (self.num_frames - 1)))
        chosen = [start + stride * step for step in range(self.num_frames)]
        if rng.random() < 0.5:
            chosen.reverse()
        labels = [sequence.label_map(index) for index in chosen]
        ids = np.unique(labels[0])
        ids = ids[ids > 0]
        if not len(ids):
            return None
        crop = crop_around(rng, (labels[0] == rng.choice(ids)).astype(np.uint8))
        mirrored, shake = rng.random() < 0.5, float(rng.random() < 0.5)
        frames, shown = [], []
        for index, label in zip(chosen, labels, strict=True):
            matrix = shaken(rng, self.side, shake, mirrored)
            image = self._image(sequence.images[index])
            frames.append(view(image, crop, matrix, self.side))
            shown.append(view(label.astype(np.uint8), crop, matrix, self.side, labels=True))
        masks = chosen_objects(rng, np.stack(shown), self.most_objects)
        return None if masks is None else Clip(vary_colour(rng, np.stack(frames)), masks, "davis")

    def _image(self, path: Path) -> ImageArray:
        """A frame (H, W, 3), kept for a while: decoding is what clips wait for."""
        if path in self._kept:
            self._kept.move_to_end(path)
        else:
            self._kept[path] = read_image(path)
            if len(self._kept) > KEPT_FRAMES:
                self._kept.popitem(last=False)
        return self._kept[path]
