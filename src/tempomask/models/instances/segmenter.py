"""The assembly for video: Mask2Former finds instances, a tracker puts them in the tracks' order.

B videos side by side, Q queries and tracks, C hidden_dim, M decoder layers, K classes.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from tempomask.models.instances.config import InstanceConfig
from tempomask.models.instances.ctvis import MemoryState, MemoryTracker, Presence
from tempomask.models.instances.dvis import ReferringState, ReferringTracker
from tempomask.models.instances.mask2former import Mask2Former
from tempomask.models.instances.minvis import MatchedState, MinVISTracker
from tempomask.models.instances.query_decoder import Predictions, QueryRouter
from tempomask.models.instances.refiner import TemporalRefiner


class CarriedState(NamedTuple):
    """What a frame leaves to the next one of the same video.

    queries: (B, Q, C), the decoder's final queries, as routers see them. tracker: the tracker's.
    """

    queries: Tensor
    tracker: MatchedState | ReferringState | MemoryState


class TrackedFrame(NamedTuple):
    """Predictions by track, and ran (B, M): 1 where a decoder layer ran.

    presence: which tracks are on the frame, and which begin; None where all are, from the first on.
    """

    predictions: Predictions
    ran: Tensor
    presence: Presence | None = None


class Collected(NamedTuple):
    """What a refiner needs of a frame.

    tracks, queries (B, Q, D): see `ReferringTracker.for_refiner`. mask_features (B, C, h, w).
    online: the tracker's predictions. ran: as in `TrackedFrame`.
    """

    tracks: Tensor
    queries: Tensor
    mask_features: Tensor
    online: Predictions
    ran: Tensor


class InstanceSegmenter(nn.Module):
    """Frames in, instances by track out. What a video carries goes in and out: it keeps nothing."""

    def __init__(self, config: InstanceConfig) -> None:
        super().__init__()
        self.config = config
        self.network = Mask2Former(config)
        self.tracker: MinVISTracker | ReferringTracker | MemoryTracker = MinVISTracker()
        if config.referring_tracker is not None:
            self.tracker = ReferringTracker(config, config.referring_tracker)
        elif config.memory_tracker is not None:
            self.tracker = MemoryTracker(config, config.memory_tracker)

        self.refiner: TemporalRefiner | None = None
        if config.refiner is not None and config.referring_tracker is not None:
            width = config.referring_tracker.width(config.hidden_dim)
            self.refiner = TemporalRefiner(config, config.refiner, width)

    def collect(
        self, image: Tensor, state: CarriedState | None, router: QueryRouter | None = None
    ) -> tuple[Collected, CarriedState]:
        """`step`, for a refiner that answers later."""
        assert isinstance(self.tracker, ReferringTracker)
        features = self.network.encode(image)
        previous = None if state is None else state.queries
        decoded = self.network.decode(features, router, previous)
        carried = None if state is None else state.tracker
        assert carried is None or isinstance(carried, ReferringState)
        referred, tracker = self.tracker.refer(decoded, carried)
        masks = self.tracker.mask_projection(features.mask_features)
        online = self.tracker.predict(referred.outputs[-1], referred.reference, masks)
        tracks, queries = self.tracker.for_refiner(decoded, referred)
        found = Collected(tracks, queries, features.mask_features, online, decoded.ran)
        return found, CarriedState(decoded.queries, tracker)

    def step(
        self, image: Tensor, state: CarriedState | None, router: QueryRouter | None = None
    ) -> tuple[TrackedFrame, CarriedState]:
        """Segment an image (B, 3, H, W), normalised, sides multiples of 32; None: a new video."""
        features = self.network.encode(image)
        previous = None if state is None else state.queries
        decoded = self.network.decode(features, router, previous)
        predictions, tracker = self.tracker.step(
            decoded,
            features,
            None if state is None else state.tracker,  # type: ignore[arg-type]
        )
        presence = self.tracker.presence(tracker)  # type: ignore[arg-type]
        frame = TrackedFrame(predictions, decoded.ran, presence)
        return frame, CarriedState(decoded.queries, tracker)
