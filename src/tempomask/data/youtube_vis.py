"""YouTube-VIS 2019 and 2021, and OVIS: videos with the masks and the class of every instance.

One JSON file: `videos` {id, width, height, length, file_names}, `categories` {id, name} and
`annotations` {id, video_id, category_id, segmentations, areas, bboxes, iscrowd}, where each list
has one entry for every frame, null where the instance is not seen. Validation files of the
benchmarks come without annotations. Images lie in a folder beside it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tempomask.data.segmentations import as_rle, mask_of
from tempomask.errors import InputError
from tempomask.frames import Size
from tempomask.io.folder import read_image
from tempomask.rle import RLE

Part = dict[str, Any]
# Keys that every entry of a part of the file must have.
REQUIRED = {
    "videos": ("id", "width", "height", "file_names"),
    "categories": ("id", "name"),
    "annotations": ("id", "video_id", "category_id", "segmentations"),
}


@dataclass(frozen=True)
class VideoEntry:
    """One video: its id, size (H, W), and the images' names below the image folder."""

    id: int
    size: Size
    file_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.file_names)

    @property
    def name(self) -> str:
        """The folder of its images, or its number."""
        folder = Path(self.file_names[0]).parent.name if self.file_names else ""
        return folder or str(self.id)


@dataclass(frozen=True, eq=False)
class InstanceAnnotation:
    """One annotated instance through a video of T frames.

    segmentations: T entries as the file has them, None where it is not seen; see `rle` and `mask`.
    areas: T areas as the file has them, or None if it has none. is_crowd: it stands for a group,
    which the protocol does not score.
    """

    id: int
    video: VideoEntry
    category_id: int
    segmentations: tuple[Any, ...]
    areas: tuple[float | None, ...] | None
    is_crowd: bool

    def rle(self, frame: int) -> RLE | None:
        """Run-length encoding on a frame, None where it is not seen; InputError if damaged."""
        try:
            return as_rle(self.segmentations[frame], self.video.size)
        except InputError as error:
            raise InputError(f"{self._place(frame)}: {error}") from None

    def mask(self, frame: int) -> NDArray[np.bool_]:
        """bool (H, W) on a frame; all False where it is not seen; InputError if damaged."""
        try:
            return mask_of(self.segmentations[frame], self.video.size)
        except InputError as error:
            raise InputError(f"{self._place(frame)}: {error}") from None

    @cached_property
    def seen(self) -> NDArray[np.bool_]:
        """bool (T,): frames with a segmentation."""
        return np.array([bool(segmentation) for segmentation in self.segmentations], dtype=bool)

    def _place(self, frame: int) -> str:
        return f"annotation {self.id}, frame {frame} of video {self.video.id} ({self.video.name})"


class YouTubeVIS:
    """The videos of one annotation file.

    annotations: the JSON file. images: the folder that `file_names` start from; None looks for it
        beside the file: JPEGImages/, NAME/JPEGImages/ or NAME/ for annotations called NAME.json.

    videos: by ascending id. categories: name by id, ascending. annotated: the file has annotations.
    classes: names in that order, to which labels 0, 1, ... point.

    Raises InputError for a missing or damaged file and entries that do not fit together; images
    and masks are read only when asked for. `youtube_vis_check.check` lists everything wrong.
    """

    def __init__(self, annotations: str | Path, images: str | Path | None = None) -> None:
        self.path = Path(annotations)
        content = read_content(self.path)
        problem = next(structure_problems(content), None)
        if problem is not None:
            raise InputError(f"{self.path}: {problem}; `tempomask data check` lists everything")
        self.categories = {
            category["id"]: str(category["name"])
            for category in sorted(content["categories"], key=lambda category: category["id"])
        }
        self.videos = [
            VideoEntry(video["id"], (video["height"], video["width"]), tuple(video["file_names"]))
            for video in sorted(content["videos"], key=lambda video: video["id"])
        ]
        self._by_id = {video.id: video for video in self.videos}
        self.annotated = content.get("annotations") is not None
        self._tracks: dict[int, list[InstanceAnnotation]] = {}
        for entry in content.get("annotations") or ():
            annotation = _annotation(entry, self._by_id[entry["video_id"]])
            self._tracks.setdefault(entry["video_id"], []).append(annotation)
        self.images = image_folder(self.path, self.videos, images)

    def __len__(self) -> int:
        return len(self.videos)

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.categories.values())

    @cached_property
    def labels(self) -> dict[int, int]:
        """The label, 0 to C - 1, of each category id."""
        return {category: label for label, category in enumerate(self.categories)}

    def video(self, video_id: int) -> VideoEntry:
        """The video of an id; InputError if there is none."""
        if video_id not in self._by_id:
            raise InputError(f"no video {video_id} in {self.path}")
        return self._by_id[video_id]

    def annotations(self, video_id: int) -> list[InstanceAnnotation]:
        """The instances of a video, in the order of the file."""
        return self._tracks.get(video_id, [])

    def frame_path(self, video: VideoEntry, frame: int) -> Path:
        """Where a frame lies."""
        return self.images / video.file_names[frame]

    def frame(self, video: VideoEntry, frame: int) -> NDArray[np.uint8]:
        """Frame (H, W, 3), uint8 RGB; InputError if it is missing or has another size."""
        path = self.frame_path(video, frame)
        if not path.is_file():
            raise InputError(f"no image {path}, frame {frame} of video {video.id}; add it")
        image = read_image(path)
        if image.shape[:2] != video.size:
            raise InputError(
                f"{path} has {image.shape[1]} x {image.shape[0]} pixels, but video {video.id}"
                f" says {video.size[1]} x {video.size[0]}; take those that belong to the file"
            )
        return image

    def frames(self, video: VideoEntry) -> Iterator[NDArray[np.uint8]]:
        """All frames of a video in order, as of `frame`."""
        for index in range(len(video)):
            yield self.frame(video, index)


