"""Data for fine-tuning: every layout is read, mixed by weight, checked, and drawn from by seed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from tempomask.cli import main as cli
from tempomask.data.footage import (
    LAYOUTS,
    LabelMaps,
    Masklets,
    Photo,
    hold_out,
    layout_of,
    open_set,
)
from tempomask.data.footage_clips import ClipChanges, FootageClips
from tempomask.errors import InputError
from tempomask.rle import encode_rle

HEIGHT, WIDTH, FRAMES = 48, 64, 6
PLAIN = ClipChanges(mirrored=0.0, degrees=0.0, shear=0.0, colours=None)


def labels(index: int) -> np.ndarray:
    """Two squares, of which the second comes on the third frame."""
    found = np.zeros((HEIGHT, WIDTH), np.uint8)
    found[8:24, 4 + 3 * index : 24 + 3 * index] = 1
    if index >= 2:
        found[28:44, 30:50] = 2
    return found


def image(index: int) -> np.ndarray:
    shades = np.array([20, 230, 130], np.uint8)[labels(index)]
    return np.stack([shades, shades, shades // 2], axis=2)


def write_pairs(images: Path, annotations: Path, frames: int = FRAMES) -> None:
    for folder in (images, annotations):
        folder.mkdir(parents=True)
    for index in range(frames):
        Image.fromarray(image(index)).save(images / f"{index:05d}.jpg", quality=95)
        Image.fromarray(labels(index)).save(annotations / f"{index:05d}.png")


def davis(root: Path) -> Path:
    for name in ("cow", "dog"):
        write_pairs(root / "JPEGImages/480p" / name, root / "Annotations/480p" / name)
    (root / "ImageSets/2017").mkdir(parents=True)
    (root / "ImageSets/2017/train.txt").write_text("cow\ndog\n")
    return root


def mose(root: Path) -> Path:
    for name in ("a1", "b2"):
        write_pairs(root / "train/JPEGImages" / name, root / "train/Annotations" / name)
    return root


def youtube_vos(root: Path) -> Path:
    mose(root)
    every = [f"{index:05d}" for index in range(FRAMES)]
    objects = {"1": {"category": "cow", "frames": every}, "2": {"frames": every[2:]}}
    content = {"videos": {name: {"objects": objects} for name in ("a1", "b2")}}
    (root / "train/meta.json").write_text(json.dumps(content))
    return root


def sav(root: Path) -> Path:
    """Videos of 21 frames, of which every fourth is annotated."""
    for name in ("sav_000001", "sav_000002"):
        folder = root / "sav_000"
        folder.mkdir(parents=True, exist_ok=True)
        with av.open(str(folder / f"{name}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=24)
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            stream.options = {"crf": "1"}
            for number in range(4 * (FRAMES - 1) + 1):
                frame = av.VideoFrame.from_ndarray(image(number // 4), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        rows = [[encode_rle(labels(k) == i) for i in (1, 2)] for k in range(FRAMES)]
        (folder / f"{name}_manual.json").write_text(json.dumps({"masklet": rows}))
    return root


def coco(root: Path) -> Path:
    root.mkdir()
    annotations = [
        {"image_id": index, "segmentation": encode_rle(labels(index) == i)}
        for index in (2, 3)
        for i in (1, 2)
    ]
    for index in (2, 3):
        Image.fromarray(image(index)).save(root / f"{index}.png")
    images = [{"id": index, "file_name": f"{index}.png"} for index in (2, 3)]
    (root / "coco.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    return root / "coco.json"


def sa1b(root: Path) -> Path:
    root.mkdir()
    for index in (2, 3):
        Image.fromarray(image(index)).save(root / f"sa_{index}.jpg", quality=95)
        rows = [{"segmentation": encode_rle(labels(index) == i), "area": 1} for i in (1, 2)]
        (root / f"sa_{index}.json").write_text(json.dumps({"annotations": rows}))
    return root


WRITERS: dict[str, Callable[[Path], Path]] = {
    "davis": davis,
    "youtube-vos": youtube_vos,
    "mose": mose,
    "sav": sav,
    "coco": coco,
    "sa1b": sa1b,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_read_and_known_by_its_files(layout: str, tmp_path: Path) -> None:
    root = WRITERS[layout](tmp_path / "set")
    assert layout_of(root) == layout
    found = open_set(str(root))
    assert (found.layout, found.weight, len(found.items)) == (layout, 1.0, 2)
    kind = {"sav": Masklets, "coco": Photo, "sa1b": Photo}.get(layout, LabelMaps)
    item = found.items[0]
    assert isinstance(item, kind) and found.moves == (kind is not Photo)
    indices = [0] if kind is Photo else [1, 2, 5]
    assert item.count == (1 if kind is Photo else FRAMES)
    for index, one in zip([2] if kind is Photo else indices, item.read(indices), strict=True):
        truth = labels(index)
        assert len(one.masks) == len(np.unique(truth)) - 1
        for number, mask in zip(sorted(one.masks), (1, 2), strict=False):
            np.testing.assert_array_equal(one.masks[number], truth == mask)
        assert np.abs(one.image.astype(int) - image(index)).mean() < 8


def test_a_video_without_masks_of_all_objects_on_a_frame_skips_it(tmp_path: Path) -> None:
    root = sav(tmp_path / "set")
    path = root / "sav_000/sav_000001_manual.json"
    rows: Any = json.loads(path.read_text())
    rows["masklet"][2][1] = None
    path.write_text(json.dumps(rows))
    item = open_set(f"sav:{root}").items[0]
    assert item.count == FRAMES - 1
    np.testing.assert_array_equal(item.read([2])[0].masks[1], labels(3) == 2)


def clips_of(root: Path, num_frames: int = 3, seed: int = 1, **options: Any) -> FootageClips:
    most = options.pop("most_objects", 3)
    return FootageClips([open_set(str(root))], 64, num_frames, seed, most, **options)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_clips_show_their_objects(layout: str, tmp_path: Path) -> None:
    clips = clips_of(WRITERS[layout](tmp_path / "set"))
    counts = set()
    for index in range(6):
        clip = clips[index]
        again = clips[index]
        assert np.array_equal(clip.frames, again.frames) and np.array_equal(clip.masks, again.masks)
        assert clip.frames.shape == (3, 64, 64, 3) and clip.masks.shape[1:] == (3, 64, 64)
        assert clip.masks[:, 0].any(axis=(1, 2)).all()
        # What is masked is bright, whatever was done to the clip; the rest is dark.
        inside = clip.masks.any(axis=0)
        assert (
            clip.frames[inside].mean()
            > 1.5 * clip.frames[~inside & (clip.frames[..., 0] < 60)].mean()
        )
        counts.add(len(clip.masks))
    assert counts == ({2} if layout == "coco" else {1, 2}) or layout == "sa1b"
    other = clips_of(tmp_path / "set" / ("coco.json" if layout == "coco" else ""), seed=2)
    assert any(not np.array_equal(clips[i].frames, other[i].frames) for i in range(3))


def test_unchanged_clips_are_the_files(tmp_path: Path) -> None:
    clip = clips_of(mose(tmp_path / "set"), num_frames=FRAMES, changes=PLAIN)[0]
    assert clip.masks.shape[0] == 1, "the second object is not on the first frame"
    expected = np.stack([labels(i) == 1 for i in range(FRAMES)])
    assert np.abs(clip.masks[0].mean(axis=(1, 2)) - expected.mean(axis=(1, 2))).max() < 0.02


def test_single_images_keep_masks_that_overlap(tmp_path: Path) -> None:
    root = sa1b(tmp_path / "set")
    whole = np.ones((HEIGHT, WIDTH), bool)
    for index in (2, 3):
        masks = [whole, labels(index) == 1]
        rows = [{"segmentation": encode_rle(mask)} for mask in masks]
        (root / f"sa_{index}.json").write_text(json.dumps({"annotations": rows}))
    clip = clips_of(root, num_frames=1, changes=PLAIN)[0]
    assert clip.masks.shape == (2, 1, 64, 64)
    assert clip.masks.sum(axis=0).max() == 2
    assert clips_of(root, num_frames=1, most_objects=1)[0].masks.shape[0] == 1


def test_sets_are_drawn_from_by_weight(tmp_path: Path) -> None:
    first, second = davis(tmp_path / "one"), mose(tmp_path / "two")
    sets = [open_set(f"davis:{first}@3"), open_set(str(second))]
    assert [one.weight for one in sets] == [3.0, 1.0]
    clips = FootageClips(sets, 32, 2, 1, 1, PLAIN)
    sources = [clips[index].source for index in range(80)]
    share = sum(source in ("cow", "dog") for source in sources) / 80
    assert share == pytest.approx(0.75, abs=0.12)


def test_what_is_held_out_is_not_drawn(tmp_path: Path) -> None:
    sets = [open_set(str(davis(tmp_path / "one"))), open_set(str(mose(tmp_path / "two")))]
    rest, held = hold_out(sets, ["dog"])
    assert [item.name for item in held] == ["dog"]
    assert [[item.name for item in one.items] for one in rest] == [["cow"], ["a1", "b2"]]
    assert hold_out(sets, None)[1] == [], "four videos are too few to hold one out unasked"
    with pytest.raises(InputError, match="'dogs'.* dog"):
        hold_out(sets, ["dogs"])
    with pytest.raises(InputError, match="nothing is left"):
        hold_out(sets, ["dog", "cow"])


def drop(path: str) -> Callable[[Path], None]:
    return lambda root: (root / path).unlink()


HARMS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "a frame without mask": (
        "davis",
        drop("Annotations/480p/dog/00003.png"),
        "00003.jpg has no ann",
    ),
    "a mask without frame": (
        "mose",
        drop("train/JPEGImages/a1/00003.jpg"),
        "00003.png has no frame",
    ),
    "a listed frame": (
        "youtube-vos",
        lambda root: [
            drop(f"train/{p}/a1/00004.{e}")(root)
            for p, e in (("JPEGImages", "jpg"), ("Annotations", "png"))
        ],
        "no frame 00004",
    ),
    "a video without masks": (
        "sav",
        drop("sav_000/sav_000002_manual.json"),
        "has no sav_000002_man",
    ),
    "masks without video": ("sav", drop("sav_000/sav_000002.mp4"), "has no video sav_000002.mp4"),
    "an image of COCO": ("coco", lambda path: (path.parent / "2.png").unlink(), "no image '2.png'"),
    "an image of SA-1B": ("sa1b", drop("sa_2.jpg"), "there is no sa_2.jpg"),
    "a file of SA-1B": ("sa1b", drop("sa_2.json"), "there is no sa_2.json"),
    "nothing at all": ("davis", shutil.rmtree, "no such file or folder"),
}


@pytest.mark.parametrize(("layout", "harm", "message"), HARMS.values(), ids=HARMS)
def test_what_does_not_pair_is_one_line(
    layout: str, harm: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    root = WRITERS[layout](tmp_path / "set")
    harm(root)
    with pytest.raises(InputError, match=message) as error:
        open_set(str(root))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("daviz:DATA", "unknown layout 'daviz'; did you mean davis"),
        ("davis:{root}@0", "weight"),
        ("davis:{root}@-1", "weight"),
        ("{root}", "cannot tell the layout of .*; say it"),
        ("davis:{root}", "JPEGImages is missing"),
        ("sav:{root}", "there is nothing in layout sav"),
    ],
)
def test_sets_that_cannot_be_opened(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        open_set(text.format(root=tmp_path))


def test_clips_longer_than_every_video_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="9 annotated frames"):
        clips_of(davis(tmp_path / "set"), num_frames=9)
    with pytest.raises(InputError, match="fewer than 9 frames"):
        clips_of(sav(tmp_path / "sav"), num_frames=9)[0]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_data_check_of_every_layout(
    layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = WRITERS[layout](tmp_path / "set")
    if layout == "davis":  # where scores leave out what comes later
        for path in root.glob("Annotations/*/*/*.png"):
            Image.fromarray((np.asarray(Image.open(path)) == 1).astype(np.uint8)).save(path)
    named = ("--layout", layout)
    assert cli.main(["data", "check", str(root), *named, "--decode"]) == 0
    assert capsys.readouterr().out.strip() == "nothing wrong"
    folder = root.parent if layout == "coco" else root
    path = next(
        iter(sorted([*folder.rglob("*.png"), *folder.rglob("*.jpg"), *folder.rglob("*.mp4")]))
    )
    path.write_bytes(path.read_bytes()[:20])
    assert cli.main(["data", "check", str(root), *named]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines and all(path.stem in line or path.parent.name in line for line in lines)
