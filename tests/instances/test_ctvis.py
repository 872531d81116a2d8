"""CTVIS's tracker against its rules written out with lists, and a session's tracks with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tempomask.instances.options import PROTOCOL
from tempomask.instances.session import InstanceSession
from tempomask.models.instances.config import InstanceConfig, MemoryTrackerConfig
from tempomask.models.instances.ctvis import MemoryState, MemoryTracker
from tempomask.models.instances.query_decoder import Decoded, Predictions
from tempomask.models.instances.segmenter import (
    CarriedState,
    InstanceSegmenter,
    TrackedFrame,
)

MakeConfig = Callable[..., InstanceConfig]
QUERIES, CLASSES, DIM = 8, 3, 6


class Naive:
    """Tracks by number, as the release keeps them: nothing is shared, nothing is in slots."""

    def __init__(self, rules: MemoryTrackerConfig) -> None:
        self.rules, self.frame, self.count = rules, -1, 0
        self.tracks: dict[int, dict] = {}

    def step(self, logits: Tensor, masks: Tensor, embeddings: Tensor) -> dict[int, int]:
        """The query of each track on this frame."""
        self.frame += 1
        scores = logits.softmax(-1)[:, :-1].max(1).values
        order = sorted(range(len(scores)), key=lambda q: -float(scores[q]))
        chosen = [q for q in order if scores[q] > self.rules.least_score] or order[:1]
        free: list[int] = []
        for q in chosen:
            ious = [self.iou(masks[q], masks[other]) for other in free]
            if not any(iou > self.rules.max_overlap for iou in ious):
                free.append(q)
        ids: dict[int, int] = {}
        known = list(self.tracks)
        if known:
            bank = torch.stack([self.tracks[i]["fused"] for i in known])
            likeness = embeddings[free] @ bank.T
            match = (likeness.softmax(1) + likeness.softmax(0)) / 2
            for row, q in enumerate(free):
                values = [float(x) for x in match[row]]
                good = [c for c, x in enumerate(values) if x > self.rules.least_match]
                if len(good) > 1:
                    frames = [len(self.tracks[i]["all"]) for i in known]
                    mean = sum(frames[c] for c in good) / len(good)
                    values = [x * (frames[c] if c in good else mean) for c, x in enumerate(values)]
                best = max(range(len(values)), key=lambda c: values[c])
                if values[best] > self.rules.least_match:
                    ids[known[best]] = q
                    match[:row, best] = 0
                    match[row + 1 :, best] = 0
        for q in free:
            if q not in ids.values() and scores[q] > self.rules.least_score:
                ids[self.count] = q
                self.tracks[self.count] = {"all": [], "kept": []}
                self.count += 1
        for number, q in ids.items():
            track, new = self.tracks[number], embeddings[q]
            if not track["all"]:
                track["fused"] = new
            else:
                like = [float(F.cosine_similarity(x, new, dim=0)) for x in track["kept"]]
                share = max(0.0, sum(like) / len(like))
                track["fused"] = (1 - share) * track["fused"] + share * new
            track["all"].append(new)
            track["kept"] = [*track["kept"], new][-self.rules.kept :]
            track["last"] = self.frame
        gone = [i for i, t in self.tracks.items() if self.frame - t["last"] > self.rules.patience]
        for number in gone:
            del self.tracks[number]
        return ids

    @staticmethod
    def iou(a: Tensor, b: Tensor) -> float:
        both, either = ((a > 0) & (b > 0)).sum(), ((a > 0) | (b > 0)).sum()
        return float(both) / max(1.0, float(either))


def frames(
    count: int, seed: int, size: tuple[int, int] = (6, 6)
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Logits, masks and embeddings of queries: some come back, some are alike, some are unsure."""
    generator = torch.Generator().manual_seed(seed)
    things = 3 * torch.randn(5, DIM, generator=generator)
    made = []
    for _ in range(count):
        which = torch.randint(0, 5, (QUERIES,), generator=generator)
        embeddings = things[which] + 0.5 * torch.randn(QUERIES, DIM, generator=generator)
        logits = 2 * torch.randn(QUERIES, CLASSES + 1, generator=generator)
        logits[:, -1] += torch.where(torch.rand(QUERIES, generator=generator) < 0.5, 12.0, 0.0)
        masks = torch.full((QUERIES, *size), -1.0)
        for query, thing in enumerate(which.tolist()):
            masks[query, thing : thing + 2, : 3 + query % 2] = 1.0
        made.append((logits, masks, embeddings))
    return made


def tracker_of(make: MakeConfig, **rules: float) -> MemoryTracker:
    config = replace(make(memory=True), hidden_dim=DIM)
    tracker = MemoryTracker(config, MemoryTrackerConfig(8, **rules))  # type: ignore[arg-type]
    tracker.reid_head = torch.nn.Identity()  # type: ignore[assignment]
    return tracker


def step(tracker: MemoryTracker, frame: tuple[Tensor, ...], state: MemoryState | None) -> Any:
    logits, masks, embeddings = (x[None] for x in frame)
    decoded = Decoded(*[None] * len(Decoded._fields))._replace(
        embeddings=embeddings, predictions=Predictions(logits, masks)
    )
    return tracker.step(decoded, None, state)  # type: ignore[arg-type]


