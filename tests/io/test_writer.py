"""Result files: contents, order of frames, interruption, resuming, and what goes wrong."""

from __future__ import annotations

import csv
import errno
import json
import threading
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Never

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from tempomask.errors import InputError
from tempomask.io import writer as writers
from tempomask.io.containers import VideoWriter
from tempomask.io.exports import load_npz
from tempomask.io.images import read_mask
from tempomask.io.journal import VideoInfo, open_journal
from tempomask.io.overlay import draw_overlay
from tempomask.io.records import record_of
from tempomask.io.result_folder import CHARTS, ResultFolder
from tempomask.io.result_folder import FORMATS as ALL_FORMATS
from tempomask.io.video import open_video
from tempomask.io.writer import ResultWriter

SIZE = (48, 128)
FORMATS = {name: each.file for name, each in ALL_FORMATS["track"].items()}
COUNT = 10


def results(
    directory: Path,
    formats: Any = ("masks",),
    *,
    video: Any = None,
    size: tuple[int, int] = SIZE,
    num_frames: int | None = None,
    names: Any = None,
    settings: Any = None,
    **options: Any,
) -> ResultWriter:
    """A writer of the results of a video, or of one of a size."""
    info = VideoInfo(size, None, num_frames, names or {}, settings or {})
    if video is not None:
        info = replace(VideoInfo.of(video, info.settings), names=info.names)
    return ResultWriter(directory, info, formats, video=video, **options)


@pytest.fixture
def frames(numbered_frame: Callable[..., Any]) -> list[np.ndarray]:
    return [numbered_frame(index) for index in range(COUNT)]


