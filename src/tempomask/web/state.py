"""What a person has made of a video: objects, prompts and masks, and every change to undo.

All of it is in tables of values that never change; a change is a list of old and new values, so
that undo and redo are the same few lines for everything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Literal, NamedTuple

from tempomask.prompts import Prompt

# Of how many changes there is a way back.
DEPTH = 200

Table = Literal["objects", "prompts", "masks", "blocks", "settings"]
# Table, key and new value each; None for nothing.
Values = list[tuple[Table, Any, Any]]


@dataclass(frozen=True)
class ObjectInfo:
    """How an object appears in the list; colour as #rrggbb."""

    id: int
    name: str
    color: str
    visible: bool = True
    locked: bool = False


@dataclass(frozen=True)
class MaskEntry:
    """The mask of one object on one frame.

    Attributes:
        counts: COCO's compressed run-length code.
        score: Logit of its presence, > 0 is present.
        iou: Predicted by the network, in [0, 1]; 1 for a mask that a person made.
        box: x0, y0, x1, y1 edges in pixels; zeros for an empty mask.
        area: In pixels.
    """

    counts: str
    score: float
    iou: float
    box: tuple[float, float, float, float]
    area: int


@dataclass(frozen=True)
class Settings:
    """What the page asks of the router: a share of blocks, or frames a second."""

    budget: float | None = None
    fps: float | None = None


class Spot(NamedTuple):
    """An object on a frame."""

    frame: int
    object_id: int


class Edit(NamedTuple):
    """One value of a table, before and after; None where there is none."""

    table: Table
    key: Any
    old: Any
    new: Any


@dataclass
class Change:
    """What one action of a person did.

    Attributes:
        label: What it is called in "Undo ...".
        edits: What it changed, in order.
        number: That no other change of the process has.
    """

    label: str
    edits: list[Edit] = field(default_factory=list)
    number: int = field(default_factory=count().__next__)

    @property
    def touched(self) -> list[tuple[Table, Any]]:
        """Table and key of what it changes."""
        return [(edit.table, edit.key) for edit in self.edits]


class State:
    """The tables, and the changes that led to them.

    Attributes:
        objects: By id, in the order of the list.
        prompts: By frame and object, in the order in which they were given.
        masks: By frame and object.
        blocks: Of each tracked frame which encoder blocks ran, as ones and zeros.
        settings: One entry, "speed", once it has been set.
        done: Changes that can be undone, the last one last.
        undone: Changes that can be done again, the next one last.
    """

    def __init__(self) -> None:
        self.objects: dict[int, ObjectInfo] = {}
        self.prompts: dict[Spot, tuple[Prompt, ...]] = {}
        self.masks: dict[Spot, MaskEntry] = {}
        self.blocks: dict[int, str] = {}
        self.settings: dict[str, Settings] = {}
        self._by_frame: dict[int, set[int]] = {}
        self.done: list[Change] = []
        self.undone: list[Change] = []

    @property
    def undo_label(self) -> str | None:
        """What undo would take back."""
        return self.done[-1].label if self.done else None

    @property
    def redo_label(self) -> str | None:
        """What redo would do again."""
        return self.undone[-1].label if self.undone else None

    def load(self, table: Table, values: Mapping[Any, Any]) -> None:
        """Fill a table without a change to undo."""
        for key, value in values.items():
            self._set(table, key, value)

    def restore(self, done: list[Change], undone: list[Change]) -> None:
        """Take over the way back of an earlier process."""
        self.done, self.undone = done[-DEPTH:], undone

    def value(self, table: Table, key: Any) -> Any:
        """What is in a table; None if nothing is."""
        return self._table(table).get(key)

    def change(self, label: str, values: Iterable[tuple[Table, Any, Any]]) -> Change | None:
        """Set values of tables; None where nothing differs.

        Args:
            label: Of the action.
            values: Table, key and new value each.
        """
        change = Change(label)
        self.extend(change, values)
        return self.keep(change) if change.edits else None

    def extend(self, change: Change, values: Iterable[tuple[Table, Any, Any]]) -> list[Edit]:
        """Set values as a part of a change that goes on, such as tracking; the new edits."""
        edits = []
        for table, key, new in values:
            old = self.value(table, key)
            if old != new:
                edits.append(Edit(table, key, old, new))
                self._set(table, key, new)
        change.edits += edits
        return edits

    def keep(self, change: Change) -> Change:
        """Let undo take back a change that is complete."""
        self.done.append(change)
        del self.done[:-DEPTH]
        self.undone.clear()
        return change

    def undo(self) -> Change | None:
        """Take back the last change; None if there is none."""
        if not self.done:
            return None
        change = self.done.pop()
        for edit in reversed(change.edits):
            self._set(edit.table, edit.key, edit.old)
        self.undone.append(change)
        return change

    def redo(self) -> Change | None:
        """Do again what was taken back last; None if there is nothing."""
        if not self.undone:
            return None
        change = self.undone.pop()
        for edit in change.edits:
            self._set(edit.table, edit.key, edit.new)
        self.done.append(change)
        return change

    def masks_on(self, frame: int) -> dict[int, MaskEntry]:
        """The masks of a frame by object, in the order of the list."""
        found = self._by_frame.get(frame, set())
        return {i: self.masks[Spot(frame, i)] for i in self.objects if i in found}

    def frames(self) -> list[int]:
        """Frames with masks, in order."""
        return sorted(frame for frame, found in self._by_frame.items() if found)

    def all_prompts(self, objects: Iterable[int] | None = None) -> list[Prompt]:
        """All prompts by frame, those of one object on a frame in the order given."""
        wanted = None if objects is None else set(objects)
        spots = sorted(spot for spot in self.prompts if wanted is None or spot.object_id in wanted)
        return [prompt for spot in spots for prompt in self.prompts[spot]]

    def without(self, object_id: int) -> Values:
        """What takes an object away, with its prompts and masks."""
        values: Values = [("objects", object_id, None)]
        for spot in self.prompts:
            if spot.object_id == object_id:
                values.append(("prompts", spot, None))
        for spot in self.masks:
            if spot.object_id == object_id:
                values.append(("masks", spot, None))
        return values

    def next_id(self) -> int:
        """For a new object: above all that there are."""
        return max(self.objects, default=0) + 1

    def _table(self, table: Table) -> dict[Any, Any]:
        tables: dict[str, Any] = {"objects": self.objects, "prompts": self.prompts}
        tables |= {"masks": self.masks, "blocks": self.blocks, "settings": self.settings}
        return tables[table]

    def _set(self, table: Table, key: Any, value: Any) -> None:
        values = self._table(table)
        if value is None:
            values.pop(key, None)
        else:
            values[key] = value
        if table == "masks":
            found = self._by_frame.setdefault(key.frame, set())
            (found.discard if value is None else found.add)(key.object_id)
        if table == "objects" and value is not None:
            # An object that comes back by undo takes its old place.
            ordered = sorted(self.objects.items())
            self.objects.clear()
            self.objects.update(ordered)
