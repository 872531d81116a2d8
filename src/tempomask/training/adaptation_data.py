"""What adaptation trains on, measures on and is validated on, from one folder.

The folder is either in the DAVIS layout, or the one that nano was trained on (`data/stills.py`),
of which its whole mixture of clips is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from tempomask.data.davis import Davis
from tempomask.data.footage import training_davis
from tempomask.data.sequences import MaskSequence
from tempomask.errors import InputError

# The part of nano's training data that is video.
MIXTURE_VIDEO = "davis16-train-256"
# Without names one sequence in so many is held out, at most four.
HELD_OUT_SHARE, MOST_HELD_OUT = 8, 4


@dataclass(frozen=True)
class AdaptationData:
    """clips: endless, of the sequences trained on. measured: some of these, for importances.

    training: names of all of these. held_out: sequences for validation, which no clip shows.
    """

    clips: Dataset[Any]
    training: tuple[str, ...]
    measured: tuple[MaskSequence, ...]
    held_out: tuple[MaskSequence, ...]


def adaptation_data(
    root: Path,
    image_size: int,
    num_frames: int,
    seed: int,
    held_out: Sequence[str] | None = None,
    measured: int = 6,
    most_objects: int = 1,
) -> AdaptationData:
    """Read a folder. held_out: names; None holds out a few, evenly spread, and () none.

    most_objects: of a clip. Raises InputError for a folder in neither layout, for sequences without
    masks, for masks that do not pair with frames (naming them), and for too few sequences.
    """
    from tempomask.data.davis_clips import DavisClips

    every = list(training_sequences(root))
    if held_out is None:
        held_out = [s.name for s in spread(every, min(MOST_HELD_OUT, len(every) // HELD_OUT_SHARE))]
    known = {sequence.name for sequence in every}
    for name in held_out:
        if name not in known:
            raise InputError(f"there is no sequence {name!r} to hold out among those to train on")
    training = [sequence for sequence in every if sequence.name not in held_out]
    if not training:
        raise InputError("every sequence is held out; nothing is left to train on")
    if _is_mixture(root):
        from tempomask.data.clips import ClipMixture

        clips: Dataset[Any] = ClipMixture(
            root, image_size, num_frames, seed, held_out, most_objects=most_objects
        )
    else:
        clips = DavisClips(training, image_size, num_frames, seed, most_objects=most_objects)
    return AdaptationData(
        clips,
        tuple(sequence.name for sequence in training),
        tuple(spread(training, min(measured, len(training)))),
        tuple(sequence for sequence in every if sequence.name in held_out),
    )


def training_sequences(root: Path) -> Davis:
    """The training list of a DAVIS folder, or all its sequences where it has no lists.

    Of nano's training data all its video. InputError for a folder in neither layout, and for a
    flawed sequence: a training should not leave any out unasked.
    """
    found = Davis(root / MIXTURE_VIDEO, "all") if _is_mixture(root) else training_davis(root)
    found.flaws.check(())
    return found


def _is_mixture(root: Path) -> bool:
    return (root / MIXTURE_VIDEO).is_dir()


def spread(sequences: Sequence[MaskSequence], count: int) -> list[MaskSequence]:
    """`count` of them, evenly spaced."""
    return [sequences[(2 * i + 1) * len(sequences) // (2 * count)] for i in range(count)]
