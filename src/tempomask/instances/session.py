"""Instance segmentation of one video or stream, frame by frame, with bounded memory.

H x W the video's size, Q queries and tracks, K classes, M decoder layers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from tempomask.frames import Size
from tempomask.instances.options import InstanceOptions
from tempomask.models.instances.config import SIZE_MULTIPLE, InstanceConfig
from tempomask.models.instances.ctvis import MemoryState, Presence
from tempomask.models.instances.dvis import ReferringState
from tempomask.models.instances.minvis import MatchedState
from tempomask.models.instances.query_decoder import QueryRouter
from tempomask.models.instances.segmenter import CarriedState, InstanceSegmenter, TrackedFrame
from tempomask.ops.normalise import normalise
from tempomask.ops.resumable import Resumable, agree, agree_shape
from tempomask.results import InstanceResult, InstanceSummary, InstanceTrack
from tempomask.tracking.base import VideoSession, in_turn


class InstanceSession(VideoSession):
    """Follows the instances of one video: `step` frame after frame, then `summary`.

    Args:
        segmenter: The network; it keeps nothing of a video, so that several sessions can share it.
        router: Which decoder layers run; None for all. It keeps nothing either.
        options: Which tracks are shown.
        start: Index of the first frame.
        dtype: Of the computation, by autocast.
    """

    state_types: ClassVar = {
        **VideoSession.state_types,
        "_carried": CarriedState | None,
        "_tracks": Resumable,
        "_layers_run": int,
    }

    def __init__(
        self,
        segmenter: InstanceSegmenter,
        router: QueryRouter | None = None,
        options: InstanceOptions | None = None,
        *,
        start: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(start=start, dtype=dtype)
        self.segmenter, self.router = segmenter, router
        self.options = options or InstanceOptions()
        self.reset()

    def check_state(self) -> None:
        super().check_state()
        agree(min(self._tracks.frames, self._layers_run) >= 0, "the number of frames")
        agree(self._carried is None or self._tracks.frames > 0, "what the last frame left")
        if self._carried is not None:
            queries, tracker = self._carried
            count, hidden = self.config.query_decoder.num_queries, self.config.hidden_dim
            agree_shape("the queries", queries, 1, count, hidden)
            _agree_tracks(tracker, self.config)

    @property
    def config(self) -> InstanceConfig:
        return self.segmenter.config

    @property
    def made_for(self) -> str:
        return f"{self.config}, {self.options}"

    @property
    def device(self) -> torch.device:
        return self.segmenter.network.query_decoder.query_features.device

    @in_turn
    def reset(self) -> None:
        """Forget the video: tracks, carried queries, frame numbers and the frame size."""
        super().reset()
        self._carried: CarriedState | None = None
        self._tracks = TrackTable(self.config, self.options.score_frames, self.start)
        self._layers_run = 0

    @in_turn
    def step(self, frame: NDArray[np.uint8]) -> InstanceResult:
        """Take in the next frame (H, W, 3), uint8 RGB, and give the instances on it.

        Raises:
            InputError: For another kind of array, or another size than that of the frames before.
        """
        image = self._seen(frame)
        with self._computing(self.device):
            tracked, self._carried = self.segmenter.step(image, self._carried, self.router)
            result = self._answer(tracked)
        self._index = self.next_index
        return result

    def follow(self, frames: Iterable[NDArray[np.uint8]]) -> Iterator[InstanceResult]:
        """The result of each frame, in turn."""
        return map(self.step, frames)

    def _seen(self, frame: NDArray[np.uint8]) -> Tensor:
        """The frame as the network sees it, once it is checked."""
        frame = self._checked(frame)
        self._size = frame.shape[0], frame.shape[1]
        return network_image(frame, network_size(self._size, self.config), self.device)

    def _answer(self, tracked: TrackedFrame) -> InstanceResult:
        """The instances of a frame."""
        assert self._size is not None
        inner = network_size(self._size, self.config)
        logits, masks = (x[0].float() for x in tracked.predictions)
        self._tracks.add(logits.cpu().numpy(), _on_host(tracked.presence))
        shown = self._shown(masks)
        chosen = masks[torch.from_numpy(shown).to(masks.device)]
        pixels = upsampled(chosen, inner, self._size) > 0
        return self._result(shown, pixels.cpu().numpy(), tracked.ran[0].bool().cpu().numpy())

    @in_turn
    def summary(self) -> InstanceSummary:
        """The tracks so far; the session can go on after it."""
        frames = self._tracks.frames
        return InstanceSummary(
            num_frames=frames,
            size=self.size,
            classes=self.config.classes,
            tracks=self._tracks.shown_tracks(),
            layers_run=self._layers_run / max(1, frames),
        )

    def _shown(self, masks: Tensor) -> NDArray[np.int64]:
        """The slots that this frame shows, best first; masks (Q, h, w) are logits."""
        table, options = self._tracks, self.options
        wanted = ((table.scores >= options.min_score) & table.present).nonzero()[0].tolist()
        # Tracks that were shown before first, then by score.
        order = sorted(wanted, key=lambda slot: (slot not in table.ids, -table.scores[slot]))
        if options.max_overlap == 1:
            return np.array(order, dtype=np.int64)
        # In NumPy, as autocast would round the counts of a product to eight bits.
        areas = (masks[order] > 0).flatten(1).cpu().numpy().astype(np.float32)
        overlaps = areas @ areas.T
        sizes = overlaps.diagonal()
        iou = overlaps / np.maximum(sizes[:, None] + sizes[None] - overlaps, 1)
        places: list[int] = []
        for place, slot in enumerate(order):
            rivals = [other for other in places if table.labels[order[other]] == table.labels[slot]]
            if not (iou[place, rivals] > options.max_overlap).any():
                places.append(place)
        return np.array([order[place] for place in places], dtype=np.int64)

    def _result(
        self, shown: NDArray[np.int64], masks: NDArray[np.bool_], layers: NDArray[np.bool_]
    ) -> InstanceResult:
        assert self._size is not None
        areas = masks.sum(axis=(1, 2))
        if self.options.min_score > 0:
            shown, masks, areas = shown[areas > 0], masks[areas > 0], areas[areas > 0]
        ids = self._tracks.show(shown, areas)
        order = np.argsort(ids)
        shown = shown[order]
        self._layers_run += int(layers.sum())
        return InstanceResult(
            index=self._tracks.index,
            size=self._size,
            track_ids=ids[order],
            labels=self._tracks.labels[shown],
            scores=self._tracks.scores[shown],
            masks=masks[order],
            layers=layers,
            classes=self.config.classes,
        )


Presences = tuple[NDArray[np.bool_], NDArray[np.bool_]]


def _on_host(presence: Presence | None) -> Presences | None:
    if presence is None:
        return None
    return presence.present[0].cpu().numpy(), presence.born[0].cpu().numpy()


def _agree_tracks(
    tracker: MatchedState | ReferringState | MemoryState, config: InstanceConfig
) -> None:
    """ValueError unless what was read of the tracks is of this network's tracker."""
    kinds = {"minvis": MatchedState, "dvis": ReferringState, "ctvis": MemoryState}
    agree(isinstance(tracker, kinds[config.tracker]), "the tracker")
    hidden, rules = config.hidden_dim, config.memory_tracker
    if isinstance(tracker, MemoryState) and rules is not None:
        agree_shape("the tracks", tracker.fused, 1, rules.slots, hidden)
        agree_shape("the tracks", tracker.kept, 1, rules.slots, rules.kept, hidden)
        for numbers in (tracker.seen, tracker.age):
            whole = numbers.dtype == torch.long and numbers.shape == (1, rules.slots)
            agree(whole and bool((numbers >= 0).all()), "the tracks")
        return
    width = hidden if config.referring_tracker is None else config.referring_tracker.width(hidden)
    for tensor in tracker:
        agree_shape("the tracks", tensor, 1, config.query_decoder.num_queries, width)


