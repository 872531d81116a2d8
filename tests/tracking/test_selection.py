"""The selection rule against a naive re-derivation, and eviction that it never notices."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tempomask.tracking.memory_bank import Memory, MemoryBank, Reach
from tempomask.tracking.selection import RecentMemories, Selection, closest_conditioning


def memory(frame: int) -> Memory:
    return Memory(frame, torch.full((1, 1, 1), float(frame)), torch.full((1,), frame), 1.0, 0.5)


def naive_selection(
    rule: RecentMemories, bank: MemoryBank, t: int, reverse: bool
) -> tuple[list[tuple[int, int]], list[tuple[int, float]]]:
    """(frame, temporal index) and (frame, distance), in the words of the official predictor."""
    conditioning, recent = list(bank.conditioning), set(bank.recent)
    limit, r = rule.max_conditioning_frames, rule.stride
    if limit != -1 and len(conditioning) > limit:
        chosen: list[int] = []
        before = [k for k in conditioning if k < t]
        after = [k for k in conditioning if k >= t]
        chosen += [max(before)] if before else []
        chosen += [min(after)] if after else []
        left = sorted([k for k in conditioning if k not in chosen], key=lambda k: abs(k - t))
        chosen += left[: limit - len(chosen)]
    else:
        chosen = conditioning
    ordinary = recent | (set(conditioning) - set(chosen))
    spatial = [(k, rule.memory_frames - 1) for k in chosen]
    for t_rel in range(rule.memory_frames - 1, 0, -1):
        if t_rel == 1:
            k = t + 1 if reverse else t - 1
        elif reverse:
            k = -(-(t + 2) // r) * r + (t_rel - 2) * r
        else:
            k = ((t - 2) // r) * r - (t_rel - 2) * r
        if k in ordinary:
            spatial.append((k, t_rel - 1))
    most = rule.max_pointers if rule.num_frames is None else min(rule.num_frames, rule.max_pointers)
    pointers = [(k, abs(t - k)) for k in chosen if (k >= t if reverse else k <= t)]
    for t_diff in range(1, most):
        k = t + t_diff if reverse else t - t_diff
        if k in ordinary:
            pointers.append((k, t_diff))
    return spatial, [(k, d / max(most - 1, 1)) for k, d in pointers]


def as_frames(selection: Selection) -> tuple[list[tuple[int, int]], list[tuple[int, float]]]:
    frames = [m.frame for m in selection.spatial]
    pointers = [m.frame for m in selection.pointers]
    return (
        list(zip(frames, selection.temporal_index, strict=True)),
        list(zip(pointers, selection.distances, strict=True)),
    )


rules = st.builds(
    RecentMemories,
    memory_frames=st.integers(2, 7),
    max_pointers=st.integers(1, 16),
    stride=st.integers(1, 4),
    max_conditioning_frames=st.sampled_from([-1, 2, 3]),
    num_frames=st.sampled_from([None, 1, 5, 40]),
)


@settings(deadline=None)
@given(
    rule=rules,
    conditioning=st.lists(st.integers(0, 40), min_size=1, max_size=6, unique=True),
    recent=st.sets(st.integers(0, 40)),
    frame=st.integers(0, 40),
    reverse=st.booleans(),
)
def test_selection_is_the_official_rule(
    rule: RecentMemories, conditioning: list[int], recent: set[int], frame: int, reverse: bool
) -> None:
    bank = MemoryBank()
    for t in sorted(recent):
        bank.store(memory(t), conditioning=False)
    for t in conditioning:
        bank.store(memory(t), conditioning=True)
    assert as_frames(rule.select(bank, frame, reverse)) == naive_selection(
        rule, bank, frame, reverse
    )


@settings(deadline=None, max_examples=100)
@given(
    rule=rules,
    ahead=st.sets(st.integers(0, 45), max_size=3),
    prompted=st.sets(st.integers(0, 45), min_size=1, max_size=8),
    keep=st.integers(0, 4),
    reverse=st.booleans(),
)
def test_eviction_never_changes_a_selection(
    rule: RecentMemories, ahead: set[int], prompted: set[int], keep: int, reverse: bool
) -> None:
    """Whatever is evicted, each frame and each correctable frame behind it selects the same."""
    rule = replace(rule, num_frames=None)
    everything, bounded = MemoryBank(), MemoryBank()
    first, sign = (45, -1) if reverse else (0, 1)
    for t in sorted(ahead | {first}):
        everything.store(memory(t), conditioning=True)
        bounded.store(memory(t), conditioning=True)
    for t in range(first, first + 45 * sign, sign):
        for query in range(t - sign * keep, t + sign, sign):
            # Attention does not depend on the order of its keys.
            full, small = (
                [sorted(part) for part in as_frames(rule.select(bank, query, reverse))]
                for bank in (everything, bounded)
            )
            assert small == full
        for bank in (everything, bounded):
            bank.store(memory(t), conditioning=t in prompted)
        following = t + sign
        bounded.retain(rule.reach(bounded, following - sign * keep, following, reverse))
        horizon = max(rule.stride * rule.memory_frames, rule.max_pointers) + keep + 2
        assert len(bounded.recent) <= horizon


def test_a_bank_holds_no_more_than_selection_can_reach() -> None:
    bank, rule = MemoryBank(), RecentMemories()
    bank.store(memory(0), conditioning=True)
    for t in range(1, 100):
        bank.store(memory(t), conditioning=False)
        bank.retain(rule.reach(bank, t + 1, t + 1, reverse=False))
    assert sorted(bank.recent) == list(range(85, 100))
    assert sorted(bank.frames()) == [0, 94, 95, 96, 97, 98, 99]


@pytest.mark.parametrize(
    "frame, limit, expected",
    [
        (10, -1, [20, 0, 9, 4, 11]),
        (10, 5, [20, 0, 9, 4, 11]),
        (10, 2, [9, 11]),
        (10, 3, [9, 11, 4]),
        (30, 3, [20, 11, 9]),
        (11, 2, [9, 11]),
        (0, 2, [0, 4]),
    ],
)
def test_closest_conditioning_frames(frame: int, limit: int, expected: list[int]) -> None:
    assert closest_conditioning([20, 0, 9, 4, 11], frame, limit) == expected


def test_a_conditioning_memory_replaces_the_recent_one_of_its_frame() -> None:
    bank = MemoryBank()
    bank.store(memory(3), conditioning=False)
    bank.store(memory(3), conditioning=True)
    assert (list(bank.conditioning), list(bank.recent)) == ([3], [])
    newer = memory(3)
    bank.store(newer, conditioning=False)
    assert bank.conditioning[3] is newer and not bank.recent


def test_memories_in_pointer_reach_only_lose_their_features() -> None:
    bank = MemoryBank()
    for t in (1, 2, 3):
        bank.store(memory(t), conditioning=False)
    before = bank.num_bytes()
    bank.retain(Reach(spatial=frozenset({3}), pointers=frozenset({2, 3})))
    assert list(bank.recent) == [2, 3]
    assert bank.recent[2].features is None and bank.recent[3].features is not None
    assert bank.frames() == {3}
    assert 0 < bank.num_bytes() < before
