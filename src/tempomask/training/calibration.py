"""Calibration data for adaptation: some annotated sequences, followed and scored many times."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from tempomask.data.sequences import MaskSequence
from tempomask.errors import InputError
from tempomask.metrics.region_boundary import region_and_boundary
from tempomask.models.encoder import Policy, RoutedNetwork
from tempomask.ops.modes import evaluation_mode
from tempomask.ops.normalise import normalise
from tempomask.training.objectives import Objective, TrackingObjective
from tempomask.training.validation import SquareVideo, load_square


class SequenceMeasure:
    """Scores networks on whole sequences (`adaptation.method.Measure`), read once and kept small.

    sequences: or what was read of some, by name. image_size: of the network; both frames and masks
    are scored at it. frames, stride: of every
    sequence the first `frames` at every `stride`-th. All objects of a sequence count as one.
    objective: says how objects are followed; None for tracking.
    Raises InputError for sequences without a mask on their first frame.
    """

    def __init__(
        self,
        sequences: Sequence[MaskSequence] | Mapping[str, SquareVideo],
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
        if not isinstance(sequences, Mapping):
            indices = range(0, frames * stride, stride)
            sequences = {s.name: load_square(s, image_size, indices) for s in sequences}
        self._names, self._loaded = list(sequences), list(sequences.values())
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