class TrackTable(Resumable):
    """Class logits and appearances of each track (slot), summed up: the size does not grow.

    frames: so far. scores (Q,), labels (Q,): best class by the mean logits of the last frames that
    it was on. present (Q,): it is on the last one. ids: track id by slot, of slots that were shown.
    """

    state_types: ClassVar = {
        **dict.fromkeys(("start", "frames"), int),
        "ids": dict[int, int],
        "finished": list[InstanceTrack],
        "present": NDArray[np.bool_],
        "_recent": deque[NDArray[np.float32]],
        **dict.fromkeys(("_total", "_shown_total", "_area"), NDArray[np.float64]),
        **dict.fromkeys(("_seen", "_shown", "_first", "_last", "labels"), NDArray[np.int64]),
        "scores": NDArray[np.float32],
    }

    def __init__(self, config: InstanceConfig, score_frames: int, start: int) -> None:
        rules, width = config.memory_tracker, config.num_classes + 1
        queries = config.query_decoder.num_queries if rules is None else rules.slots
        self.start, self.frames = start, 0
        self.ids: dict[int, int] = {}
        # Those whose slot was given to another track.
        self.finished: list[InstanceTrack] = []
        self.present = np.ones(queries, dtype=bool)
        self.scores = np.zeros(queries, dtype=np.float32)
        self.labels = np.zeros(queries, dtype=np.int64)
        self._recent: deque[NDArray[np.float32]] = deque(maxlen=score_frames)
        self._total = np.zeros((queries, width))
        self._seen = np.zeros(queries, dtype=np.int64)
        self._shown_total = np.zeros((queries, width))
        self._shown = np.zeros(queries, dtype=np.int64)
        self._area = np.zeros(queries)
        self._first = np.zeros(queries, dtype=np.int64)
        self._last = np.zeros(queries, dtype=np.int64)

    def check_state(self) -> None:
        queries, width = self._total.shape
        agree(all(x.shape == (queries, width) for x in self._recent), "the logits")
        agree(all(0 <= label < width - 1 for label in self.labels), "a class")
        known = all(0 <= slot < queries and self._shown[slot] > 0 for slot in self.ids)
        given = sorted([*self.ids.values(), *(track.track_id for track in self.finished)])
        agree(known and given == list(range(1, len(given) + 1)), "the ids")

    @property
    def index(self) -> int:
        """Of the last frame."""
        return self.start + self.frames - 1

    def add(self, logits: NDArray[np.float32], presence: Presences | None = None) -> None:
        """Take in the class logits (Q, K + 1) of the next frame, by track, and who is on it."""
        if presence is not None:
            self.present, born = presence
            for slot in born.nonzero()[0].tolist():
                self._begin(slot)
            # Of those that are not there nothing is known.
            logits = np.where(self.present[:, None], logits, np.nan)
        self.frames += 1
        self._seen += self.present
        self._total += np.nan_to_num(logits)
        self._recent.append(logits)
        recent = np.array(self._recent)
        known = np.maximum(1, (~np.isnan(recent[..., 0])).sum(0))[:, None]
        probabilities = class_probabilities(np.nansum(recent, axis=0) / known)
        self.labels = probabilities.argmax(1)
        self.scores = probabilities.max(1).astype(np.float32)

    def _begin(self, slot: int) -> None:
        """Another track than before is in this slot from now on."""
        if slot in self.ids:
            self.finished.append(self._track(slot, self.ids.pop(slot)))
        for sums in (self._total, self._shown_total, self._shown, self._seen, self._area):
            sums[slot] = 0
        for logits in self._recent:
            logits[slot] = np.nan

    def show(self, slots: NDArray[np.int64], areas: NDArray[np.int64]) -> NDArray[np.int64]:
        """Note that the last frame shows these slots with these areas; gives their ids."""
        for slot in slots.tolist():
            if slot not in self.ids:
                self.ids[slot] = len(self.ids) + len(self.finished) + 1
                self._first[slot] = self.index
        self._last[slots] = self.index
        self._shown[slots] += 1
        self._area[slots] += areas
        self._shown_total[slots] += self._recent[-1][slots]
        return np.array([self.ids[slot] for slot in slots.tolist()], dtype=np.int64)

    def shown_tracks(self) -> tuple[InstanceTrack, ...]:
        """Every track that was shown, by id."""
        shown = [self._track(slot, track_id) for slot, track_id in self.ids.items()]
        return tuple(sorted([*self.finished, *shown], key=lambda track: track.track_id))

    def _track(self, slot: int, track_id: int) -> InstanceTrack:
        shown = int(self._shown[slot])
        scores = class_probabilities(self._shown_total[slot : slot + 1] / shown)[0]
        return InstanceTrack(
            track_id=track_id,
            label=int(scores.argmax()),
            score=float(scores.max()),
            first_frame=int(self._first[slot]),
            last_frame=int(self._last[slot]),
            num_frames=shown,
            mean_area=float(self._area[slot] / shown),
            class_scores=class_probabilities(
                self._total[slot : slot + 1] / max(1, self._seen[slot])
            )[0].astype(np.float32),
        )


