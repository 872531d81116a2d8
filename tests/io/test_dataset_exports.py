"""COCO, YOLO, MOT, MOTS and cut-outs, read back by the tools that they are for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO
from trackeval.datasets.mots_challenge import MOTSChallenge

from tempomask.errors import InputError
from tempomask.io.dataset_exports import polygon
from tempomask.io.journal import VideoInfo
from tempomask.io.records import FrameRecord
from tempomask.io.writer import ResultWriter
from tempomask.results import mask_boxes
from tempomask.rle import encode_rle

SIZE = (40, 60)
Mask = NDArray[np.bool_]


def masks_of(frame: int) -> NDArray[np.bool_]:
    """Object 2, a disc that moves; object 7, a ring of two parts that overlaps it on frame 1."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    disc = (rows - 20) ** 2 + (columns - 15 - 3 * frame) ** 2 <= 81
    other = np.zeros(SIZE, dtype=bool)
    if frame:
        other[5:30, 26:40], other[12:20, 30:36], other[32:36, 50:55] = True, False, True
    return np.stack([disc, other])


def record(frame: int, name: str | None = None) -> FrameRecord:
    masks = masks_of(frame)
    return FrameRecord(
        frame, SIZE, (2, 7), tuple(encode_rle(mask) for mask in masks), mask_boxes(masks),
        np.array([3.0, 2.0], np.float32), np.array([0.7, 0.9], np.float32),
        masks.sum(axis=(1, 2)), np.ones(3, dtype=bool), name,
    )  # fmt: skip


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def written(*formats: str, count: int = 3) -> Path:
        info = VideoInfo(SIZE, 25.0, 4, {2: "a cup", 7: "ring"})
        with ResultWriter(tmp_path / "out", info, formats) as writer:
            for frame in range(count):
                image = np.full((*SIZE, 3), 10 * frame + 50, np.uint8)
                writer.add(image if writer.draws else None, record(frame))
        return tmp_path / "out"

    return written


def test_coco_is_read_by_pycocotools(write: Callable[..., Path]) -> None:
    data = COCO(write("coco") / "coco.json")
    assert {each["name"] for each in data.loadCats(data.getCatIds())} == {"a cup", "ring"}
    assert [image["file_name"] for image in data.loadImgs([0, 1, 2])][2] == "00002.jpg"
    assert len(data.anns) == 5  # the ring is not on frame 0
    for annotation in data.anns.values():
        mask = masks_of(annotation["image_id"])[[2, 7].index(annotation["category_id"])]
        assert np.array_equal(data.annToMask(annotation), mask)
        assert annotation["area"] == mask.sum()
        assert annotation["bbox"] == coco_masks.toBbox(annotation["segmentation"]).tolist()


