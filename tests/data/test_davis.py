"""Reading DAVIS roots of every layout, and saying what is wrong with one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tempomask.data.davis import Davis
from tempomask.errors import InputError, InputWarning


def write_sequence(
    root: Path, name: str, masks: list[np.ndarray], resolution: str = "480p", stem: str = "{:05d}"
) -> None:
    for part in ("JPEGImages", "Annotations"):
        (root / part / resolution / name).mkdir(parents=True)
    for index, mask in enumerate(masks):
        frame = np.full((*mask.shape, 3), 10 * index, np.uint8)
        file = stem.format(index)
        Image.fromarray(frame).save(root / "JPEGImages" / resolution / name / f"{file}.jpg")
        Image.fromarray(mask).save(root / "Annotations" / resolution / name / f"{file}.png")


def write_list(root: Path, split: str, text: str) -> None:
    path = root / "ImageSets" / f"{split}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def mask_of(*values: int) -> np.ndarray:
    mask = np.zeros((8, 12), np.uint8)
    for i, value in enumerate(values):
        mask[2 * i : 2 * i + 2, :4] = value
    return mask


def names(*arguments: object, **options: object) -> list[str]:
    return [sequence.name for sequence in Davis(*arguments, **options)]  # type: ignore[arg-type]


@pytest.mark.parametrize("resolution", ["480p", "Full-Resolution", ""])
def test_reads_every_layout(tmp_path: Path, resolution: str) -> None:
    write_sequence(tmp_path, "cow", [mask_of(1, 2)] * 3, resolution)
    (sequence,) = Davis(tmp_path)
    assert (sequence.name, len(sequence)) == ("cow", 3)
    assert (sequence.size, sequence.object_ids) == ((8, 12), (1, 2))
    frames = list(sequence.frames())
    assert [frame.shape for frame in frames] == [(8, 12, 3)] * 3
    assert [int(frame.mean()) for frame in frames] == [0, 10, 20]
    assert np.array_equal(sequence.label_map(2), mask_of(1, 2))


def test_resolution_can_be_chosen(tmp_path: Path) -> None:
    write_sequence(tmp_path, "cow", [mask_of(1)] * 3, "480p")
    write_sequence(tmp_path, "cow", [np.kron(mask_of(2), np.ones((2, 2), np.uint8))] * 3, "1080p")
    assert next(iter(Davis(tmp_path))).size == (8, 12)
    assert next(iter(Davis(tmp_path, resolution="1080p"))).size == (16, 24)
    with pytest.raises(InputError, match="720p"):
        Davis(tmp_path, resolution="720p")


def test_frames_come_in_natural_order(tmp_path: Path) -> None:
    write_sequence(tmp_path, "cow", [mask_of(k + 1) for k in range(12)], stem="frame{}")
    (sequence,) = Davis(tmp_path)
    assert [path.stem for path in sequence.images] == [f"frame{k}" for k in range(12)]
    assert [int(sequence.label_map(k).max()) for k in range(12)] == list(range(1, 13))


def test_hidden_files_are_passed_over(tmp_path: Path) -> None:
    write_sequence(tmp_path, "cow", [mask_of(1)] * 3)
    for part, suffix in (("JPEGImages", "jpg"), ("Annotations", "png")):
        (tmp_path / part / "480p" / "cow" / f"._00000.{suffix}").write_bytes(b"x")
    assert len(next(iter(Davis(tmp_path)))) == 3


GREY, ONE, PALETTE = "L", "1", "P"


@pytest.mark.parametrize(
    ("mode", "values", "single", "expected"),
    [
        (GREY, (255,), False, {0, 1}),
        (GREY, (1, 2), False, {0, 1, 2}),
        (GREY, (1, 2), True, {0, 1}),
        (GREY, (1, 255), False, {0, 1}),
        (GREY, (1, 255), True, {0, 1}),
        (PALETTE, (1, 2), False, {0, 1, 2}),
        (PALETTE, (255,), False, {0}),
        (ONE, (1,), False, {0, 1}),
        ("RGB", (255,), False, {0, 1}),
        ("RGBA", (255,), False, {0, 1}),
        ("LA", (255,), False, {0, 1}),
    ],
)
def test_label_values(
    tmp_path: Path, mode: str, values: tuple[int, ...], single: bool, expected: set[int]
) -> None:
    write_sequence(tmp_path, "cow", [mask_of(*values)] * 3)
    labels = mask_of(*values)
    if mode == PALETTE:
        image = Image.fromarray(labels)
        image.putpalette(np.arange(768, dtype=np.uint8).tobytes())
    elif mode == ONE:
        image = Image.fromarray(labels > 0)
    else:
        image = Image.fromarray(labels).convert(mode)
    assert image.mode == mode
    image.save(tmp_path / "Annotations" / "480p" / "cow" / "00000.png")
    (sequence,) = Davis(tmp_path, single_object=single)
    found = sequence.label_map(0)
    assert found.dtype == np.int32
    assert set(np.unique(found).tolist()) == expected
    void = mode == PALETTE or len(values) > 1
    assert np.array_equal(found > 0, (labels > 0) & ((labels < 255) | (not void)))


def test_colour_annotation_is_refused(tmp_path: Path) -> None:
    write_sequence(tmp_path, "cow", [mask_of(1)] * 3)
    path = tmp_path / "Annotations" / "480p" / "cow" / "00000.png"
    Image.fromarray(np.full((8, 12, 3), (128, 0, 0), np.uint8)).save(path)
    with pytest.raises(InputError, match="00000.png"):
        next(iter(Davis(tmp_path))).label_map(0)


def test_splits_of_both_years(tmp_path: Path) -> None:
    for name in ("cow", "dog", "goat"):
        write_sequence(tmp_path, name, [mask_of(1, 2)] * 3)
    assert names(tmp_path) == ["cow", "dog", "goat"]
    write_list(tmp_path, "480p/val", "/JPEGImages/480p/dog/00000.jpg /Annotations/480p/dog/x.png\n")
    assert names(tmp_path) == names(tmp_path, "2016") == ["dog"]
    write_list(tmp_path, "2016/val", "goat\n")
    assert names(tmp_path) == names(tmp_path, "2016") == ["goat"]
    write_list(tmp_path, "2017/val", "dog\n\ncow\n")
    write_list(tmp_path, "2017/train", "goat\n")
    assert names(tmp_path) == names(tmp_path, "2017") == ["dog", "cow"]
    assert names(tmp_path, "2017/train") == ["goat"]
    assert names(tmp_path, "all") == ["cow", "dog", "goat"]
    assert names(tmp_path, "2017/val", ["goat"]) == ["goat"]
    with pytest.raises(InputError, match="val.txt"):
        Davis(tmp_path, "2018/val")
    (tmp_path / "ImageSets" / "2017" / "val.txt").write_bytes(b"\xff\xfe\n")
    with pytest.raises(InputError, match="val.txt is not text"):
        Davis(tmp_path, "2017/val")


def test_names_that_come_again_are_told(tmp_path: Path) -> None:
    for name in ("cow", "dog"):
        write_sequence(tmp_path, name, [mask_of(1)] * 2)
    write_list(tmp_path, "2017/val", "dog\ncow\ndog\ndog\n")
    with pytest.warns(InputWarning, match=r"val\.txt .* 2 .*dog") as told:
        assert names(tmp_path) == ["dog", "cow"]
    assert len(told) == 1
    with pytest.warns(InputWarning, match="list .* 1 .*cow"):
        assert names(tmp_path, "all", ["cow", "cow"]) == ["cow"]


def test_lists_of_2016_merge_objects(tmp_path: Path) -> None:
    write_sequence(tmp_path, "cow", [mask_of(1, 2)] * 3)
    write_list(tmp_path, "2016/val", "cow\n")
    write_list(tmp_path, "2017/val", "cow\n")
    assert next(iter(Davis(tmp_path, "2016"))).object_ids == (1,)
    assert next(iter(Davis(tmp_path, "2017"))).object_ids == (1, 2)
    assert next(iter(Davis(tmp_path, "2017", single_object=True))).object_ids == (1,)


def test_unknown_sequence_names_near_ones(tmp_path: Path) -> None:
    for name in ("blackswan", "cow"):
        write_sequence(tmp_path, name, [mask_of(1)] * 3)
    with pytest.raises(InputError, match="'blackswam'"):
        Davis(tmp_path, sequences=["cow", "blackswam"])
    with pytest.raises(InputError, match="'xyz'"):
        Davis(tmp_path, sequences=["xyz"])
    with pytest.raises(InputError, match="no sequence named"):
        Davis(tmp_path, sequences=[])
    assert names(tmp_path, sequences=["cow", "cow"]) == ["cow"]


def test_missing_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere"):
        Davis(tmp_path / "nowhere")
    with pytest.raises(InputError, match="JPEGImages"):
        Davis(tmp_path)
    root = tmp_path / "DAVIS"
    write_sequence(root, "cow", [mask_of(1)] * 3)
    for wrong in (tmp_path, root / "JPEGImages", root / "JPEGImages" / "480p"):
        with pytest.raises(InputError, match=r"DAVIS\?$"):
            Davis(wrong)
    (root / "Annotations").rename(root / "labels")
    with pytest.raises(InputError, match="Annotations is"):
        Davis(root)
    (root / "Annotations").mkdir()
    with pytest.raises(InputError, match="Annotations/480p"):
        Davis(root)
    (tmp_path / "empty" / "JPEGImages").mkdir(parents=True)
    (tmp_path / "empty" / "Annotations").mkdir()
    with pytest.raises(InputError, match="no sequences"):
        Davis(tmp_path / "empty")


def test_a_list_must_be_complete(tmp_path: Path) -> None:
    write_sequence(tmp_path, "cow", [mask_of(1)] * 3)
    write_list(tmp_path, "2017/val", "cow\ndog\ngoat\n")
    with pytest.raises(InputError, match="2 of the 3 .*dog"):
        Davis(tmp_path)
    write_list(tmp_path, "2017/val", "\n")
    with pytest.raises(InputError, match="val.txt"):
        Davis(tmp_path)


def test_frames_and_annotations_pair(tmp_path: Path) -> None:
    write_sequence(tmp_path, "cow", [mask_of(1)] * 3)
    images = tmp_path / "JPEGImages" / "480p" / "cow"
    annotations = tmp_path / "Annotations" / "480p" / "cow"
    (annotations / "00001.png").unlink()
    message = r"cow: frame 00001.jpg has no annotation \(3 frames, 2 annotations\)$"
    with pytest.raises(InputError, match=message):
        Davis(tmp_path)
    (annotations / "00002.png").unlink()
    with pytest.raises(InputError, match=r"cannot be scored$"):
        Davis(tmp_path)
    Image.fromarray(mask_of(1)).save(annotations / "00003.png")
    for index in (1, 2):
        (images / f"0000{index}.jpg").unlink()
    with pytest.raises(InputError, match="00003.png"):
        Davis(tmp_path)
    (images / "00000.jpg").unlink()
    with pytest.raises(InputError, match=r"no images"):
        Davis(tmp_path)
    annotations.rename(tmp_path / "gone")
    with pytest.raises(InputError, match="cow .*annotations"):
        Davis(tmp_path)


def test_bad_annotations(tmp_path: Path) -> None:
    write_sequence(tmp_path, "cow", [mask_of()] * 3)
    (sequence,) = Davis(tmp_path)
    with pytest.raises(InputError, match="00000.png"):
        _ = sequence.object_ids
    Image.fromarray(np.ones((8, 11), np.uint8)).save(sequence.annotations[1])
    with pytest.raises(InputError, match="00001.png"):
        sequence.label_map(1)
    sequence.annotations[2].write_bytes(b"no image")
    with pytest.raises(InputError, match=r"00002.png"):
        sequence.label_map(2)


def test_void_is_no_object_on_any_frame(tmp_path: Path) -> None:
    """Also where nothing but void is left, which looks like one object in white."""
    void = mask_of(1)
    void[-2:] = 255
    write_sequence(tmp_path, "cow", [void, np.where(void == 255, void, 0), mask_of(1)])
    (sequence,) = Davis(tmp_path)
    assert sequence.object_ids == (1,)
    assert [set(np.unique(sequence.label_map(i)).tolist()) for i in range(3)] == [
        {0, 1},
        {0},
        {0, 1},
    ]


def test_one_flawed_sequence_is_left_out_and_named(tmp_path: Path) -> None:
    for name in ("cow", "dog", "elk"):
        write_sequence(tmp_path, name, [mask_of(1)] * 3)
    labels = tmp_path / "Annotations" / "480p" / "dog"
    (labels / "00001.png").unlink()
    data = Davis(tmp_path)
    assert [sequence.name for sequence in data] == ["cow", "elk"]
    assert list(data.flaws) == ["dog"] and "00001.jpg has no annotation" in data.flaws["dog"]
    # Two files for one frame are a flaw too, whichever would be taken.
    Image.fromarray(mask_of(1)).save(labels / "00001.png")
    Image.fromarray(mask_of(1)).save(labels / "00001.tif")
    assert "two frames have the name 00001" in Davis(tmp_path).flaws["dog"]
