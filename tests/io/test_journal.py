"""The journal: both kinds of frames read as they were written, and what is not a journal."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tempomask.errors import InputError
from tempomask.io.journal import Journal, VideoInfo, open_journal
from tempomask.io.overlay import draw_overlay
from tempomask.io.records import record_of
from tempomask.io.writer import ResultWriter
from tempomask.results import FrameArrays, FrameResult, InstanceResult

SIZE = (12, 40)
CLASSES = ("cat", "dog")
SETTINGS = {"track": {}, "instances": {"task": "instances", "classes": list(CLASSES)}}


def masks(count: int) -> np.ndarray:
    found = np.zeros((count, *SIZE), bool)
    for i in range(count):
        found[i, i : i + 4, 3 * i : 3 * i + 5 + i] = True
    return found


def result_of(task: str, index: int, count: int) -> FrameResult | InstanceResult:
    scores = np.linspace(0.25, 0.75, count, dtype=np.float32)
    ran = np.array([True, index % 2 == 0, False])
    if task == "track":
        logits = np.where(masks(count), 4.0, -4.0).astype(np.float32)
        arrays = FrameArrays(logits, scores, 1 - scores)
        return FrameResult(index, SIZE, tuple(range(5, 5 + count)), arrays, ran)
    ids, labels = np.arange(5, 5 + count), np.arange(count) % 2
    return InstanceResult(index, SIZE, ids, labels, scores, masks(count), ran, CLASSES)


@pytest.mark.parametrize("task", ["track", "instances"])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_frame_is_read_as_it_was_written(tmp_path: Path, task: str, count: int) -> None:
    path = tmp_path / "frames.jsonl"
    journal = Journal(path, VideoInfo(SIZE, settings=SETTINGS[task]))
    for index in (4, 2):
        journal.add(record_of(result_of(task, index, count), f"image{index}"))
    journal.close()
    there = open_journal(path, task)
    assert (there.finished, there.length, there.info.task) == ({2, 4}, 5, task)
    for record in there.records():
        result = result_of(task, record.index, count)
        assert record.ids == tuple(range(5, 5 + count)) and record.name == f"image{record.index}"
        np.testing.assert_array_equal(record.masks, result.masks)
        np.testing.assert_array_equal(record.boxes, result.boxes)
        np.testing.assert_array_equal(record.areas, result.masks.sum((1, 2)))
        if isinstance(result, InstanceResult):
            assert record.names == result.names
            np.testing.assert_array_equal(record.blocks, result.layers)
            np.testing.assert_allclose(record.scores, result.scores, atol=1e-4)
        else:
            assert record.names == ()
            np.testing.assert_array_equal(record.blocks, result.blocks)
            np.testing.assert_allclose(record.scores, result.object_scores, atol=1e-4)
            np.testing.assert_allclose(record.predicted_iou, result.predicted_iou, atol=1e-4)


@pytest.mark.parametrize(("task", "objects"), [("track", "objects"), ("instances", "instances")])
@pytest.mark.parametrize("damage", ["no list", "no box", "no number"])
def test_a_damaged_line_is_named(tmp_path: Path, task: str, objects: str, damage: str) -> None:
    path = tmp_path / "frames.jsonl"
    journal = Journal(path, VideoInfo(SIZE, settings=SETTINGS[task]))
    journal.add(record_of(result_of(task, 0, 2)))
    journal.close()
    head, line = path.read_text().splitlines()
    content = json.loads(line)
    if damage == "no list":
        del content[objects]
    elif damage == "no box":
        del content[objects][1]["box"]
    else:
        content[objects][0]["id"] = "../.."
    path.write_text(f"{head}\n{json.dumps(content)}\n")
    with pytest.raises(InputError, match=rf"frames\.jsonl is damaged at byte {len(head) + 1} "):
        open_journal(path).record(0)


@pytest.mark.parametrize(("one", "other"), [("track", "instances"), ("instances", "track")])
@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_with_results_of_the_other_kind(
    tmp_path: Path, one: str, other: str, resume: bool
) -> None:
    with ResultWriter(tmp_path, VideoInfo(SIZE, settings=SETTINGS[one])) as writer:
        writer.add(None, result_of(one, 0, 2))
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with pytest.raises(InputError, match=f"`tempomask {one}`"):
        ResultWriter(tmp_path, VideoInfo(SIZE, settings=SETTINGS[other]), resume=resume)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_a_state_is_kept_after_the_frames_before_it(tmp_path: Path) -> None:
    info = VideoInfo(SIZE, settings=SETTINGS["instances"])
    with ResultWriter(tmp_path, info, []) as writer:
        writer.add(None, result_of("instances", 0, 1))
        writer.keep(b"after 0")
        writer.keep(None)
    again = ResultWriter(tmp_path, info, [], resume=True)
    assert again.state() == b"after 0"
    again.forget_state()
    assert again.state() is None
    again.finish()


@pytest.mark.parametrize("task", ["track", "instances"])
def test_a_record_is_drawn_as_its_result(task: str) -> None:
    frame, result = np.full((*SIZE, 3), 90, np.uint8), result_of(task, 0, 2)
    drawn = draw_overlay(frame, result)
    np.testing.assert_array_equal(drawn, draw_overlay(frame, record_of(result)))
    assert (drawn != draw_overlay(frame, result, names={5: "x", 6: "y"})).any()
