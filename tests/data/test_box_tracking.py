"""LaSOT, GOT-10k and OTB layouts, and files that do not fit."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tempomask.data.box_tracking import BoxTrackingData, read_boxes
from tempomask.errors import InputError, InputWarning


def images(folder: Path, count: int, first: int = 1, digits: int = 8) -> None:
    folder.mkdir(parents=True)
    for number in range(first, first + count):
        frame = np.full((20, 30, 3), number % 256, np.uint8)
        Image.fromarray(frame).save(folder / f"{number:0{digits}d}.jpg", quality=95)


def boxes(count: int) -> str:
    return "".join(f"{k},2,10,8\n" for k in range(count))


@pytest.fixture
def lasot(tmp_path: Path) -> Path:
    for name, count in (("bird-2", 4), ("bird-10", 3), ("bus-5", 5)):
        folder = tmp_path / name.split("-")[0] / name
        images(folder / "img", count)
        (folder / "groundtruth.txt").write_text(boxes(count))
        (folder / "full_occlusion.txt").write_text(",".join("01000"[:count]) + "\n")
        (folder / "out_of_view.txt").write_text(",".join("00100"[:count]) + "\n")
    return tmp_path


def test_lasot(lasot: Path) -> None:
    data = BoxTrackingData(lasot, "lasot")
    assert [(s.name, len(s)) for s in data] == [("bird-2", 4), ("bird-10", 3), ("bus-5", 5)]
    first = data.sequences[0]
    assert first.boxes[3].tolist() == [3, 2, 10, 8]
    assert first.visible.tolist() == [True, False, False, True]
    assert first.size == (20, 30) and first.first_box == (0, 2, 10, 10)
    assert next(first.frames()).shape == (20, 30, 3)


def test_lasot_lists(lasot: Path) -> None:
    (lasot / "testing_set.txt").write_text("bus-5\nbird-2\n")
    assert [s.name for s in BoxTrackingData(lasot, "lasot")] == ["bus-5", "bird-2"]
    (lasot / "mine.txt").write_text("bird-10\n")
    assert [s.name for s in BoxTrackingData(lasot, "lasot", "mine")] == ["bird-10"]
    chosen = BoxTrackingData(lasot, "lasot", sequences=["bird-2"])
    assert [s.name for s in chosen] == ["bird-2"]
    with pytest.raises(InputError, match="'theirs'"):
        BoxTrackingData(lasot, "lasot", "theirs")
    with pytest.raises(InputError, match="'bird-3'"):
        BoxTrackingData(lasot, "lasot", sequences=["bird-3"])


def test_one_class_or_sequence_folders_alone_will_do(lasot: Path) -> None:
    assert [s.name for s in BoxTrackingData(lasot / "bird", "lasot")] == ["bird-2", "bird-10"]


def test_got10k(tmp_path: Path) -> None:
    for split, name in (("val", "GOT-10k_Val_000001"), ("train", "GOT-10k_Train_000007")):
        images(tmp_path / split / name, 3)
        (tmp_path / split / name / "groundtruth.txt").write_text(boxes(3))
        (tmp_path / split / name / "absence.label").write_text("0\n0\n1\n")
        (tmp_path / split / name / "cover.label").write_text("8\n0\n8\n")
    (sequence,) = BoxTrackingData(tmp_path, "got10k")
    assert sequence.name == "GOT-10k_Val_000001"
    assert sequence.visible.tolist() == [True, False, False]
    (other,) = BoxTrackingData(tmp_path, "got10k", "train")
    assert other.name == "GOT-10k_Train_000007"
    with pytest.raises(InputError, match="'test'"):
        BoxTrackingData(tmp_path, "got10k", "test")


def test_the_test_set_of_got10k_cannot_be_scored(tmp_path: Path) -> None:
    images(tmp_path / "test" / "GOT-10k_Test_000001", 3)
    (tmp_path / "test" / "GOT-10k_Test_000001" / "groundtruth.txt").write_text(boxes(1))
    with pytest.raises(InputError, match="first frame only"):
        BoxTrackingData(tmp_path, "got10k")


def test_otb_with_ranges_several_objects_and_every_separator(tmp_path: Path) -> None:
    images(tmp_path / "Football1" / "img", 76, digits=4)
    (tmp_path / "Football1" / "groundtruth_rect.txt").write_text(boxes(74).replace(",", "\t"))
    images(tmp_path / "Jogging" / "img", 2, digits=4)
    for number in (1, 2):
        text = boxes(2).replace(",", " ").replace("2 10", f"{number} 10")
        (tmp_path / "Jogging" / f"groundtruth_rect.{number}.txt").write_text(text)
    images(tmp_path / "Human4" / "img", 2, digits=4)
    (tmp_path / "Human4" / "groundtruth_rect.1.txt").write_text("")
    (tmp_path / "Human4" / "groundtruth_rect.2.txt").write_text(boxes(2))
    data = BoxTrackingData(tmp_path, "otb")
    lengths = {s.name: len(s) for s in data}
    assert lengths == {"Football1": 74, "Human4": 2, "Jogging.1": 2, "Jogging.2": 2}
    assert data.sequences[3].boxes[0].tolist() == [0, 2, 10, 8]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2,3\n", "line 1: expected x,y,w,h, got '1,2,3'"),
        ("1,2,3,4\nbox\n", "line 2: expected"),
        ("1,2,3,4\n1,2,3,4\n", "4 images but 2 boxes"),
        ("40,2,10,8\n" * 4, "outside the 30 x 20 image"),
    ],
)
def test_files_that_do_not_fit(lasot: Path, text: str, message: str) -> None:
    for file in ("full_occlusion.txt", "out_of_view.txt"):
        (lasot / "bird" / "bird-2" / file).unlink()
    (lasot / "bird" / "bird-2" / "groundtruth.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        _ = BoxTrackingData(lasot, "lasot", sequences=["bird-2"]).sequences[0].first_box


def test_flags_of_another_length(lasot: Path) -> None:
    (lasot / "bus" / "bus-5" / "out_of_view.txt").write_text("0,0\n")
    data = BoxTrackingData(lasot, "lasot")
    assert [s.name for s in data] == ["bird-2", "bird-10"]
    assert "has 2 numbers for 5 frames" in data.flaws["bus-5"]


@pytest.mark.parametrize(
    "flawed", ["613,731,247,-11", "-1,-1,-1,-1", "nan,nan,nan,nan", "1 2 inf 4"]
)
def test_flawed_boxes_count_as_absent(lasot: Path, flawed: str) -> None:
    truth = lasot / "bus" / "bus-5" / "groundtruth.txt"
    lines = truth.read_text().splitlines()
    truth.write_text("\n".join([*lines[:4], flawed]) + "\n")
    with pytest.warns(InputWarning, match="bus-5: 1 .*frame 4"):
        (sequence,) = BoxTrackingData(lasot, "lasot", sequences=["bus-5"])
    assert sequence.visible.tolist() == [True, False, False, True, False]
    assert sequence.boxes[4].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(("lines", "used"), [(4, 4), (6, 5)])
def test_lengths_off_by_one(lasot: Path, lines: int, used: int) -> None:
    folder = lasot / "bus" / "bus-5"
    (folder / "groundtruth.txt").write_text(boxes(lines))
    (folder / "out_of_view.txt").write_text("1,0,0,0,0\n")
    with pytest.warns(InputWarning, match=f" 5 .* {lines} .* {used} "):
        (sequence,) = BoxTrackingData(lasot, "lasot", sequences=["bus-5"])
    assert len(sequence) == len(sequence.boxes) == used
    assert sequence.visible.tolist() == [False, False, True, True, True][:used]


def test_wrong_places(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        BoxTrackingData(tmp_path / "nothing", "otb")
    with pytest.raises(InputError, match="no sequences .*otb"):
        BoxTrackingData(tmp_path, "otb")
    with pytest.raises(InputError, match="layout"):
        BoxTrackingData(tmp_path, "vot")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="OTB"):
        BoxTrackingData(tmp_path, "otb", "tb50")
    with pytest.raises(InputError, match="cannot read"):
        read_boxes(tmp_path / "nothing.txt")


@pytest.fixture
def trackingnet(tmp_path: Path) -> Path:
    """Frames are called by numbers without leading zeros; the test set has first boxes only."""
    for split, names in (("TEST", "ab"), ("TRAIN_0", "c"), ("TRAIN_3", "d")):
        for name in names:
            images(tmp_path / split / "frames" / name, 12, first=0, digits=1)
            (tmp_path / split / "anno").mkdir(exist_ok=True)
            count = 1 if split == "TEST" else 12
            (tmp_path / split / "anno" / f"{name}.txt").write_text(boxes(count))
    return tmp_path


def test_trackingnet(trackingnet: Path) -> None:
    data = BoxTrackingData(trackingnet, "trackingnet", "TRAIN")
    assert [(s.name, len(s)) for s in data] == [("c", 12), ("d", 12)]
    assert [p.stem for p in data.sequences[0].images] == [str(k) for k in range(12)]
    assert [s.name for s in BoxTrackingData(trackingnet, "trackingnet", "TRAIN_3")] == ["d"]
    assert [s.name for s in BoxTrackingData(trackingnet / "TRAIN_0", "trackingnet")] == ["c"]
    test = BoxTrackingData(trackingnet, "trackingnet", first_only=True)
    assert [(s.name, len(s), s.scored) for s in test] == [("a", 12, False), ("b", 12, False)]
    assert test.sequences[0].first_box == (0, 2, 10, 10)
    with pytest.raises(InputError, match="first frame only.*--submission"):
        BoxTrackingData(trackingnet, "trackingnet")
    with pytest.raises(InputError, match="no split 'VAL'.*TEST, TRAIN_0, TRAIN_3"):
        BoxTrackingData(trackingnet, "trackingnet", "VAL")


def test_got10k_takes_what_its_list_names(tmp_path: Path) -> None:
    for name in "ab":
        images(tmp_path / "test" / name, 3)
        (tmp_path / "test" / name / "groundtruth.txt").write_text(boxes(1))
    (tmp_path / "test" / "list.txt").write_text("b\nc\n")
    data = BoxTrackingData(tmp_path, "got10k", first_only=True)
    assert [s.name for s in data] == ["b"] and "groundtruth.txt" in data.flaws["c"]


def corners(count: int, step: int = 1) -> str:
    """Lines of NfS: a number, left, top, right, bottom and more."""
    rows = (f'0 {k // step} 2 {k // step + 10} 10 {k} 0 0 0 "a b"\n' for k in range(count))
    return "".join(rows)


@pytest.mark.parametrize("lines", [16, 15, 9, 2])
def test_nfs_at_30_takes_every_eighth_of_240(tmp_path: Path, lines: int) -> None:
    images(tmp_path / "car" / "30" / "car", 2)
    (tmp_path / "car" / "30" / "car.txt").write_text(corners(lines, 8 if lines > 2 else 1))
    (sequence,) = BoxTrackingData(tmp_path, "nfs")
    assert sequence.boxes.tolist() == [[0, 2, 10, 8], [1, 2, 10, 8]]


def test_nfs_at_240_may_be_off_by_one(tmp_path: Path) -> None:
    images(tmp_path / "car" / "240" / "car", 16)
    (tmp_path / "car" / "240" / "car.txt").write_text(corners(17))
    with pytest.warns(InputWarning, match="16 .*17 .*16 "):
        (sequence,) = BoxTrackingData(tmp_path, "nfs", "240")
    assert sequence.boxes[15].tolist() == [15, 2, 10, 8]
    with pytest.raises(InputError, match="no split '60'"):
        BoxTrackingData(tmp_path, "nfs", "60")
    with pytest.raises(InputError, match="no sequences .*nfs"):
        BoxTrackingData(tmp_path, "nfs")
    (tmp_path / "car" / "240" / "car.txt").write_text("0 1 2 3\n")
    with pytest.raises(InputError, match="line 1: "):
        BoxTrackingData(tmp_path, "nfs", "240")


def uav123(root: Path, name: str, count: int, text: str, version: str = "UAV123") -> None:
    folder = root / "data_seq" / "UAV123" / re.sub(r"_\d$", "", name)
    if not folder.exists():
        images(folder, count, digits=6)
    (root / "anno" / version).mkdir(parents=True, exist_ok=True)
    (root / "anno" / version / f"{name}.txt").write_text(text)


def test_uav123_has_sequences_that_are_parts_of_videos(tmp_path: Path) -> None:
    uav123(tmp_path, "truck4_1", 600, boxes(577))
    uav123(tmp_path, "truck4_2", 600, boxes(24).replace("3,2,10,8\n", "NaN,NaN,NaN,NaN\n", 1))
    uav123(tmp_path, "car1_s", 5, boxes(5))
    whole, first, second = BoxTrackingData(tmp_path, "uav123")
    assert (whole.name, first.name, second.name) == ("car1_s", "truck4_1", "truck4_2")
    assert (len(whole), len(first), len(second)) == (5, 577, 24)
    assert first.images[-1] == second.images[0] and second.images[0].stem == "000577"
    assert second.visible.tolist() == [True] * 3 + [False] + [True] * 20
    assert not second.boxes[3].any()
    uav123(tmp_path, "truck4", 600, boxes(600), "UAV20L")
    assert [(s.name, len(s)) for s in BoxTrackingData(tmp_path, "uav123", "UAV20L")] == [
        ("truck4", 600)
    ]


def test_uav123_that_does_not_fit(tmp_path: Path) -> None:
    uav123(tmp_path, "truck4_2", 590, boxes(24))
    with pytest.raises(InputError, match="truck4_2 .*14 .*24 "):
        BoxTrackingData(tmp_path, "uav123")
    uav123(tmp_path, "truck4_3", 590, boxes(24))
    with pytest.raises(InputError, match="parts 1 to 2"):
        BoxTrackingData(tmp_path, "uav123", sequences=["truck4_3"])
    uav123(tmp_path, "truck4_1", 590, boxes(577))
    (tmp_path / "anno" / "UAV123" / "boat1.txt").write_text(boxes(3))
    data = BoxTrackingData(tmp_path, "uav123")
    assert "there is no folder" in data.flaws["boat1"]
    assert [s.name for s in data] == ["truck4_1"]


def test_the_extension_of_lasot_is_laid_out_as_lasot(lasot: Path) -> None:
    assert len(BoxTrackingData(lasot, "lasot-ext")) == 3
