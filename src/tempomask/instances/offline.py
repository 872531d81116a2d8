"""Offline video instance segmentation: the whole video is seen first, then every frame is answered.

What has to be kept of a frame is small but for its mask features, which lie in a temporary file.

Q queries and tracks, D tracker width, C hidden_dim, K classes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tempomask.errors import InputError
from tempomask.instances.options import InstanceOptions
from tempomask.instances.session import InstanceSession, class_probabilities
from tempomask.models.instances.query_decoder import Predictions, QueryRouter
from tempomask.models.instances.segmenter import InstanceSegmenter, TrackedFrame
from tempomask.results import InstanceResult, InstanceSummary
from tempomask.tracking.base import in_turn


class OfflineSession(InstanceSession):
    """`take` every frame of a video, then read `results`, then `summary`; see `InstanceSession`."""

    def __init__(
        self,
        segmenter: InstanceSegmenter,
        router: QueryRouter | None = None,
        options: InstanceOptions | None = None,
        *,
        start: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if segmenter.refiner is None:
            raise InputError(f"{segmenter.config.name} has no refiner; open a session of it")
        self.refiner = segmenter.refiner
        super().__init__(segmenter, router, options, start=start, dtype=dtype)

    @in_turn
    def reset(self) -> None:
        """Forget the video."""
        super().reset()
        self._kept: list[tuple[Tensor, Tensor, Tensor]] = []
        # Closed with the session.
        self._features = tempfile.TemporaryFile(prefix="tempomask-")  # noqa: SIM115
        self._shape: tuple[int, ...] = ()
        self._online = np.zeros(0)

    def state(self) -> NoReturn:
        """InputError: half a video has no results to go on from."""
        raise InputError(f"{self.config.name} needs the whole video; it cannot go on halfway")

    def step(self, frame: NDArray[np.uint8]) -> NoReturn:
        """InputError: nothing is known before the last frame."""
        raise InputError(f"{self.config.name} answers after the last frame; take all, then results")

    @in_turn
    def take(self, frame: NDArray[np.uint8]) -> None:
        """Take in the next frame; as `InstanceSession.step`, without an answer."""
        image = self._seen(frame)
        with self._computing(self.device):
            found, self._carried = self.segmenter.collect(image, self._carried, self.router)
        logits = found.online.class_logits[0].float().cpu().numpy()
        self._online = logits if not self._kept else self._online + logits
        self._kept.append((found.tracks[0], found.queries[0], found.ran[0]))
        features = found.mask_features[0]
        self._shape = tuple(features.shape)
        self._features.write(features.to(torch.float16).cpu().contiguous().numpy().tobytes())
        self._index = self.next_index

    def results(self) -> Iterator[InstanceResult]:
        """The answers, frame by frame."""
        if not self._kept:
            return
        with self._computing(self.device):
            tracks, queries, ran = (torch.stack(x)[None] for x in zip(*self._kept, strict=True))
            refined = self.refiner(tracks, queries)
            classes = self.refiner.classes(refined)
        self._features.seek(0)
        for index in range(len(self._kept)):
            with self._computing(self.device):
                masks = self.refiner.masks(refined[:, index], self._next_features()[None])
                tracked = TrackedFrame(Predictions(classes, masks), ran[:, index])
                yield self._answer(tracked)

    def follow(self, frames: Iterable[NDArray[np.uint8]]) -> Iterator[InstanceResult]:
        """Take all frames, then give their results."""
        for frame in frames:
            self.take(frame)
        yield from self.results()

    def summary(self) -> InstanceSummary:
        """The tracks; of each class the better score, the refiner's or the tracker's average."""
        summary, slots = super().summary(), {v: k for k, v in self._tracks.ids.items()}
        online = class_probabilities(self._online / max(1, len(self._kept)))
        tracks = tuple(
            replace(
                track,
                class_scores=np.maximum(
                    track.class_scores, online[slots[track.track_id]].astype(np.float32)
                ),
            )
            for track in summary.tracks
        )
        return replace(summary, tracks=tracks)

    def _next_features(self) -> Tensor:
        count = 2 * int(np.prod(self._shape))
        values = np.frombuffer(self._features.read(count), dtype=np.float16)
        return torch.from_numpy(values.astype(np.float32).reshape(self._shape)).to(self.device)