@pytest.fixture
def run(frames: Any, moving: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    """A function that writes frames to tmp_path / "out" and gives the paths."""

    def write(formats: Any, order: Any = range(COUNT), **options: Any) -> Any:
        options.setdefault("video", open_video(frames))
        with results(tmp_path / "out", formats, **options) as writer:
            for index in order:
                writer.add(frames[index], moving(index))
        return writer.finish()

    return write


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def hidden(folder: Path) -> list[str]:
    return [name for name in names(folder) if "part" in name or name.startswith(".")]


def test_all_formats_are_named_and_nothing_else_is_left(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    paths = run(FORMATS)
    out = tmp_path / "out"
    assert paths.pop("frames") == out / "frames.jsonl"
    assert paths == {name: out / file for name, file in FORMATS.items()}
    assert {path.name for path in out.iterdir()} == {*FORMATS.values(), "boxes", "frames.jsonl"}
    assert not hidden(tmp_path)
    assert not [t for t in threading.enumerate() if t.name == "tempomask-writer"]


def test_masks_and_objects(run: Callable[..., Any], moving: Callable[..., Any]) -> None:
    paths = run(["masks", "objects"])
    assert names(paths["masks"]) == [f"{i:05d}.png" for i in range(COUNT)]
    for index in range(COUNT):
        result = moving(index)
        np.testing.assert_array_equal(
            read_mask(paths["masks"] / f"{index:05d}.png"), result.label_map()
        )
        for object_id, mask in zip((1, 7), result.masks, strict=True):
            saved = read_mask(paths["objects"] / str(object_id) / f"{index:05d}.png")
            np.testing.assert_array_equal(saved, mask)


def test_rle_is_coco_with_videos(run: Callable[..., Any], moving: Callable[..., Any]) -> None:
    data = json.loads(run(["rle"], range(2, 8), names={7: "cup"})["rle"].read_text())
    names = [f"{index:05d}.jpg" for index in range(8)]
    assert data["videos"] == [
        {"id": 1, "width": 128, "height": 48, "length": 8, "file_names": names}
    ]
    assert [(a["id"], a["name"]) for a in data["annotations"]] == [(1, "1"), (7, "cup")]
    for row, annotation in enumerate(data["annotations"]):
        for key in ("segmentations", "areas", "bboxes", "scores", "predicted_ious"):
            # Nothing after the last frame that was tracked.
            assert len(annotation[key]) == 8 < COUNT, key
        for index, rle in enumerate(annotation["segmentations"]):
            mask = moving(index).masks[row]
            if index not in range(2, 8):
                assert (rle, annotation["areas"][index]) == (None, None)
            elif not mask.any():
                assert (rle, annotation["areas"][index]) == (None, 0)
                assert annotation["scores"][index] == -5
            else:
                expected = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
                assert rle == {"size": [48, 128], "counts": expected["counts"].decode()}
                assert annotation["areas"][index] == mask.sum()
                assert annotation["bboxes"][index] == coco.toBbox(expected).tolist()
    assert data["annotations"][0]["score"] == pytest.approx(0.9)


def test_a_line_of_box_for_each_frame_of_the_video(
    run: Callable[..., Any], moving: Callable[..., Any]
) -> None:
    """As box tracking benchmarks want it: x,y,w,h, zeros before and after what was tracked."""
    folder = run(["boxes"], range(2, 8))["boxes"].with_suffix("")
    assert names(folder) == ["1.txt", "7.txt"]
    for place, object_id in enumerate((1, 7)):
        lines = (folder / f"{object_id}.txt").read_text().splitlines()
        assert len(lines) == COUNT and lines[0] == lines[-1] == "0,0,0,0"
        for index in range(2, 8):
            x0, y0, x1, y1 = moving(index).boxes[place]
            assert lines[index] == f"{x0:g},{y0:g},{x1 - x0:g},{y1 - y0:g}"


def test_boxes_and_arrays(run: Callable[..., Any], moving: Callable[..., Any]) -> None:
    paths = run(["npz", "boxes"])
    arrays = load_npz(paths["npz"])
    np.testing.assert_array_equal(arrays["frames"], range(COUNT))
    np.testing.assert_array_equal(arrays["object_ids"], [1, 7])
    assert arrays["masks"].shape == (COUNT, 2, *SIZE)
    with paths["boxes"].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * COUNT
    for index in range(COUNT):
        result = moving(index)
        np.testing.assert_array_equal(arrays["masks"][index], result.masks)
        np.testing.assert_array_equal(arrays["boxes"][index], result.boxes)
        np.testing.assert_allclose(arrays["object_scores"][index], result.object_scores)
        np.testing.assert_array_equal(arrays["blocks"][index], result.blocks)
        for row, box in zip(rows[2 * index : 2 * index + 2], result.boxes, strict=True):
            assert int(row["frame"]) == index
            corners = [row[key] for key in ("x0", "y0", "x1", "y1")]
            assert corners == ([f"{v:g}" for v in box] if box.any() else [""] * 4)
    assert [row["object"] for row in rows[:2]] == ["1", "7"]


def test_objects_that_come_later(tmp_path: Path, make_result: Callable[..., Any]) -> None:
    one, two = np.zeros((2, *SIZE), bool)
    one[2:5, 3:9] = two[7:9, 8:12] = True
    with results(tmp_path, ["npz", "rle"]) as writer:
        writer.add(None, make_result(0, {5: one}, SIZE))
        writer.add(None, make_result(1, {5: one, 2: two}, SIZE))
        writer.add(None, make_result(2, {}, SIZE))
    arrays = load_npz(tmp_path / "masks.npz")
    assert arrays["object_ids"].tolist() == [2, 5]
    assert np.isnan(arrays["object_scores"]).tolist() == [[True, False], [False, False], [True] * 2]
    np.testing.assert_array_equal(arrays["masks"][1], [two, one])
    assert not arrays["masks"][2].any()
    tracks = json.loads((tmp_path / "rle.json").read_text())["annotations"]
    assert [[bool(s) for s in a["segmentations"]] for a in tracks] == [
        [False, True, False],
        [True, True, False],
    ]


def overlays(path: Path) -> dict[int, np.ndarray]:
    return dict(open_video(path).frames())


@pytest.mark.parametrize("order", [range(COUNT), range(COUNT - 1, -1, -1), [4, 5, 6, 3, 2]])
def test_the_overlay_is_in_the_order_of_the_video(
    run: Callable[..., Any], frames: Any, moving: Callable[..., Any], order: Any
) -> None:
    drawn = overlays(run(["overlay"], order)["overlay"])
    assert len(drawn) == len(order)
    for position, index in enumerate(sorted(order)):
        expected = draw_overlay(frames[index], moving(index)).astype(int)
        assert np.abs(drawn[position] - expected).mean() < 6
        for other in {index - 1, index + 1} & set(range(COUNT)):
            different = draw_overlay(frames[other], moving(other)).astype(int)
            assert (
                np.abs(drawn[position] - expected).mean()
                < np.abs(drawn[position] - different).mean()
            )


def test_an_overlay_out_of_order_needs_the_video_again(
    run: Callable[..., Any], frames: Any
) -> None:
    with pytest.raises(InputError, match="frames out of order .* cannot be read again"):
        run(["overlay"], [1, 0], video=None)


def test_one_id_above_255_makes_16_bit_masks(
    tmp_path: Path, make_result: Callable[..., Any]
) -> None:
    mask = np.zeros(SIZE, bool)
    mask[3:9, 4:8] = True
    with results(tmp_path) as writer:
        writer.add(None, make_result(0, {300: mask}, SIZE))
    assert set(np.unique(read_mask(tmp_path / "masks" / "00000.png"))) == {0, 300}


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
def test_what_is_finished_when_a_run_stops_is_whole(
    tmp_path: Path, frames: Any, moving: Callable[..., Any], stop: Any
) -> None:
    with pytest.raises(stop), results(tmp_path, FORMATS, video=open_video(frames)) as writer:
        for index in range(COUNT):
            if index == 4:
                raise stop
            writer.add(frames[index], moving(index))
    assert len(overlays(tmp_path / "overlay.mp4")) == 4
    assert names(tmp_path / "masks") == [f"{i:05d}.png" for i in range(4)]
    assert load_npz(tmp_path / "masks.npz")["frames"].tolist() == [0, 1, 2, 3]
    tracks = json.loads((tmp_path / "rle.json").read_text())["annotations"]
    assert sum(rle is not None for rle in tracks[0]["segmentations"]) == 4
    assert not hidden(tmp_path)


def test_nothing_is_left_of_a_run_without_frames(tmp_path: Path, frames: Any) -> None:
    with results(tmp_path / "out", FORMATS, video=open_video(frames)) as writer:
        pass
    assert writer.finish() == {}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("backward", [False, True])
def test_resuming_gives_the_files_of_an_unbroken_run(
    tmp_path: Path, frames: Any, moving: Callable[..., Any], backward: Any
) -> None:
    order = list(range(COUNT))[:: -1 if backward else 1]

    def write(folder: Path, order: Any, resume: Any) -> Any:
        video = open_video(frames)
        writer = results(folder, FORMATS, video=video, resume=resume, settings={"model": "nano"})
        point = writer.resume_at(backward)
        for index in order:
            if index not in writer.finished:
                writer.add(frames[index], moving(index))
        writer.finish()
        return point

    assert write(tmp_path / "whole", order, False) is None
    assert write(tmp_path / "parts", order[:4], True) is None
    point = write(tmp_path / "parts", order, True)
    assert point == order[4]
    assert write(tmp_path / "parts", order, True) == (-1 if backward else COUNT)
    assert names(tmp_path / "parts") == names(tmp_path / "whole")
    for name in ("rle.json", "boxes.csv"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    whole, parts = (overlays(tmp_path / name / "overlay.mp4") for name in ("whole", "parts"))
    assert len(whole) == len(parts) == COUNT
    np.testing.assert_allclose(
        np.stack(list(parts.values())), np.stack(list(whole.values())), atol=24
    )


def test_resuming_after_a_crash(
    run: Callable[..., Any], tmp_path: Path, moving: Callable[..., Any]
) -> None:
    out = tmp_path / "out"
    run(["masks"], range(6))
    journal = out / "frames.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:6]) + lines[6][:25])  # frame 5 was being written
    (out / "masks" / "00003.png").unlink()
    writer = results(out, ["masks"], num_frames=COUNT, resume=True)
    assert writer.finished == {0, 1, 2, 4}
    assert writer.resume_at() == 3
    assert journal.read_bytes() == b"".join(lines[:6]) + lines[6][:25]
    for index in (3, 5):
        writer.add(None, moving(index))
    writer.finish()
    assert journal.read_bytes() == b"".join(lines[:6] + [lines[4], lines[6]])
    assert [record.index for record in open_journal(journal).records()] == list(range(6))


def test_resuming_something_else_is_refused(
    run: Callable[..., Any], tmp_path: Path, frames: Any
) -> None:
    run(["masks"], range(3), settings={"model": "nano", "points": [[1, 2]]})
    out = tmp_path / "out"
    same = {"model": "nano", "points": [(1, 2)]}
    other = {**same, "model": "tiny"}
    results(out, settings=same, resume=True).finish()
    table = [
        ({"size": (4, 4), "settings": same}, "128 x 48 pixels, this one has 4 x 4"),
        (
            {"settings": other},
            "model='nano', this run has 'tiny'",
        ),
        ({"settings": {"model": "nano"}}, "points="),
    ]
    for options, message in table:
        with pytest.raises(InputError, match=message):
            results(out, resume=True, **options)
    with pytest.raises(InputError, match="resuming with an overlay needs the video"):
        results(out, ["overlay"], settings=same, resume=True)
    (out / "frames.jsonl").write_text("hello\n")
    with pytest.raises(InputError, match="finished frames"):
        results(out, resume=True)


def test_a_new_run_takes_the_place_of_the_old_and_spares_the_rest(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    run(FORMATS)
    keep = tmp_path / "out" / "masks" / "my own.png"
    keep.write_bytes(b"mine")
    for name in CHARTS.values():
        (tmp_path / "out" / name).write_bytes(b"of the old run")
    paths = run(["masks"], range(2))
    assert set(paths) == {"masks", "frames"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"masks", "frames.jsonl"}
    files = [n for n in names(tmp_path / "out") if not n.startswith("frames")]
    assert files == ["masks/00000.png", "masks/00001.png", "masks/my own.png"]


def test_output_folders_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(InputError, match="file is a file"):
            results(path)

    def forbid(*_: Any, **__: Any) -> Never:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("pathlib.Path.mkdir", forbid)
    with pytest.raises(InputError, match="out is not writable"):
        results(tmp_path / "out")


@pytest.mark.parametrize("place", ["write_label_png", "draw_overlay", "journal"])
def test_a_full_disk_keeps_what_is_finished(
    tmp_path: Path,
    frames: Any,
    moving: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    place: Any,
) -> None:
    def fail_at_three(function: Any) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if counter.append(1) or len(counter) > 3:
                raise OSError(errno.ENOSPC, "No space left on device")
            return function(*args, **kwargs)

        counter: list[int] = []
        return call

    if place == "journal":
        monkeypatch.setattr(writers.Journal, "add", fail_at_three(writers.Journal.add))
    else:
        monkeypatch.setattr(writers, place, fail_at_three(getattr(writers, place)))
    with (
        pytest.raises(InputError, match="space .*out"),
        results(
            tmp_path / "out", ["masks", "overlay", "boxes"], video=open_video(frames)
        ) as writer,
    ):
        for index in range(COUNT):
            writer.add(frames[index], moving(index))
    assert open_journal(tmp_path / "out" / "frames.jsonl").finished == {0, 1, 2}
    assert len(overlays(tmp_path / "out" / "overlay.mp4")) in (3, 4)
    assert not hidden(tmp_path)


def test_a_line_that_does_not_fit_is_taken_back(tmp_path: Path, moving: Callable[..., Any]) -> None:
    writer = results(tmp_path, [])
    journal = writer.journal
    journal.add(record_of(moving(0)))
    before = journal.path.read_bytes()
    plain = journal._file

    class Full:
        def __init__(self) -> None:
            self.calls = 0

        def write(self, data: bytes) -> Any:
            self.calls += 1
            if self.calls > 1:
                raise OSError(errno.ENOSPC, "No space left on device")
            return plain.write(data[:10])

        def __getattr__(self, name: str) -> Any:
            return getattr(plain, name)

    journal._file = Full()
    with pytest.raises(OSError):
        journal.add(record_of(moving(1)))
    assert journal.path.read_bytes() == before
    writer.finish()


def test_what_a_writer_refuses(
    tmp_path: Path, frames: Any, moving: Callable[..., Any], make_result: Callable[..., Any]
) -> None:
    with pytest.raises(InputError, match="'gif'"):
        results(tmp_path, ["gif"])
    writer = results(tmp_path, "overlay")
    with pytest.raises(InputError, match="needs the frame"):
        writer.add(None, moving(0))
    with pytest.raises(InputError, match="4 x 4 .*128 x 48"):
        writer.add(frames[0], make_result(0, {}, (4, 4)))
    writer.finish()
    with pytest.raises(InputError, match="finished"):
        writer.add(frames[0], moving(0))


def test_frames_may_be_reused_by_the_caller(
    tmp_path: Path, frames: Any, moving: Callable[..., Any]
) -> None:
    buffer = np.empty_like(frames[0])
    with results(tmp_path, ["overlay"], queue=50) as writer:
        for index in range(COUNT):
            buffer[:] = frames[index]
            writer.add(buffer, moving(index))
            buffer[:] = 0
    for index, drawn in overlays(tmp_path / "overlay.mp4").items():
        expected = draw_overlay(frames[index], moving(index)).astype(int)
        assert np.abs(drawn - expected).mean() < 6


def test_a_run_without_frames_leaves_the_earlier_one_as_it_is(
    run: Callable[..., Any], tmp_path: Path, frames: Any
) -> None:
    run(FORMATS)
    before = {name: (tmp_path / "out" / name).read_bytes() for name in names(tmp_path / "out")}
    with results(tmp_path / "out", FORMATS, video=open_video(frames)) as writer:
        pass
    assert writer.finish() == {}
    after = {name: (tmp_path / "out" / name).read_bytes() for name in names(tmp_path / "out")}
    assert after == before


def test_input_is_not_overwritten(run: Callable[..., Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(["masks", "overlay"])
    for source in (out / "overlay.mp4", out / "masks"):
        before = names(out)
        with (
            open_video(source) as video,
            pytest.raises(InputError, match="would overwrite or mingle with the input"),
        ):
            results(out, ["boxes"], video=video)
        assert names(out) == before
    with (
        open_video(out / "masks") as video,
        pytest.raises(InputError, match="mingle with the input"),
    ):
        results(out / "masks", ["boxes"], video=video)


@pytest.mark.parametrize("name", ["masks/00000.png", "boxes.csv", "overlay.mp4"])
def test_files_that_no_run_recorded_are_not_overwritten(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"mine")
    with pytest.raises(InputError, match="earlier run"):
        results(tmp_path, ["masks"])
    assert path.read_bytes() == b"mine" and names(tmp_path) == [name]


def test_images_called_after_those_of_the_source(
    frames: Any, moving: Callable[..., Any], tmp_path: Path
) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    for index in range(4):
        Image.fromarray(frames[index]).save(folder / f"{5 * index:03d}_left.png")
    stems = [f"{5 * index:03d}_left" for index in range(4)]

    def write(out: Any, order: Any, **options: Any) -> ResultWriter:
        with open_video(folder) as video:
            with results(out, ["masks", "objects", "boxes"], video=video, **options) as writer:
                for index in order:
                    writer.add(None, moving(index))
            return writer

    out = tmp_path / "out"
    write(out, range(2), named=True)
    assert names(out / "masks") == [f"{stem}.png" for stem in stems[:2]]
    assert names(out / "objects" / "7") == [f"{stem}.png" for stem in stems[:2]]
    assert write(out, range(2, 4), named=True, resume=True).finished == {0, 1}
    assert names(out / "masks") == [f"{stem}.png" for stem in stems]
    with (out / "boxes.csv").open() as file:
        assert {(row["frame"], row["name"]) for row in csv.DictReader(file)} == {
            (str(index), stem) for index, stem in enumerate(stems)
        }
    assert [r.name for r in open_journal(out / "frames.jsonl").records()] == stems
    with pytest.raises(InputError, match="named=True"):
        write(out, [], resume=True)
    # Numbers take the place of the names.
    write(out, range(2))
    assert names(out / "masks") == ["00000.png", "00001.png"]
    assert [r.name for r in open_journal(out / "frames.jsonl").records()] == stems[:2]
    with pytest.raises(InputError, match="the list of frames cannot be called after"):
        results(tmp_path / "new", video=open_video(frames), named=True)


@pytest.mark.parametrize("name", ["../../precious", "/precious", "..", "", "a\\b"])
def test_names_that_lead_out_of_the_folder_touch_nothing(
    run: Callable[..., Any], tmp_path: Path, name: str
) -> None:
    """An earlier run's journal may come from anybody; its results are removed by a new run."""
    run(["masks"], range(1))
    precious, journal = tmp_path / "precious.png", tmp_path / "out" / "frames.jsonl"
    precious.write_bytes(b"mine")
    head, line = (json.loads(line) for line in journal.read_text().splitlines())
    head["settings"]["named"], line["name"] = True, name
    journal.write_text(f"{json.dumps(head)}\n{json.dumps(line)}\n")
    with pytest.raises(InputError, match="plain name"):
        run(["masks"], range(1))
    assert precious.read_bytes() == b"mine"


@pytest.mark.parametrize("name", ["masks", "objects", "objects/1", "overlay.mp4", "frames.jsonl"])
@pytest.mark.parametrize("resume", [False, True])
def test_links_that_lead_out_of_the_folder_are_refused(
    run: Callable[..., Any], tmp_path: Path, name: str, resume: bool
) -> None:
    """An earlier run's folder may come from anybody."""
    formats, out, victim = ["masks", "objects", "overlay"], tmp_path / "out", tmp_path / "victim"
    run(formats, range(2))
    victim.mkdir()
    (victim / "00000.png").write_bytes(b"mine")
    (out / name).rename(tmp_path / "moved")
    (out / name).symlink_to(victim if "." not in name else victim / "00000.png")
    with pytest.raises(InputError, match=f"{name} is a link that leads out of .*remove it"):
        run(formats, range(3), resume=resume)
    assert [path.read_bytes() for path in victim.iterdir()] == [b"mine"]
    # One that stays inside is a matter of taste.
    (out / name).unlink()
    (tmp_path / "moved").rename(out / "inside")
    (out / name).symlink_to(out / "inside")
    ResultFolder(out, "track").check()


@pytest.mark.parametrize(
    "part", [".tempomask.lock", ".probe.part", ".frames.jsonl.part", ".overlay.mp4.part"]
)
def test_links_in_the_place_of_parts_are_not_followed(
    run: Callable[..., Any], tmp_path: Path, part: str
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "victim").write_bytes(b"mine")
    (tmp_path / "out" / part).symlink_to(tmp_path / "victim")
    run(["masks", "overlay"], range(2))
    assert (tmp_path / "victim").read_bytes() == b"mine"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "frames.jsonl", "masks", "overlay.mp4",
    }  # fmt: skip


def test_the_overlay_has_the_times_and_the_shape_of_the_source(
    tmp_path: Path, make_result: Callable[..., Any]
) -> None:
    times = [0.0, 0.04, 0.5, 0.54, 2.0]
    with VideoWriter(tmp_path / "v.mp4", (48, 64), 25, Fraction(2)) as made:
        for seconds in times:
            made.add(np.zeros((48, 64, 3), np.uint8), seconds)
    mask = np.zeros((48, 64), bool)
    mask[4:20, 4:20] = True
    with open_video(tmp_path / "v.mp4") as video:
        info = VideoInfo.of(video, {})
        with ResultWriter(tmp_path / "out", info, ["overlay"], video=video) as writer:
            for index, frame in video.frames(1):
                writer.add(frame, make_result(index, {1: mask}, (48, 64)))
    with open_video(tmp_path / "out" / "overlay.mp4") as video:
        assert video.pixel_aspect == 2 and video.times is not None
        np.testing.assert_allclose(video.times, np.array(times[1:]) - times[1], atol=1e-4)