def class_probabilities(logits: NDArray[np.floating]) -> NDArray[np.floating]:
    """Softmax of (Q, K + 1) logits, without the no-object column: (Q, K)."""
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (exponents / exponents.sum(axis=1, keepdims=True))[:, :-1]


def network_size(size: Size, config: InstanceConfig) -> Size:
    """(h, w) of an image (H, W) as the network sees it, before padding: the aspect is kept."""
    scale = config.short_side / min(size)
    scale = min(scale, config.long_side / max(size))
    height, width = (max(1, int(side * scale + 0.5)) for side in size)
    return height, width


def network_image(frame: NDArray[np.uint8], size: Size, device: torch.device) -> Tensor:
    """(1, 3, h', w'): the frame resized to (h, w), normalised, zeros below and right of it."""
    from PIL import Image

    height, width = size
    if frame.shape[:2] != size:
        resized = Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR)
        frame = np.asarray(resized)
    image = normalise(torch.from_numpy(np.array(frame)).to(device)[None])
    return F.pad(image, (0, -width % SIZE_MULTIPLE, 0, -height % SIZE_MULTIPLE))


def upsampled(logits: Tensor, inner: Size, size: Size) -> Tensor:
    """Mask logits (N, h'/4, w'/4) to (N, H, W): to the padded image, cut to inner, resized."""
    if not len(logits):
        return logits.new_zeros((0, *size))
    height, width = inner
    padded = (height + -height % SIZE_MULTIPLE, width + -width % SIZE_MULTIPLE)
    full = F.interpolate(logits[None], padded, mode="bilinear")[:, :, :height, :width]
    return F.interpolate(full, size, mode="bilinear")[0]