def painted(points: NDArray[np.float64], size: tuple[int, int], fine: int = 8) -> Mask:
    """A polygon filled by PIL, `fine` times as large, and judged at the centres of pixels."""
    image = Image.new("1", (size[1] * fine, size[0] * fine))
    if len(points) >= 2:
        ImageDraw.Draw(image).polygon([tuple(point) for point in points * fine], fill=1)
    return np.asarray(image)[fine // 2 :: fine, fine // 2 :: fine]


def test_yolo_polygons_cover_the_masks(write: Callable[..., Path]) -> None:
    folder = write("yolo") / "yolo"
    assert '  0: "a cup"\n  1: "ring"\n' in (folder / "data.yaml").read_text()
    for frame in range(3):
        lines = (folder / "labels" / f"{frame:05d}.txt").read_text().splitlines()
        assert len(lines) == (1 if frame == 0 else 2)
        for line in lines:
            number, *values = line.split()
            points = np.array(values, float).reshape(-1, 2)
            assert (points >= 0).all() and (points <= 1).all()
            mask = masks_of(frame)[int(number)].copy()
            mask[12:20, 30:36] |= int(number) == 1  # a hole is filled
            found = painted(points * (SIZE[1], SIZE[0]), SIZE)
            assert (found & mask).sum() / (found | mask).sum() > 0.97


@given(arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_a_polygon_holds_the_centre_of_every_pixel(mask: Mask) -> None:
    points = polygon(mask)
    assert len(points) == 0 or (points.min() >= 0 and (points <= mask.shape[::-1]).all())
    assert (painted(points, mask.shape) | ~mask).all()
    assert (len(points) > 0) == mask.any()


def test_mot_has_a_line_an_object_seen(write: Callable[..., Path]) -> None:
    table = np.loadtxt(write("mot") / "mot.txt", delimiter=",")
    assert table.shape == (5, 10)
    assert table[:, :2].tolist() == [[1, 2], [2, 2], [2, 7], [3, 2], [3, 7]]
    x0, y0, x1, y1 = mask_boxes(masks_of(1))[1]
    assert table[2, 2:6].tolist() == [x0 + 1, y0 + 1, x1 - x0, y1 - y0]


def test_mots_is_read_by_trackeval(write: Callable[..., Path], tmp_path: Path) -> None:
    text = (write("mots") / "mots.txt").read_text()
    gt, found = tmp_path / "gt/MOTS-train/clip", tmp_path / "trackers/MOTS-train/ours/data"
    for folder in (gt / "gt", found):
        folder.mkdir(parents=True)
    (gt / "gt/gt.txt").write_text(text)
    (found / "clip.txt").write_text(text)
    (gt / "seqinfo.ini").write_text("[Sequence]\nseqLength=4\n")
    data = MOTSChallenge({
        "GT_FOLDER": str(tmp_path / "gt"), "TRACKERS_FOLDER": str(tmp_path / "trackers"),
        "SEQ_INFO": {"clip": 4}, "PRINT_CONFIG": False,
    })  # fmt: skip
    read = data.get_raw_seq_data("ours", "clip")
    assert [ids.tolist() for ids in read["tracker_ids"]] == [[2], [2, 7], [2, 7], []]
    # The better object keeps the pixels that both have.
    disc, ring = (coco_masks.decode(code).astype(bool) for code in read["tracker_dets"][1])
    assert np.array_equal(ring, masks_of(1)[1])
    assert np.array_equal(disc, masks_of(1)[0] & ~masks_of(1)[1])
    assert (masks_of(1).all(axis=0)).any()


def test_cut_outs_are_transparent_around_the_object(write: Callable[..., Path]) -> None:
    folder = write("cutouts") / "cutouts"
    pixels = np.asarray(Image.open(folder / "7" / "00002.png"))
    assert pixels.shape == (*SIZE, 4)
    assert np.array_equal(pixels[..., 3] == 255, masks_of(2)[1])
    assert (pixels[masks_of(2)[1]] == (70, 70, 70, 255)).all()
    assert not pixels[~masks_of(2)[1]].any()


def test_label_maps_of_records_give_overlaps_to_the_last(write: Callable[..., Path]) -> None:
    labels = np.asarray(Image.open(write("masks") / "masks" / "00001.png"))
    disc, ring = masks_of(1)
    assert np.array_equal(labels == 7, ring)
    assert np.array_equal(labels == 2, disc & ~ring)


def test_a_second_run_takes_the_place_of_the_first(write: Callable[..., Path]) -> None:
    everything = ("coco", "yolo", "mot", "mots", "cutouts")
    write(*everything, count=4)
    folder = write("mot", count=1)
    assert sorted(path.name for path in folder.iterdir()) == ["frames.jsonl", "mot.txt"]
    write(*everything, count=1)
    assert len(list((folder / "yolo/labels").iterdir())) == 1


def test_names_of_frames_lead_nowhere_else(tmp_path: Path) -> None:
    """As in a journal that somebody else has made."""
    with ResultWriter(tmp_path / "out", VideoInfo(SIZE)) as writer:
        writer.add(None, record(0))
    path = tmp_path / "out" / "frames.jsonl"
    head, line = path.read_text().splitlines()
    bad = json.dumps({**json.loads(line), "name": "../../evil"})
    path.write_text(f"{head}\n{bad}\n")
    with (
        pytest.raises(InputError, match="not a plain name"),
        ResultWriter(tmp_path / "out", VideoInfo(SIZE), ["yolo"], resume=True) as writer,
    ):
        writer.add(None, record(1))