@pytest.mark.parametrize("patience", [1, 20])
@pytest.mark.parametrize("seed", range(4))
def test_tracks_are_those_of_the_rules(
    instance_config: MakeConfig, seed: int, patience: int
) -> None:
    tracker = tracker_of(instance_config, patience=patience, kept=3)
    naive, state, owner = Naive(tracker.rules), None, dict[int, int]()
    joined = forgotten = 0
    for frame in frames(30, seed):
        expected = naive.step(*frame)
        predictions, state = step(tracker, frame, state)
        present, born = (x[0] for x in tracker.presence(state))
        found = {}
        for slot in present.nonzero()[:, 0].tolist():
            logits, masks = (x[0, slot] for x in predictions)
            matches = (frame[0] == logits).all(1) & (frame[1] == masks).flatten(1).all(1)
            (query,) = matches.nonzero()[:, 0].tolist()
            if born[slot]:
                owner[slot] = next(i for i, q in expected.items() if q == query)
                forgotten += owner[slot] >= 5
            else:
                joined += 1
            found[owner[slot]] = query
        assert found == expected
        assert not predictions.class_logits[0, ~present].any()
        assert not predictions.mask_logits[0, ~present].any()
    assert joined > 20 and (forgotten > 0 or patience == 20)


def test_without_a_free_slot_the_track_unseen_for_longest_goes(
    instance_config: MakeConfig,
) -> None:
    tracker, state = tracker_of(instance_config, slots=3), None
    for frame in frames(12, 0):
        before = state
        _, state = step(tracker, frame, state)
        present, born = (x[0] for x in tracker.presence(state))
        assert present.sum() <= 3
        if before is not None:
            full = (before.seen > 0).all()
            taken = born & (before.seen[0] > 0)
            kept = ~present & (before.seen[0] > 0)
            if full and taken.any() and kept.any():
                assert before.age[0][taken].min() >= before.age[0][kept].max()
    assert state is not None and (state.seen > 0).all()


class Told(InstanceSegmenter):
    """Detects what `frames` says, frame after frame."""

    def __init__(self, make: MakeConfig) -> None:
        torch.nn.Module.__init__(self)
        self.tracker = tracker_of(make, patience=1, slots=4)
        self.config = replace(make(memory=True), hidden_dim=DIM, memory_tracker=self.tracker.rules)
        self.frames = frames(12, 1, (16, 24))
        self.network = torch.nn.Module()  # type: ignore[assignment]
        self.network.query_decoder = torch.nn.Module()  # type: ignore[assignment]
        self.network.query_decoder.query_features = torch.nn.Parameter(torch.zeros(1))

    def step(self, image: Tensor, state: CarriedState | None, router: object = None) -> tuple:  # type: ignore[override]
        number = 0 if state is None else int(state.queries[0, 0, 0]) + 1
        predictions, tracks = step(
            self.tracker, self.frames[number], None if state is None else state.tracker
        )
        frame = TrackedFrame(predictions, torch.ones(1, 3), self.tracker.presence(tracks))
        return frame, CarriedState(torch.full((1, 7, DIM), float(number)), tracks)


def session_of(make: MakeConfig) -> InstanceSession:
    return InstanceSession(Told(make), options=PROTOCOL)


def images(count: int) -> list[np.ndarray]:
    return [np.zeros((64, 96, 3), np.uint8) for _ in range(count)]


def test_a_slot_s_next_track_has_an_id_and_scores_of_its_own(instance_config: MakeConfig) -> None:
    session = session_of(instance_config)
    results = [session.step(image) for image in images(12)]
    summary = session.summary()
    ids = {int(i) for result in results for i in result.track_ids}
    assert ids == set(range(1, len(ids) + 1)) == {track.track_id for track in summary.tracks}
    for track in summary.tracks:
        on = [r for r in results if track.track_id in r.track_ids]
        assert (on[0].index, on[-1].index) == (track.first_frame, track.last_frame)
        assert len(on) == track.num_frames
        # As PROTOCOL shows a track wherever it is, the two averages are over the same frames.
        assert track.class_scores.max() == pytest.approx(track.score, abs=1e-5)
    assert len(ids) > 5


def test_a_session_goes_on_from_its_state(instance_config: MakeConfig) -> None:
    whole, first, second = (session_of(instance_config) for _ in range(3))
    frames = images(10)
    expected = [whole.step(image) for image in frames]
    for image in frames[:5]:
        first.step(image)
    second.restore(first.state())
    for image, wanted in zip(frames[5:], expected[5:], strict=True):
        got = second.step(image)
        assert np.array_equal(got.track_ids, wanted.track_ids)
        assert np.array_equal(got.masks, wanted.masks)
    for ours, theirs in zip(second.summary().tracks, whole.summary().tracks, strict=True):
        assert ours.track_id == theirs.track_id and ours.num_frames == theirs.num_frames
        np.testing.assert_allclose(ours.class_scores, theirs.class_scores, atol=1e-6)
