"""The way back on disk, so that undo reaches past a restart: `history.jsonl` in a project's folder.

Each line is {"change", "label", "edits": [[table, key, old, new], ...], "ended"}: of a run, whose
lines have one number, one line a frame; or {"step": "undo"} or "redo". It is written after what it
tells of. Where it does not lead to what is in the project, as after a change by other means, there
is no way back.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from io import FileIO
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tempomask.errors import InputError, warn
from tempomask.files import read_file, replacing, write_errors
from tempomask.frames import Size
from tempomask.io.prompt_file import parts_of
from tempomask.prompts import Prompt
from tempomask.rle import RLE, decode_rle, encode_rle, run_lengths
from tempomask.schema import check, matching, one_of, only, parse_json, whole
from tempomask.web.messages import BUDGET, COLOR, COUNTS, FPS, OBJECT
from tempomask.web.state import Change, Edit, MaskEntry, ObjectInfo, Settings, Spot, State, Table

# Larger files are not read: what a person did in a week is far below.
_MOST_BYTES = 256 * 2**20
_FRAME = whole()
OBJECT_INFO = only({"id": OBJECT, "name": str, "color": COLOR, "visible?": bool, "locked?": bool})
SETTINGS = only({"budget?": BUDGET, "fps?": FPS})
_PROMPT = {"points?": [[float, float]], "labels?": [one_of(0, 1)], "box?": [float] * 4,
           "mask?": COUNTS}  # fmt: skip
# Of each table what its keys and values are in a line.
_SCHEMAS: Mapping[Table, tuple[Any, Any]] = {
    "objects": (OBJECT, OBJECT_INFO),
    "prompts": ([_FRAME, OBJECT], [_PROMPT]),
    "masks": ([_FRAME, OBJECT], [COUNTS, float, float, [float] * 4, whole()]),
    "blocks": (_FRAME, matching("[01]*", "ones and zeros")),
    "settings": (one_of("speed"), SETTINGS),
}
_EDIT = [one_of(*map(str, _SCHEMAS)), object, object, object]
_LINE = (
    only({"change": whole(), "label": str, "edits": [_EDIT], "ended": bool}),
    only({"step": one_of("undo", "redo")}),
)


class History:
    """The changes of one project, being written.

    Args:
        path: Of the file.
        size: (H, W) of the video.
        state: With what is in the project; gets its way back.
    """

    def __init__(self, path: Path, size: Size, state: State) -> None:
        self._path, self._size = path, size
        if path.exists():
            try:
                state.restore(*self._read(state))
            except InputError as error:
                warn(f"{error}; undo begins anew")
        with write_errors(path), replacing(path) as part, part.open("w", encoding="utf-8") as file:
            for change in (*state.done, *reversed(state.undone)):
                file.write(self._line(change, change.edits, True))
            file.write(_step("undo") * len(state.undone))
        self._file = FileIO(path, "a")

    def add(self, change: Change, edits: Iterable[Edit], ended: bool = True) -> None:
        """Write edits of a change down; a run has several such lines."""
        self._file.write(self._line(change, edits, ended).encode())

    def step(self, name: Literal["undo", "redo"]) -> None:
        """Write down that a change was taken back, or done again."""
        self._file.write(_step(name).encode())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _line(self, change: Change, edits: Iterable[Edit], ended: bool) -> str:
        rows = [[edit.table, edit.key, _written(edit.old), _written(edit.new)] for edit in edits]
        line = {"change": change.number, "label": change.label, "edits": rows, "ended": ended}
        return json.dumps(line, separators=(",", ":")) + "\n"

    def _read(self, state: State) -> tuple[list[Change], list[Change]]:
        """What can be undone and what can be redone; InputError if it leads elsewhere."""
        what = str(self._path)
        if self._path.stat().st_size > _MOST_BYTES:
            raise InputError(f"{what} is too long")
        running: dict[int, Change] = {}
        done: list[Change] = []
        undone: list[Change] = []
        for text in read_file(self._path, "history").splitlines(keepends=True):
            if not text.endswith(b"\n"):
                break  # of a process that was killed
            line = parse_json(text, what, _LINE)
            if "step" in line:
                source, target = (done, undone) if line["step"] == "undo" else (undone, done)
                if not source:
                    raise InputError(f"{what} is damaged")
                target.append(source.pop())
                continue
            change = running.setdefault(line["change"], Change(line["label"]))
            change.edits += [self._edit(*row) for row in line["edits"]]
            if line["ended"]:
                done.append(running.pop(line["change"]))
                undone.clear()
        done += [change for change in running.values() if change.edits]
        latest: dict[tuple[Table, Any], Any] = {}
        for change in done:
            latest.update(((edit.table, edit.key), edit.new) for edit in change.edits)
        for change in undone:
            latest.update(((edit.table, edit.key), edit.old) for edit in reversed(change.edits))
        for (table, key), value in latest.items():
            if _written(state.value(table, key)) != _written(value):
                raise InputError(f"{what} is of another state of the project")
        return done, undone

    def _edit(self, table: Table, key: Any, old: Any, new: Any) -> Edit:
        key_schema, schema = _SCHEMAS[table]
        check(key, key_schema, f"{self._path}: a key")
        check([old, new], [(schema, None)], f"{self._path}: {table}")
        if table in ("masks", "prompts"):
            key = Spot(*key)
        return Edit(table, key, self._value(table, key, old), self._value(table, key, new))

    def _value(self, table: Table, key: Any, value: Any) -> Any:
        if value is None:
            return None
        if table == "objects":
            return ObjectInfo(**value)
        if table == "settings":
            return Settings(**value)
        if table == "masks":
            counts, score, iou, box, area = value
            run_lengths(self._rle(counts))
            return MaskEntry(counts, score, iou, tuple(box), area)
        if table == "prompts":
            return tuple(self._prompt(key, **each) for each in value)
        return value

    def _prompt(self, spot: Spot, mask: str | None = None, **parts: Any) -> Prompt:
        drawn = None if mask is None else decode_rle(self._rle(mask))
        prompt = Prompt(*spot, mask=drawn, **parts)
        prompt.check_inside(self._size)
        return prompt

    def _rle(self, counts: str) -> RLE:
        return RLE(size=list(self._size), counts=counts)


def _step(name: str) -> str:
    return json.dumps({"step": name}) + "\n"


def _written(value: Any) -> Any:
    """A value of a table as it is in a line."""
    if isinstance(value, ObjectInfo | Settings):
        return asdict(value)
    if isinstance(value, MaskEntry):
        return [value.counts, value.score, value.iou, [*value.box], value.area]
    if isinstance(value, tuple):
        return [_written_prompt(prompt) for prompt in value]
    return value or None


def _written_prompt(prompt: Prompt) -> dict[str, Any]:
    drawn = {} if prompt.mask is None else {"mask": encode_rle(np.asarray(prompt.mask))["counts"]}
    return {**parts_of(prompt), **drawn}
