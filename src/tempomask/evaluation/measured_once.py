"""What methods measure on the untrained network, measured once for all points of a comparison.

A single adaptation keeps its scores so too, for a run that is stopped while it measures.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tempomask.adaptation.adapter_file import base_sample
from tempomask.adaptation.method import Measure, Method, Prepared, WrappedMethod
from tempomask.files import make_folder, read_json, write_json
from tempomask.models.encoder import Policy, RoutedNetwork
from tempomask.routing.static import StaticPlan


class MeasuredOnce(WrappedMethod):
    """A method that shares what is measured on the untrained network with all others.

    Scores are kept in a file by weights, data and the blocks that ran, one after the other, so that
    a stopped measurement goes on too.
    """

    def __init__(self, method: Method, path: Path) -> None:
        super().__init__(method)
        self.path = path

    def prepare(
        self, network: RoutedNetwork, measure: Measure, state: Mapping[str, Any] | None = None
    ) -> Prepared:
        """Prepare with scores from the file; afterwards, with training, everything is measured."""
        kept = KeptScores(measure, self.path)
        try:
            return self.method.prepare(network, kept, state)
        finally:
            kept.trained = True


class KeptScores:
    """A measure that remembers the scores of static plans until the network is trained."""

    def __init__(self, measure: Measure, path: Path) -> None:
        self._measure, self._path, self.trained = measure, path, False
        # Processes that train together measure alike; one of them writes.
        self._writes = os.environ.get("RANK", "0") == "0"

    def score(self, network: RoutedNetwork, policy: Policy | None = None) -> float:
        """See `adaptation.method.Measure`."""
        if self.trained or not (policy is None or isinstance(policy, StaticPlan)):
            return self._measure.score(network, policy)
        keep = [True] * network.encoder.num_blocks if policy is None else policy.keep
        key = "".join("1" if kept else "0" for kept in keep)
        shape = {str: {str: float}}
        kept = read_json(self._path, "scores", shape) if self._path.exists() else {}
        # Of which weights and data a score is.
        origin = base_sample(network).numpy().tobytes() + self.fingerprint.encode()
        scores = kept.setdefault(hashlib.sha256(origin).hexdigest()[:16], {})
        if key not in scores:
            scores[key] = self._measure.score(network, policy)
            if self._writes:
                make_folder(self._path.parent)
                write_json(self._path, kept)
        return scores[key]

    @property
    def fingerprint(self) -> str:
        """See `adaptation.method.Measure`."""
        return self._measure.fingerprint

    def images(self, count: int) -> torch.Tensor:
        """See `adaptation.method.Measure`."""
        return self._measure.images(count)
