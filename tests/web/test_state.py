"""Tables, changes, undo and redo."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tempomask.prompts import Prompt
from tempomask.web.project import new_object
from tempomask.web.state import DEPTH, Change, MaskEntry, Spot, State


def entry(area: int = 5) -> MaskEntry:
    return MaskEntry("05", 1.0, 0.9, (0, 0, 1, 5), area)


def everything(state: State) -> tuple[Any, ...]:
    tables = state.objects, state.prompts, state.masks, state.blocks
    return (*map(dict, tables), state.frames(), [state.masks_on(frame) for frame in range(4)])


VALUES = st.one_of(
    st.tuples(st.just("objects"), st.integers(1, 3), st.none() | st.integers(1, 3).map(new_object)),
    st.tuples(st.just("masks"), st.builds(Spot, st.integers(0, 3), st.integers(1, 3)),
              st.none() | st.integers(1, 3).map(entry)),
    st.tuples(st.just("prompts"), st.builds(Spot, st.integers(0, 3), st.integers(1, 3)),
              st.none() | st.just((Prompt(points=(1, 2)),))),
    st.tuples(st.just("blocks"), st.integers(0, 3), st.none() | st.just("101")),
)  # fmt: skip


@given(st.lists(st.lists(VALUES, min_size=1, max_size=4), max_size=8))
def test_undo_and_redo_lead_back_and_forth(steps: list[list[Any]]) -> None:
    state = State()
    seen = [everything(state)]
    for values in steps:
        if state.change("step", values) is not None:
            seen.append(everything(state))
    for before in reversed(seen[:-1]):
        state.undo()
        assert everything(state) == before
    assert state.undo() is None
    for after in seen[1:]:
        state.redo()
        assert everything(state) == after
    assert state.redo() is None


def test_a_new_change_ends_redo() -> None:
    state = State()
    state.change("one", [("blocks", 0, "1")])
    state.change("two", [("blocks", 0, "0")])
    state.undo()
    assert (state.undo_label, state.redo_label) == ("one", "two")
    state.change("three", [("blocks", 1, "1")])
    assert (state.undo_label, state.redo_label) == ("three", None)


def test_a_run_is_one_change() -> None:
    state = State()
    run = Change("track")
    for frame in range(3):
        state.extend(run, [("masks", Spot(frame, 1), entry(frame + 1))])
    state.keep(run)
    assert len(state.masks) == 3
    state.undo()
    assert not state.masks


def test_the_way_back_is_bounded() -> None:
    state = State()
    for value in range(DEPTH + 10):
        state.change("step", [("blocks", 0, str(value))])
    undone = 0
    while state.undo() is not None:
        undone += 1
    assert undone == DEPTH


def test_a_deleted_object_comes_back_in_its_place() -> None:
    state = State()
    state.load("objects", {i: new_object(i) for i in (1, 2, 3)})
    state.change("delete", [("objects", 2, None)])
    state.undo()
    assert list(state.objects) == [1, 2, 3]
    assert state.next_id() == 4
