"""Reading data in YouTube-VIS format, checking it, and making clips of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tempomask.data.instance_clips import MEAN_COLOUR, ShortSides, VideoInstanceClips
from tempomask.data.segmentations import as_rle, mask_of
from tempomask.data.youtube_vis import YouTubeVIS
from tempomask.data.youtube_vis_check import check
from tempomask.errors import InputError
from tempomask.rle import encode_rle

MakeVideoSet = Callable[..., Path]
Content = dict[str, Any]


def test_reads_videos_classes_and_masks(video_set: MakeVideoSet) -> None:
    dataset = YouTubeVIS(video_set())
    assert dataset.classes == ("cat", "dog")
    assert dataset.labels == {3: 0, 7: 1}
    assert [(video.id, video.size, len(video), video.name) for video in dataset.videos] == [
        (1, (32, 48), 5, "video1"),
        (2, (32, 48), 5, "video2"),
    ]
    cat, dog = dataset.annotations(1)
    assert cat.seen.all() and dog.seen.tolist() == [False, False, True, True, True]
    assert cat.mask(1)[4:14, 7:19].all() and cat.mask(1).sum() == 120
    assert not dog.mask(0).any() and dog.rle(0) is None
    frames = list(dataset.frames(dataset.videos[0]))
    assert len(frames) == 5 and (frames[2][dog.mask(2)] == 150).all()


@pytest.mark.parametrize("place", ["JPEGImages", "instances/JPEGImages", "instances", "."])
def test_finds_the_images(video_set: MakeVideoSet, place: str) -> None:
    path = video_set()
    images = path.parent / "images"
    (path.parent / "JPEGImages").rename(images)
    target = path.parent / place
    target.mkdir(parents=True, exist_ok=True)
    for folder in images.iterdir():
        folder.rename(target / folder.name)
    dataset = YouTubeVIS(path)
    assert dataset.frame(dataset.videos[1], 4).shape == (32, 48, 3)


def test_a_validation_file_has_no_annotations(video_set: MakeVideoSet) -> None:
    dataset = YouTubeVIS(video_set(lambda content: content.update(annotations=None)))
    assert not dataset.annotated and dataset.annotations(1) == []
    with pytest.raises(InputError, match="no annotations"):
        VideoInstanceClips(dataset)


@pytest.mark.parametrize("kind", ["compressed", "listed"])
def test_all_kinds_of_masks(kind: str) -> None:
    mask = np.zeros((32, 48), dtype=bool)
    mask[4:14, 4:16] = True
    counts = [4 * 32 + 4, *[10, 22] * 11, 10, 32 * 32 + 18]
    segmentation: Any = {
        "compressed": encode_rle(mask),
        "listed": {"size": [32, 48], "counts": counts},
    }[kind]
    assert np.array_equal(mask_of(segmentation, (32, 48)), mask)


def test_nothing_is_an_empty_mask() -> None:
    assert as_rle(None, (4, 4)) is None and as_rle([], (4, 4)) is None
    assert not mask_of(None, (4, 4)).any()


@pytest.mark.parametrize(
    ("segmentation", "words"),
    [
        ("abc", "must be null"),
        ({"size": [4, 4]}, "must be null"),
        ({"size": [4, 5], "counts": "0"}, r"mask of \[H, W\] = \[4, 5\] in an image"),
        ({"size": [4, 4], "counts": 3}, "not text or a list"),
        ({"size": [4, 4], "counts": [3]}, "add up to 3, not to 16"),
        ([[4.0, 4.0, 16.0, 4.0, 16.0, 14.0]], "turn polygons into run lengths"),
    ],
)
def test_damaged_masks(segmentation: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        mask_of(segmentation, (4, 4))


def first(part: str, **values: Any) -> Callable[[Content], None]:
    """Set values of the first entry of a part."""
    return lambda content: content[part][0].update(values)


def without(part: str, key: str) -> Callable[[Content], None]:
    return lambda content: content[part][0].pop(key)


def mask_at(frame: int, value: Any) -> Callable[[Content], None]:
    return lambda content: content["annotations"][0]["segmentations"].__setitem__(frame, value)


STRUCTURE = [
    (first("annotations", video_id=9), "annotation 1 is of video 9, which the file does not list"),
    (first("annotations", category_id=9), "annotation 1 is of category 9"),
    (first("annotations", segmentations=[None]), "annotation 1 has 1 segmentations, but video 1"),
    (first("annotations", areas=[1.0]), "annotation 1 has 1 areas, but video 1 has 5 frames"),
    (first("annotations", areas=["a"] * 5), "annotation 1 has areas that are not numbers"),
    (first("annotations", segmentations=None), "annotation 1 lacks segmentations"),
    (first("annotations", id=2), "annotation 2 appears more than once"),
    (first("videos", length=4), "video 1 has length 4 but 5 file_names"),
    (first("videos", width="48"), "video 1 has width '48', not a whole number"),
    (first("videos", file_names=[1] * 5), "video 1 has file_names of which one is 1, not text"),
    (without("videos", "height"), "video 1 lacks height"),
    (without("categories", "name"), "category 7 lacks name"),
    (lambda content: content["annotations"].append(None), "annotation at place 4 is a NoneType"),
]


@pytest.mark.parametrize(("change", "words"), STRUCTURE)
def test_what_does_not_fit_together(video_set: MakeVideoSet, change: Any, words: str) -> None:
    path = video_set(change)
    with pytest.raises(InputError, match=words):
        YouTubeVIS(path)
    assert any(words in line for line in check(path))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (mask_at(0, {"size": [9, 48], "counts": "0"}), "annotation 1 of video 1, frame 0: a mask"),
        (mask_at(2, {"size": [32, 48], "counts": [7]}), "frame 2: a run-length encoding"),
        (mask_at(1, None), "annotation 1 of video 1, frame 1: no mask, but area 120"),
        (mask_at(1, [[1, 2]]), "annotation 1 of video 1, frame 1: a segmentation must be"),
        (
            mask_at(1, {"size": [32, 48], "counts": [32 * 48]}),
            "annotation 1 of video 1, frame 1: an empty mask",
        ),
        (first("annotations", areas=[120, 120, 120, 120, 60]), "120 pixels, but area 60"),
        (
            first("annotations", segmentations=[None] * 5, areas=[None] * 5),
            "annotation 1 of video 1 is not seen on any frame",
        ),
        (first("videos", width=40), "video 1, frame 0: "),
        (first("videos", file_names=["a.png"] * 5), "none of its 5 images"),
        (lambda content: content["annotations"].__delitem__(slice(2)), "video 1 (video1) has no"),
    ],
)
def test_the_check_names_the_place(video_set: MakeVideoSet, change: Any, words: str) -> None:
    lines = list(check(video_set(change)))
    assert any(words in line for line in lines), lines


def test_the_check_finds_nothing_wrong(video_set: MakeVideoSet) -> None:
    assert list(check(video_set(), decode=True)) == []


def test_the_check_looks_at_images(video_set: MakeVideoSet) -> None:
    path = video_set()
    images = path.parent / "JPEGImages"
    (images / "video1/00001.png").unlink()
    Image.new("RGB", (20, 10)).save(images / "video2/00003.png")
    cut = images / "video2/00004.png"
    cut.write_bytes(cut.read_bytes()[:-500])
    lines = list(check(path, decode=True))
    assert len(lines) == 3
    assert "video 1: no image" in lines[0] and "00001.png" in lines[0]
    assert "video 2, frame 3" in lines[1] and "20 x 10 pixels" in lines[1]
    assert "video 2, frame 4: cannot read the image" in lines[2]
    dataset = YouTubeVIS(path)
    for video, frame, words in ((0, 1, "no image"), (1, 3, "20 x 10 pixels")):
        with pytest.raises(InputError, match=words):
            dataset.frame(dataset.videos[video], frame)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "holds a list"),
        ('{"videos": []}', "has no list of videos"),
        ('{"videos": [{}]}', "has no list of categories"),
        (
            '{"videos": [{}], "categories": [{}], "annotations": 3}',
            "annotations that are not a list",
        ),
    ],
)
def test_other_files(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(InputError, match=words):
        YouTubeVIS(path)


def test_missing_places(video_set: MakeVideoSet, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read annotations"):
        YouTubeVIS(tmp_path / "none.json")
    with pytest.raises(InputError, match="folder of images"):
        YouTubeVIS(video_set(), tmp_path / "none")
    with pytest.raises(InputError, match="no video 5"):
        YouTubeVIS(video_set()).video(5)


def test_damaged_masks_name_the_annotation(video_set: MakeVideoSet) -> None:
    path = video_set(mask_at(2, {"size": [32, 48], "counts": [7]}))
    annotation = YouTubeVIS(path).annotations(1)[0]
    with pytest.raises(InputError, match=r"annotation 1, frame 2 of video 1 \(video1\)"):
        annotation.mask(2)


def test_whole_frames_as_clips(video_set: MakeVideoSet) -> None:
    dataset = YouTubeVIS(video_set())
    clips = VideoInstanceClips(dataset, image_size=96, num_frames=5, augment=False)
    assert len(clips) == 2 and clips.classes == ("cat", "dog")
    clip = clips[0]
    assert clip.frames.shape == (5, 96, 96, 3) and clip.labels.tolist() == [0, 1]
    assert clip.present.tolist() == [[True, t >= 2] for t in range(5)]
    # Twice the size, at the top left; black below the image.
    assert clip.masks[1, 0, 8:28, 14:38].all() and clip.masks[1, 0].sum() == 480
    assert not clip.frames[:, 64:].any() and clip.frames[0, :64].any()


def test_clips_depend_on_seed_and_index_alone(video_set: MakeVideoSet) -> None:
    dataset = YouTubeVIS(video_set())
    first_run, again, other = (
        VideoInstanceClips(dataset, image_size=64, seed=seed) for seed in (1, 1, 2)
    )
    one, two, three = first_run[5], again[5], other[5]
    assert np.array_equal(one.frames, two.frames) and np.array_equal(one.masks, two.masks)
    assert not np.array_equal(one.frames, three.frames)


def test_augmented_clips_keep_masks_on_their_objects(video_set: MakeVideoSet) -> None:
    dataset = YouTubeVIS(video_set())
    clips = VideoInstanceClips(dataset, image_size=96, num_frames=2)
    for index in range(12):
        clip = clips[index]
        assert clip.frames.shape == (2, 96, 96, 3)
        assert clip.present.any(axis=0).all()
        for t in range(2):
            cat = clip.masks[t][clip.labels == 0].any(axis=0)
            anything = clip.masks[t].any(axis=0)
            if cat.sum() > 200:
                assert clip.frames[t][cat].mean() > 2 * clip.frames[t][~anything].mean()


def test_clips_at_the_papers_short_sides(video_set: MakeVideoSet) -> None:
    """Frames of 32 x 48: whole, at one of two sizes, mirrored or not, filled up to 32s."""
    dataset = YouTubeVIS(video_set())
    sides = ShortSides((32, 64), longest=80)
    clips = VideoInstanceClips(dataset, num_frames=2, short_sides=sides)
    shapes, mirrored = set(), set()
    for index in range(0, 24, 2):
        clip = clips[index]
        shapes.add(clip.frames.shape[1:3])
        small = clip.frames.shape[1] == 32
        rows, columns = (32, 48) if small else (53, 80)  # 64 x 96, had it not been too long
        assert clip.frames.shape[1:3] == (32 * -(-rows // 32), 32 * -(-columns // 32))
        assert (clip.frames[:, :, columns:] == MEAN_COLOUR).all()
        assert (clip.frames[:, rows:] == MEAN_COLOUR).all()
        scale = rows / 32
        area = clip.masks[0, 0].sum() if len(clip.labels) else 0
        whole = dataset.annotations(1)[0].mask(0).sum()
        if clip.labels.tolist() == [0, 1]:
            assert area == pytest.approx(whole * scale**2, rel=0.12)
            mirrored.add(bool(np.argwhere(clip.masks[0, 0])[:, 1].mean() > columns / 2))
    assert shapes == {(32, 64), (64, 96)} and mirrored == {True, False}
    plain = VideoInstanceClips(dataset, image_size=96, augment=False, short_sides=sides)
    assert plain[0].frames.shape == (2, 96, 96, 3)
    rng = np.random.default_rng(0)
    views = [ShortSides((320,), crop=(20, 24)).view(rng, (32, 48)) for _ in range(200)]
    assert {view.part[3] for view in views} == set(range(20, 25)) == {v.part[2] for v in views}
    assert all(min(view.size) == 320 for view in views)
    assert {view.part[0] for view in views} >= {0, 24} and max(v.part[1] for v in views) == 12
    with pytest.raises(InputError, match="32 pixels"):
        ShortSides((16, 64))


def test_each_video_once_in_a_round(video_set: MakeVideoSet) -> None:
    def many(content: Content) -> None:
        video = content["videos"][0]
        content["videos"] = [{**video, "id": number} for number in range(1, 7)]
        annotation = content["annotations"][0]
        content["annotations"] = [
            {
                **annotation,
                "id": number,
                "video_id": number,
                # A mask of its own row for each video.
                "segmentations": [row_mask(number)] * 5,
            }
            for number in range(1, 7)
        ]

    def row_mask(number: int) -> Any:
        mask = np.zeros((32, 48), dtype=bool)
        mask[4 * number : 4 * number + 4] = True
        return encode_rle(mask)

    dataset = YouTubeVIS(video_set(many))
    clips = VideoInstanceClips(dataset, image_size=48, augment=False)
    for round_ in range(3):
        rows = [int(np.argwhere(clips[6 * round_ + i].masks[0, 0])[0, 0]) for i in range(6)]
        assert sorted(rows) == [4, 8, 12, 16, 20, 24]


def test_clips_that_cannot_be_made(video_set: MakeVideoSet) -> None:
    dataset = YouTubeVIS(video_set())
    with pytest.raises(InputError, match="6 frames"):
        VideoInstanceClips(dataset, num_frames=6)


def test_crowds_are_no_training_instances(video_set: MakeVideoSet) -> None:
    dataset = YouTubeVIS(video_set(first("annotations", iscrowd=1)))
    clips = VideoInstanceClips(dataset, image_size=48, num_frames=5, augment=False)
    by_video = {len(clips[index].labels) for index in range(2)}
    assert by_video == {1, 2}
    assert json.loads(dataset.path.read_text())["annotations"][0]["iscrowd"] == 1