def read_content(path: Path) -> Part:
    """The object in a JSON file; InputError if there is none, or it lacks videos or categories."""
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read annotations {path}: {error.strerror or error}") from None
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}; the file may be cut off") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, not an object with videos")
    for part in ("videos", "categories"):
        if not isinstance(content.get(part), list) or not content[part]:
            raise InputError(f"{path} has no list of {part}; it is not in YouTube-VIS format")
    if not isinstance(content.get("annotations"), (list, type(None))):
        raise InputError(
            f"{path} has annotations that are no list; it is not in YouTube-VIS format"
        )
    return content


def structure_problems(content: Part) -> Iterator[str]:
    """What does not fit together among the entries of a file, one line each; masks not looked at.

    content: as of `read_content`.
    """
    for part in REQUIRED:
        yield from _entry_problems(part, content.get(part) or [])
    for video in _sound(content, "videos"):
        yield from _video_problems(video)
    videos = {video["id"]: video for video in _sound(content, "videos")}
    categories = {category["id"] for category in _sound(content, "categories")}
    for entry in _sound(content, "annotations"):
        yield from _annotation_problems(entry, videos, categories)


def image_folder(path: Path, videos: Sequence[VideoEntry], given: str | Path | None = None) -> Path:
    """The folder that the videos' file names start from; the first candidate if none holds them.

    Raises InputError for a given folder that is not there.
    """
    if given is not None:
        if not Path(given).is_dir():
            raise InputError(f"no such folder of images: {given}")
        return Path(given)
    # OVIS calls its files annotations_train.json, YouTube-VIS train.json or instances.json.
    stem = path.stem.removeprefix("annotations_").removesuffix("_annotations")
    beside = path.parent
    candidates = [beside / "JPEGImages", beside / stem / "JPEGImages", beside / stem, beside]
    if beside.name == "annotations":
        candidates += [beside.parent / stem / "JPEGImages", beside.parent / stem]
    first = next((video.file_names[0] for video in videos if video.file_names), None)
    if first is not None:
        for folder in candidates:
            if (folder / first).is_file():
                return folder
    return candidates[0]


def _sound(content: Part, part: str) -> Iterator[Part]:
    """The entries that have all they need."""
    for entry in content.get(part) or []:
        if isinstance(entry, dict) and _lacking(part, entry) is None:
            yield entry


def _lacking(part: str, entry: Part) -> str | None:
    for key in REQUIRED[part]:
        if entry.get(key) is None:
            return f"lacks {key}"
        whole = isinstance(entry[key], int) and not isinstance(entry[key], bool)
        if (key == "id" or key.endswith("_id") or key in ("width", "height")) and not whole:
            return f"has {key} {entry[key]!r}, not a whole number"
        if key in ("file_names", "segmentations") and not isinstance(entry[key], list):
            return f"has {key} that are no list"
    return None


def _entry_problems(part: str, entries: list[Any]) -> Iterator[str]:
    name = {"videos": "video", "categories": "category", "annotations": "annotation"}[part]
    seen: set[int] = set()
    for place, entry in enumerate(entries):
        if not isinstance(entry, dict):
            yield f"{name} at place {place} is a {type(entry).__name__}, not an object"
            continue
        lacking = _lacking(part, entry)
        if lacking is not None:
            yield f"{name} {entry.get('id', f'at place {place}')} {lacking}"
            continue
        if entry["id"] in seen:
            yield f"{name} {entry['id']} appears more than once"
        seen.add(entry["id"])


def _video_problems(video: Part) -> Iterator[str]:
    names = video["file_names"]
    if video["width"] < 1 or video["height"] < 1:
        yield f"video {video['id']} has {video['width']} x {video['height']} pixels"
    if not names:
        yield f"video {video['id']} has no frames"
    if not all(isinstance(name, str) for name in names):
        yield f"video {video['id']} has file_names that are not text"
    if video.get("length", len(names)) != len(names):
        yield f"video {video['id']} has length {video['length']} but {len(names)} file_names"


def _annotation_problems(
    entry: Part, videos: dict[int, Part], categories: set[int]
) -> Iterator[str]:
    name = f"annotation {entry['id']}"
    if entry["category_id"] not in categories:
        yield f"{name} is of category {entry['category_id']}, which the file does not list"
    if entry["video_id"] not in videos:
        yield f"{name} is of video {entry['video_id']}, which the file does not list"
        return
    length = len(videos[entry["video_id"]]["file_names"])
    for key in ("segmentations", "areas", "bboxes"):
        values = entry.get(key)
        if values is None:
            continue
        if not isinstance(values, list):
            yield f"{name} has {key} that are no list"
        elif len(values) != length:
            yield (
                f"{name} has {len(values)} {key}, but video {entry['video_id']} has {length} frames"
            )
    areas = entry.get("areas")
    if isinstance(areas, list) and not all(isinstance(a, (int, float, type(None))) for a in areas):
        yield f"{name} has areas that are not numbers"


def _annotation(entry: Part, video: VideoEntry) -> InstanceAnnotation:
    areas = entry.get("areas")
    return InstanceAnnotation(
        id=entry["id"],
        video=video,
        category_id=entry["category_id"],
        segmentations=tuple(entry["segmentations"]),
        areas=None if areas is None else tuple(areas),
        is_crowd=bool(entry.get("iscrowd", 0)),
    )
