"""Calibration data for adaptation: some annotated sequences, followed and scored many times."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from tempomask.data.sequences import MaskSequence
from tempomask.errors import InputError
from tempomask.metrics.region_boundary import region_and_boundary
from tempomask.models.encoder import Policy, RoutedNetwork
from tempomask.ops.modes import evaluation_mode
from tempomask.ops.normalise import normalise
from tempomask.tracking.frames import resize_frame
from tempomask.training.objectives import Objective, TrackingObjective


class SquareVideo(NamedTuple):
    """Frames of a sequence, squeezed to squares, and the masks of all its objects as one.

    frames (T, S, S, 3) uint8; masks bool (T, S, S).
    """

    frames: Tensor
    masks: Tensor


class SequenceMeasure:
    """Scores networks on whole sequences (`adaptation.method.Measure`), read once and kept small.

    image_size: of the network; both frames and masks are scored at it. frames, stride: of every
    sequence the first `frames` at every `stride`-th. All objects of a sequence count as one.
    objective: says how objects are followed; None for tracking.
    Raises InputError for sequences without a mask on their first frame.
    """

    def __init__(
        self,
        sequences: Sequence[MaskSequence],
        image_size: int,
        device: torch.device,
        frames: int = 16,
        stride: int = 3,
        dtype: torch.dtype = torch.float32,
        objective: Objective | None = None,
    ) -> None:
        if not sequences:
            raise InputError("there is no sequence to measure on; hold out fewer sequences")
        self._device, self._dtype = device, dtype
        self._objective = TrackingObjective() if objective is None else objective
        self._names = [sequence.name for sequence in sequences]
        indices = range(0, frames * stride, stride)
        self._loaded = [load_square(sequence, image_size, indices) for sequence in sequences]
        digest = hashlib.sha256(f"{self._names} {dtype} {self._objective}".encode())
        for loaded in self._loaded:
            digest.update(loaded.frames.numpy().tobytes() + loaded.masks.numpy().tobytes())
        # See `adaptation.method.Measure`; of frames and masks as they are scored.
        self.fingerprint = digest.hexdigest()

    @torch.no_grad()
    def score(self, network: RoutedNetwork, policy: Policy | None = None) -> float:
        """Mean J&F in [0, 1] over the sequences."""
        return float(np.mean(list(self.scores(network, policy).values())))

    @torch.no_grad()
    def scores(self, network: RoutedNetwork, policy: Policy | None = None) -> dict[str, float]:
        """Mean J&F of each sequence, first mask given, over the frames after it."""
        modules = [m for m in (network, policy) if isinstance(m, nn.Module)]
        with evaluation_mode(*modules):
            rows = [self._score(network, policy, loaded) for loaded in self._loaded]
        return dict(zip(self._names, rows, strict=True))

    def _score(self, network: RoutedNetwork, policy: Policy | None, loaded: SquareVideo) -> float:
        frames = loaded.frames.to(self._device)
        first = loaded.masks[0].float().to(self._device)
        found = self._objective.follow(network, frames, first, policy, self._dtype).cpu().numpy()
        return float(np.mean(region_and_boundary(found, loaded.masks[1:].numpy())))

    def images(self, count: int) -> Tensor:
        """See `adaptation.method.Measure`; taken from all sequences in turn."""
        deepest = max(len(loaded.frames) for loaded in self._loaded)
        chosen = [
            loaded.frames[index]
            for index in range(deepest)
            for loaded in self._loaded
            if index < len(loaded.frames)
        ]
        return normalise(torch.stack(chosen[:count]).to(self._device))


def load_square(sequence: MaskSequence, side: int, indices: range) -> SquareVideo:
    """The frames and masks of the indices that there are, at least two, squeezed to a square."""
    if len(sequence) < 2:
        raise InputError(f"sequence {sequence.name} has {len(sequence)} frames; it needs two")
    wanted = [i for i in indices if i < len(sequence)]
    wanted = wanted if len(wanted) > 1 else [0, len(sequence) - 1]
    frames, masks = [], []
    for index, image in enumerate(sequence.frames()):
        if index > wanted[-1]:
            break
        if index in wanted:
            frames.append(resize_frame(image, side, "bicubic"))
            masks.append(_square(sequence.label_map(index) > 0, side))
    if not masks[0].any():
        raise InputError(
            f"sequence {sequence.name}: the first annotation is empty; an object must be marked"
        )
    return SquareVideo(torch.from_numpy(np.stack(frames)), torch.from_numpy(np.stack(masks)))


def _square(mask: np.ndarray, side: int) -> np.ndarray:
    """The nearest pixels of a mask (H, W) at (S, S)."""
    rows = ((np.arange(side) + 0.5) * mask.shape[0] / side).astype(int)
    columns = ((np.arange(side) + 0.5) * mask.shape[1] / side).astype(int)
    return mask[rows[:, None], columns]
