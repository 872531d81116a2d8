"""Training clips from any folder in the DAVIS layout; see `clips.SeededClips`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from tempomask.data.clips import Clip, SeededClips
from tempomask.data.motion import ImageArray
from tempomask.data.sequences import MaskSequence
from tempomask.data.synthetic import LabelledVideo
from tempomask.errors import InputError
from tempomask.io.images import read_image


class DavisClips(SeededClips):
    """Clips of the sequences of a `data.davis.Davis`."""

    def __init__(
        self,
        sequences: Sequence[MaskSequence],
        image_size: int,
        num_frames: int = 4,
        seed: int = 1,
        most_objects: int = 1,
    ) -> None:
        """Same as `SeededClips`; InputError if no sequence has num_frames frames."""
        super().__init__(image_size, num_frames, seed, most_objects)
        self.sequences = [sequence for sequence in sequences if len(sequence) >= num_frames]
        if not self.sequences:
            raise InputError(
                f"no sequence has the {num_frames} frames of a clip; give longer ones, or set"
                " shorter clips"
            )

    def __getitem__(self, index: int) -> Clip:
        folder = self.sequences[0].annotations[0].parent.parent
        remedy = f"are there masks in {folder}?"
        return self._first_fit(index, self._draw, "davis", remedy)

    def _draw(self, rng: np.random.Generator) -> LabelledVideo | None:
        sequence = self.sequences[rng.integers(len(self.sequences))]
        return self._filmed(rng, sequence, _kept_image, _ids)


def _ids(sequence: MaskSequence, index: int) -> ImageArray:
    return sequence.label_map(index).astype(np.uint8)


# Decoding is what clips wait for; so many frames are about 0.7 GB of 480p video.
@lru_cache(maxsize=512)
def _kept_image(path: Path) -> ImageArray:
    return read_image(path)
