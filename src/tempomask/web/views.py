"""What the server tells a page, as JSON: a project, its changes, masks and the review list.

A mask on a frame is [object, predicted IoU, score, area, x0, y0, x1, y1], with its run-length code
behind these where a page is to draw it at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tempomask.io.prompt_file import parts_of
from tempomask.web.project import Project
from tempomask.web.review import review
from tempomask.web.state import MaskEntry, Spot, State, Table

if TYPE_CHECKING:
    from tempomask.web.room import Room

# Masks are sent at once with a change of so many frames; others are asked for when shown.
_AT_ONCE = 8
# Frames of one answer.
_MOST = 64


def project_view(room: Room) -> dict[str, Any]:
    """Everything but the masks."""
    project, state = room.project, room.project.state
    video = project.video
    return {
        "type": "project",
        "video": room.number,
        "name": video.name,
        "folder": str(project.folder),
        "width": video.size[1],
        "height": video.size[0],
        "num_frames": video.num_frames,
        "fps": video.fps,
        "objects": _objects(state),
        "prompts": [_prompts(state, spot) for spot in sorted(state.prompts)],
        "frames": [_frame(project, frame) for frame in sorted({*state.frames(), *state.blocks})],
        "routing": asdict(project.settings),
        "tracking": None if room.progress is None else room.progress.view(),
        **history_view(state),
    }


def change_view(project: Project, touched: Iterable[tuple[Table, Any]]) -> dict[str, Any]:
    """What a change has touched."""
    listed, state = list(touched), project.state
    spots = sorted({key for table, key in listed if table == "prompts"})
    frames = sorted({key for table, key in listed if table == "blocks"}
                    | {key.frame for table, key in listed if table == "masks"})  # fmt: skip
    return {
        "type": "change",
        "objects": _objects(state),
        "prompts": [_prompts(state, spot) for spot in spots],
        "frames": [_frame(project, frame, len(frames) <= _AT_ONCE) for frame in frames],
        "routing": asdict(project.settings),
        **history_view(state),
    }


def history_view(state: State) -> dict[str, Any]:
    """What undo and redo would do."""
    return {"undo": state.undo_label, "redo": state.redo_label}


def masks_view(project: Project, first: int, last: int) -> dict[str, Any]:
    """The masks of some frames, to be drawn."""
    end = min(last, first + _MOST - 1, project.video.num_frames - 1)
    frames = [_frame(project, frame, True) for frame in range(first, end + 1)]
    return {"type": "masks", "frames": frames}


def review_view(project: Project) -> dict[str, Any]:
    """The review list: object, reason, first, last and worst frame each."""
    by_object: dict[int, dict[int, MaskEntry]] = {i: {} for i in project.state.objects}
    for spot, entry in project.state.masks.items():
        by_object[spot.object_id][spot.frame] = entry
    return {"type": "review", "items": review(by_object)}


def mask_row(object_id: int, entry: MaskEntry, drawn: bool) -> list[Any]:
    """A mask as pages take it."""
    row = [object_id, entry.iou, entry.score, entry.area, *entry.box]
    return [*row, entry.counts] if drawn else row


def _frame(project: Project, frame: int, drawn: bool = False) -> list[Any]:
    masks = project.state.masks_on(frame)
    rows = [mask_row(i, entry, drawn) for i, entry in masks.items()]
    return [frame, rows, project.state.blocks.get(frame, "")]


def _objects(state: State) -> list[dict[str, Any]]:
    return [asdict(info) for info in state.objects.values()]


def _prompts(state: State, spot: Spot) -> list[Any]:
    return [*spot, [parts_of(prompt) or {"mask": True} for prompt in state.prompts.get(spot, ())]]
