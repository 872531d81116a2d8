"""Project folders: written, read again, shared with the command line, held by one process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tempomask import InputError, Prompt
from tempomask.errors import InputWarning
from tempomask.io.journal import Journal, VideoInfo, open_journal
from tempomask.io.prompt_file import read_prompts, write_prompts
from tempomask.web.clicker import entry_of_prompt
from tempomask.web.project import PROJECT, Project, VideoFacts, new_object
from tempomask.web.state import Change, Settings, Spot, Table

Open = Callable[[], Project]


def square(frame: int, object_id: int = 1, left: int = 10) -> Prompt:
    mask = np.zeros((60, 90), dtype=bool)
    mask[20:30, left : left + 12] = True
    return Prompt(frame, object_id, mask=mask)


def fill(project: Project) -> None:
    """Two objects: a click and a drawn mask, and masks on three frames."""
    click = Prompt(2, 2, points=[(30, 30), (50, 20)], labels=[1, 0])
    values: list[tuple[Table, object, object]] = [
        ("objects", 1, new_object(1, "a cup")),
        ("objects", 2, new_object(2)),
        ("prompts", Spot(0, 1), (square(0),)),
        ("prompts", Spot(2, 2), (square(2, 2), click)),
    ]
    for frame in range(3):
        values.append(("masks", Spot(frame, 1), entry_of_prompt(square(frame, left=10 + frame))))
        values.append(("blocks", frame, "110"))
    values.append(("masks", Spot(2, 2), entry_of_prompt(square(2, 2, 40))))
    change = project.state.change("all", values)
    assert change is not None
    project.save(change.touched)
    project.history.add(change, change.edits)


def test_a_project_comes_back_whole(open_project: Open) -> None:
    project = open_project()
    fill(project)
    speed = project.state.change("speed", [("settings", "speed", Settings(budget=0.6))])
    assert speed is not None
    project.save(speed.touched)
    before = project.state
    again = open_project()
    assert again.state.objects == before.objects
    assert again.state.prompts == before.prompts
    assert again.state.masks == before.masks
    assert again.state.blocks == before.blocks
    assert again.settings.budget == 0.6


def test_undo_reaches_the_disk(open_project: Open) -> None:
    project = open_project()
    fill(project)
    change = project.state.undo()
    assert change is not None
    project.save(change.touched)
    project.history.step("undo")
    again = open_project()
    assert not again.state.objects and not again.state.masks and not again.state.prompts
    assert not list((again.folder / "prompts").glob("*"))


def test_prompts_are_those_of_the_command_line(open_project: Open) -> None:
    project = open_project()
    fill(project)
    assert read_prompts(project.folder / "prompts.json") == project.state.all_prompts()


def test_a_line_that_was_cut_off_costs_that_frame_only(open_project: Open) -> None:
    project = open_project()
    fill(project)
    project.close()
    path = project.folder / "frames.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    assert set(open_project().state.frames()) == {0, 1}


def test_a_run_of_the_command_line_becomes_a_project(open_project: Open, facts: VideoFacts) -> None:
    folder = open_project().folder
    open_project().close()
    for name in ("project.json", "prompts.json", "frames.jsonl"):
        (folder / name).unlink()
    info = VideoInfo(facts.size, None, 12, {1: "cup"}, {"prompts": ["click"]}, facts.source)
    journal = Journal(folder / "frames.jsonl", info)
    maker = Project(folder, facts)
    maker.state.load("objects", {1: new_object(1)})
    for frame in (3, 4):
        maker.state.load("masks", {Spot(frame, 1): entry_of_prompt(square(frame))})
        journal.add(maker.record(frame))
    journal.close()
    project = open_project()
    assert [info.name for info in project.state.objects.values()] == ["cup"]
    assert project.state.frames() == [3, 4]
    # Its first mask stands in for prompts, so that it can be tracked again.
    assert project.state.all_prompts() == [square(3)]
    assert open_journal(folder / "frames.jsonl").info.settings == {"prompts": ["click"]}


def test_a_project_is_open_once(open_project: Open, facts: VideoFacts) -> None:
    project = open_project()
    with pytest.raises(InputError, match="another run .process .* is writing to"):
        Project.open(project.folder, facts)
    project.close()
    Project.open(project.folder, facts).close()


def test_links_that_lead_out_of_a_project_are_refused(open_project: Open, tmp_path: Path) -> None:
    """Masks that no prompt uses are removed from its folder; a project may come from anybody."""
    project = open_project()
    project.close()
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "1-2-3.png").write_bytes(b"mine")
    (project.folder / "prompts").symlink_to(tmp_path / "victim")
    with pytest.raises(InputError, match="prompts is a link that leads out of"):
        open_project()
    assert (tmp_path / "victim" / "1-2-3.png").exists()


def test_a_project_of_another_video_is_refused(open_project: Open, tmp_path: Path) -> None:
    project = open_project()
    project.close()
    other = VideoFacts("other.mp4", (60, 90), 13)
    with pytest.raises(InputError, match="13 of 90 x 60"):
        Project.open(project.folder, other)


@pytest.mark.parametrize("change", [{"tempomask_project": 9}, {"objects": [{"id": 1}]},
                                    {"size": None}, {"settings": {"path": 1}}])  # fmt: skip
def test_a_damaged_project_is_refused(open_project: Open, change: dict[str, object]) -> None:
    project = open_project()
    path = project.folder / PROJECT
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InputError, match="project.json: .*( not | has no | unknown )"):
        open_project()


def test_old_lines_are_cleared_away(open_project: Open) -> None:
    project = open_project()
    fill(project)
    for left in range(60):
        drawn = entry_of_prompt(square(0, left=left))
        project.save(project.state.change("x", [("masks", Spot(0, 1), drawn)]).touched)  # type: ignore[union-attr]
    last = dict(project.state.masks)
    again = open_project()
    assert len((again.folder / "frames.jsonl").read_text().splitlines()) == 4
    assert again.state.masks == last


def test_masks_of_prompts_lie_beside_the_file(tmp_path: Path) -> None:
    path = tmp_path / "prompts.json"
    write_prompts(path, [square(0), square(4, 2)])
    assert len(list((tmp_path / "prompts").iterdir())) == 2
    write_prompts(path, [square(4, 2), Prompt(4, 2, box=(1, 2, 30, 40))])
    assert len(list((tmp_path / "prompts").iterdir())) == 1
    assert read_prompts(path) == [square(4, 2), Prompt(4, 2, box=(1, 2, 30, 40))]


def test_the_way_back_comes_back(open_project: Open) -> None:
    project = open_project()
    fill(project)
    run = Change("track")
    for frame in range(3):
        values = [("masks", Spot(frame, 1), entry_of_prompt(square(frame, left=40)))]
        edits = project.state.extend(run, values)
        project.save([(edit.table, edit.key) for edit in edits])
        project.history.add(run, edits, ended=False)
        speed = project.state.change("speed", [("settings", "speed", Settings(fps=frame + 1.0))])
        assert speed is not None
        project.save(speed.touched)
        project.history.add(speed, speed.edits)
    # The process dies: the run has no end, the last line none either.
    with (project.folder / "history.jsonl").open("ab") as file:
        file.write(b'{"change": 99, "la')
    for _ in range(2):
        state = open_project().state
        assert [change.label for change in state.done] == [
            "all",
            "speed",
            "speed",
            "speed",
            "track",
        ]
        assert [len(change.edits) for change in state.done] == [11, 1, 1, 1, 3]
    state.undo()
    assert state.masks[Spot(1, 1)] == entry_of_prompt(square(1, left=11))
    for _ in range(4):
        state.undo()
    assert not state.objects and not state.prompts and not state.masks and not state.settings


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("history.jsonl", '"change"', '"chance"'),
        ("history.jsonl", '["objects",1,', '["objects",-1,'),
        ("history.jsonl", '["masks",', '["../masks",'),
        ("history.jsonl", '"mask":"', '"mask":"1'),
        ("history.jsonl", "}\n", '}\n{"step":"redo"}\n'),
        ("project.json", "a cup", "a mug"),
    ],
)
def test_a_way_that_leads_elsewhere_is_not_taken(
    open_project: Open, name: str, old: str, new: str
) -> None:
    fill(open_project())
    path = open_project().folder / name
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")
    with pytest.warns(InputWarning, match="undo begins anew"):
        state = open_project().state
    assert not state.done and len(state.objects) == 2
    assert open_project().state.objects == state.objects


@pytest.mark.parametrize("change", ['"budget": null, "speed": 1', '"budget": "0.6"', '"budget": 7'])
def test_settings_of_another_kind_are_one_line(open_project: Open, change: str) -> None:
    fill(open_project())
    path = open_project().folder / PROJECT
    path.write_text(path.read_text().replace('"budget": null', change))
    with pytest.raises(InputError, match=r"project\.json: settings") as caught:
        open_project()
    assert "__init__" not in str(caught.value)
