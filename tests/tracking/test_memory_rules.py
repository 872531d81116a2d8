"""DAM4SAM's and SAM2Long's memories: second derivations, eviction, pathways in sessions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from tempomask.errors import InputError
from tempomask.models.segmenter import Segmenter
from tempomask.tracking.distractors import DistractorMemories, is_anchor, is_reliable
from tempomask.tracking.memory_bank import Memory, MemoryBank
from tempomask.tracking.options import TrackingOptions
from tempomask.tracking.pathways import PathwayMemories, kept_pathways
from tempomask.tracking.selection import MemorySelector, RecentMemories, Selection
from tempomask.tracking.session import Session

Frames = Callable[..., list[NDArray[np.uint8]]]
BOX = np.zeros((48, 80), dtype=bool)
BOX[8:22, 5:21] = True


def memory(frame: int, seen: bool, anchor: bool, iou: float = 0.9) -> Memory:
    features = torch.full((1, 1, 1), float(frame + 1))
    area = 100.0 if seen else 0.0
    return Memory(frame, features, torch.ones(1), 5.0, iou, None, area, anchor)


def spatial(selector: MemorySelector, bank: MemoryBank, frame: int, reverse: bool) -> list[object]:
    chosen = selector.select(bank, frame, reverse)
    weights = [float(m.features) for m in chosen.spatial if m.features is not None]
    frames = [m.frame for m in chosen.spatial]
    return sorted(zip(frames, chosen.temporal_index, weights, strict=True))


@settings(max_examples=120, deadline=None)
@given(
    table=st.lists(st.tuples(st.booleans(), st.booleans(), st.floats(0, 1)), max_size=45),
    prompted=st.sets(st.integers(1, 45), max_size=6),
    limit=st.sampled_from([-1, 2]),
    reverse=st.booleans(),
    keep=st.integers(0, 3),
    tree=st.booleans(),
)
def test_eviction_never_changes_a_selection(
    table: list[tuple[bool, bool, float]],
    prompted: set[int],
    limit: int,
    reverse: bool,
    keep: int,
    tree: bool,
) -> None:
    recent = RecentMemories(max_conditioning_frames=limit)
    rule = PathwayMemories(recent) if tree else DistractorMemories(recent)
    everything, bounded = MemoryBank(), MemoryBank()
    sign, last = (-1, 60) if reverse else (1, 0)
    for bank in (everything, bounded):
        bank.store(memory(last, True, False), conditioning=True)
    for distance, (seen, anchor, iou) in enumerate(table, 1):
        frame = last + sign * distance
        for query in range(frame, frame - sign * (keep + 1), -sign):
            assert spatial(rule, bounded, query, reverse) == spatial(
                rule, everything, query, reverse
            )
        for bank in (everything, bounded):
            anchor = anchor and distance not in prompted
            bank.store(memory(frame, seen, anchor, iou), distance in prompted)
        bounded.retain(rule.reach(bounded, frame - sign * keep, frame + sign, reverse))
        with_features = [m for m in bounded.recent.values() if m.features is not None]
        assert len(with_features) <= 9 + keep


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=40))
def test_appearances_and_anchors_are_those_of_a_plain_list(table: list[tuple[bool, bool]]) -> None:
    bank, appearances, anchors = MemoryBank(), list[int](), list[int]()
    bank.store(memory(0, True, False), conditioning=True)
    for frame, (seen, anchor) in enumerate(table, 1):
        bank.store(memory(frame, seen, anchor), conditioning=False)
        appearances += [frame] if seen else []
        anchors += [frame] if anchor else []
    every_fifth = [t for t in appearances[:-1] if t % 5 == 0]
    expected = [*every_fifth[-2:], *appearances[-1:]]
    chosen = DistractorMemories(RecentMemories()).select(bank, len(table) + 1, reverse=False)
    assert [m.frame for m in chosen.spatial] == [0, *anchors[-2:], *expected]
    timeless = 1 + len(anchors[-2:])
    rows = (*[6] * timeless, *range(len(expected) - 1, -1, -1))
    assert chosen.temporal_index == rows


def test_a_look_alike_makes_an_anchor_and_a_part_of_the_object_does_not() -> None:
    mask, other = np.zeros((2, 30, 60), dtype=bool)
    mask[5:15, 5:15] = True
    other[5:15, 40:50] = True
    assert is_anchor(mask, other[None]) and is_anchor(mask, np.stack([mask, other]))
    assert not is_anchor(mask, np.stack([mask[:, ::-1] & False, mask & (np.arange(60) < 9)]))
    # Of several parts only the largest counts.
    specks = mask.copy()
    specks[20, 55] = True
    assert not is_anchor(mask, specks[None])


@pytest.mark.parametrize(
    ("area", "iou", "anchor_at", "expected"),
    [
        (110, 0.9, None, True),
        (130, 0.9, None, False),
        (110, 0.8, None, False),
        (0, 0.9, None, False),
        (110, 0.9, 17, False),
        (110, 0.9, 15, True),
    ],
)
def test_only_trusted_frames_become_anchors(
    area: float, iou: float, anchor_at: int | None, expected: bool
) -> None:
    first = replace(memory(0, True, False), area=None)
    before = [first, *(memory(t, True, t == anchor_at) for t in range(19, 5, -1))]
    assert is_reliable(before, area, iou) == expected
    assert not is_reliable([first], area, iou)


def test_anchors_keep_their_distance_after_a_click() -> None:
    """A clicked frame has an area, and comes first among the pointers."""
    frames = [0, *range(19, 5, -1)]
    pointers = tuple(memory(t, True, t == 18) for t in frames)
    distances = tuple((20 - t) / 15 for t in frames)
    selection = Selection((), (), pointers, distances)
    assert [m.frame for m in selection.nearest_first][:2] == [19, 18]
    assert not is_reliable(selection.nearest_first, 110, 0.9)


@settings(max_examples=200, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.floats(-9, 0), st.sampled_from([0.1, 0.101, 0.5, 0.9]), st.floats(-3, 3)),
        min_size=1,
        max_size=9,
    ),
    most=st.integers(1, 4),
)
def test_pathways_are_the_best_by_their_products(
    rows: list[tuple[float, float, float]], most: int
) -> None:
    before, ious, present = zip(*rows, strict=True)
    kept = kept_pathways(before, ious, present, most)
    scores = dict(kept)
    assert len(scores) == len(kept) == min(most, len(rows))
    assert [score for _, score in kept] == sorted(scores.values(), reverse=True)
    for i, score in scores.items():
        assert math.exp(score) == pytest.approx(math.exp(before[i]) * ious[i])
    ends = [b + math.log(iou) for b, iou in zip(before, ious, strict=True)]
    if max(map(abs, present)) >= 2:
        assert min(scores.values()) >= max(
            [e for i, e in enumerate(ends) if i not in scores], default=-99
        )
    else:
        different = len({round(iou, 2) for iou in ious})
        assert len({round(ious[i], 2) for i in scores}) == min(most, different)


def test_surer_memories_weigh_more() -> None:
    bank = MemoryBank()
    bank.store(memory(0, True, False), conditioning=True)
    for t, score in enumerate((3.0, 1.0, -1.0, 2.0), 1):
        bank.store(replace(memory(t, True, False), object_score=score), conditioning=False)
    chosen = PathwayMemories(RecentMemories()).select(bank, 5, reverse=False)
    weights = [float(m.features) / (m.frame + 1) for m in chosen.spatial if m.features is not None]
    assert [m.frame for m in chosen.spatial] == [0, 1, 2, 4]
    assert weights == pytest.approx([1.0, 1.05, 0.95, 1.0])


@pytest.fixture
def guesses(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> list[list[list[float]]]:
    """The predicted IoUs of the three masks of each row, as written down for the next frame."""
    script: list[list[list[float]]] = []
    propose = segmenter.propose

    def scripted(features: Tensor, high: tuple[Tensor, ...], *rest: Tensor, **named: Tensor) -> Any:
        real = propose(features, high, *rest, **named)
        if not script:
            return real
        iou = torch.tensor([[row[0], *row] for row in script.pop(0)])
        logits = torch.full_like(real.logits, -5.0)
        for row, k in product(range(len(iou)), range(4)):
            logits[row, k, 4 * row : 4 * row + 3, 4 * k : 4 * k + 3] = 5.0
        return real._replace(logits=logits, iou=iou, object_score=torch.full((len(iou),), 5.0))

    monkeypatch.setattr(segmenter, "propose", scripted)
    return script


def test_a_pathway_that_proves_better_takes_over(
    segmenter: Segmenter, clip: Frames, guesses: list[list[list[float]]]
) -> None:
    frames = clip(5)
    session = Session(segmenter, TrackingOptions(memory="sam2long", keep=2))
    session.prompt(mask=BOX)
    session.step(frames[0])
    guesses[:] = [[[0.9, 0.8, 0.1]]]
    first = session.step(frames[1])
    assert first.low_res_logits[0, 0, 4] > 0  # the first of three masks
    guesses[:] = [[[0.3, 0.2, 0.1], [0.2, 0.9, 0.1], [0.1, 0.1, 0.1]]]
    second = session.step(frames[2])
    # The second mask of the second pathway: 0.8 * 0.9 is more than 0.9 * 0.3.
    assert second.low_res_logits[0, 4, 8] > 0
    assert second.predicted_iou[0] == pytest.approx(0.9)
    tracked = session._state.objects[1]
    assert [math.exp(o.path_score) for o in (tracked.outputs[2], *tracked.outputs[2].rivals)] == (
        pytest.approx([0.72, 0.27, 0.18])
    )
    guesses[:] = [[[0.9, 0.8, 0.7]] * 3]
    session.step(frames[3])
    # The pathway shown remembers the second mask of frame 1, the other two the first one's.
    remembered = [round(bank.recent[1].predicted_iou, 2) for bank in tracked.banks]
    assert remembered == [0.8, 0.9, 0.9]
    # A correction settles the matter, and tracking goes on from it alone.
    session.correct(mask=BOX)
    guesses[:] = [[[0.9, 0.8, 0.7]]]
    session.step(frames[4])
    assert not guesses and len(session._state.objects[1].banks) == 1


def test_pathways_cost_a_bounded_multiple_of_memory(segmenter: Segmenter, clip: Frames) -> None:
    held = {}
    for rule in ("recent", "dam4sam", "sam2long"):
        session = Session(segmenter, TrackingOptions(memory=rule))
        session.prompt(mask=BOX)
        sizes = []
        for index in range(40):
            session.step(clip(8)[index % 8])
            sizes.append(session.memory_bytes())
        held[rule] = max(sizes)
    assert held["dam4sam"] <= 1.6 * held["recent"]
    assert held["sam2long"] <= 3.2 * held["recent"]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"memory": "sam2long", "memory_paths": 0}, "memory_paths must be 1 or more"),
        ({"memory_paths": 2}, 'memory_paths 2 needs memory="sam2long"'),
        ({"memory": "dam4sam", "memory_stride": 2}, "memory_stride 2 has no meaning"),
        ({"memory": "sam2long", "non_overlapping_memory": True}, "pathways overlap"),
    ],
)
def test_options_that_do_not_fit(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrackingOptions(**changes)  # type: ignore[arg-type]
