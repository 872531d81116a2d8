"""YouTube-VIS 2019 and 2021, and OVIS: videos with the masks and the class of every instance.

One JSON file: `videos` {id, width, height, length, file_names}, `categories` {id, name} and
`annotations` {id, video_id, category_id, segmentations, areas, bboxes, iscrowd}, where each list
has one entry for every frame, null where the instance is not seen. Validation files of the
benchmarks come without annotations. Images lie in a folder beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tempomask.data.segmentations import as_rle, mask_of
from tempomask.data.sequences import read_sized
from tempomask.errors import InputError, place
from tempomask.files import read_json
from tempomask.frames import Size, is_whole
from tempomask.limits import limits
from tempomask.rle import RLE
from tempomask.schema import inner_path

Part = dict[str, Any]
# What every entry of a part of the file must have, and of which type.
REQUIRED: dict[str, dict[str, type]] = {
    "videos": {"id": int, "width": int, "height": int, "file_names": list},
    "categories": {"id": int, "name": object},
    "annotations": {"id": int, "video_id": int, "category_id": int, "segmentations": list},
}
SINGULAR = {"videos": "video", "categories": "category", "annotations": "annotation"}


@dataclass(frozen=True)
class VideoEntry:
    """One video.

    Attributes:
        id: As in the file.
        size: (H, W).
        file_names: Of the images, below the image folder.
    """

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

    Attributes:
        id: As in the file.
        video: That it is in.
        category_id: Of its class.
        segmentations: T entries as the file has them, None where it is not seen.
        areas: T as the file has them, None where it is not seen, or None if it has none.
        is_crowd: It stands for a group, which the protocol does not score.
    """

    id: int
    video: VideoEntry
    category_id: int
    segmentations: tuple[Any, ...]
    areas: Sequence[float | None] | None
    is_crowd: bool

    def rle(self, frame: int) -> RLE | None:
        """Run-length encoding on a frame, None where it is not seen; InputError if damaged."""
        with self._at(frame):
            return as_rle(self.segmentations[frame], self.video.size)

    def mask(self, frame: int) -> NDArray[np.bool_]:
        """Boolean (H, W) on a frame; all False where it is not seen; InputError if damaged."""
        with self._at(frame):
            return mask_of(self.segmentations[frame], self.video.size)

    @cached_property
    def seen(self) -> NDArray[np.bool_]:
        """Boolean (T,): frames with a segmentation."""
        return np.array([bool(segmentation) for segmentation in self.segmentations], dtype=bool)

    def _at(self, frame: int) -> AbstractContextManager[None]:
        video = self.video
        return place(f"annotation {self.id}, frame {frame} of video {video.id} ({video.name})")


class YouTubeVIS:
    """The videos of one annotation file; images and masks are read only when asked for.

    Attributes:
        videos: By ascending id.
        categories: Name by id, ascending.
        annotated: The file has annotations.
    """

    def __init__(
        self,
        annotations: str | Path,
        images: str | Path | None = None,
        videos: Sequence[str] | None = None,
    ) -> None:
        """Read and check the file.

        Args:
            annotations: The JSON file.
            images: The folder that `file_names` start from; None looks for it beside the file:
                JPEGImages/, NAME/JPEGImages/ or NAME/ for annotations called NAME.json.
            videos: Only these, by name or id.

        Raises:
            InputError: The file is missing or damaged, its entries do not fit together
                (`youtube_vis_check.check` lists everything wrong), or it lacks one of the videos.
        """
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
        if videos is not None:
            self.videos = self._chosen(videos)
        self.annotated = content.get("annotations") is not None
        self._tracks: dict[int, list[InstanceAnnotation]] = {}
        for entry in content.get("annotations") or ():
            annotation = InstanceAnnotation(
                entry["id"],
                self._by_id[entry["video_id"]],
                entry["category_id"],
                tuple(entry["segmentations"]),
                entry.get("areas"),
                bool(entry.get("iscrowd", 0)),
            )
            self._tracks.setdefault(entry["video_id"], []).append(annotation)
        self.images = image_folder(self.path, self.videos, images)

    def _chosen(self, wanted: Sequence[str]) -> list[VideoEntry]:
        """The videos of these names or ids, in the order of the file."""
        by_name = {key: video for video in self.videos for key in (str(video.id), video.name)}
        for name in wanted:
            if name not in by_name:
                known = ", ".join(video.name for video in self.videos[:5])
                raise InputError(f"no video {name!r} in {self.path}; there are {known} ...")
        chosen = {by_name[name].id for name in wanted}
        return [video for video in self.videos if video.id in chosen]

    def __len__(self) -> int:
        return len(self.videos)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the categories, in the order of their ids, to which labels 0, 1, ... point."""
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

    def frame(self, video: VideoEntry, frame: int) -> NDArray[np.uint8]:
        """Frame (H, W, 3), uint8 RGB; InputError if it is missing or has another size."""
        path = self.images / video.file_names[frame]
        return read_sized(path, video.size, f"frame {frame} of video {video.id}")

    def frames(self, video: VideoEntry) -> Iterator[NDArray[np.uint8]]:
        """All frames of a video in order, see `frame`."""
        for index in range(len(video)):
            yield self.frame(video, index)


def read_content(path: Path) -> Part:
    """The object in a JSON file.

    Raises:
        InputError: There is none, or it lacks one of the lists.
    """
    content = read_json(path, "annotations")
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, not an object with videos")
    for part in ("videos", "categories"):
        if not isinstance(content.get(part), list) or not content[part]:
            raise InputError(f"{path} has no list of {part}; it is not in YouTube-VIS format")
    if not isinstance(content.get("annotations"), (list, type(None))):
        raise InputError(
            f"{path} has annotations that are not a list; it is not in YouTube-VIS format"
        )
    return content


def structure_problems(content: Part) -> Iterator[str]:
    """What does not fit together among the entries of a file, one line each, masks apart."""
    sound: dict[str, dict[int, Part]] = {}
    for part, name in SINGULAR.items():
        sound[part] = {}
        for number, entry in enumerate(content.get(part) or ()):
            problem = _entry_problem(entry, REQUIRED[part])
            if problem is not None:
                known = entry.get("id") if isinstance(entry, dict) else None
                yield f"{name} {f'at place {number}' if known is None else known} {problem}"
            elif sound[part].setdefault(entry["id"], entry) is not entry:
                yield f"{name} {entry['id']} appears more than once"
    for video in sound["videos"].values():
        yield from _video_problems(video)
    for entry in sound["annotations"].values():
        yield from _annotation_problems(entry, sound["videos"], sound["categories"])


def image_folder(path: Path, videos: Sequence[VideoEntry], given: str | Path | None = None) -> Path:
    """The folder that the videos' file names start from; the first candidate if none holds them.

    Raises:
        InputError: A given folder is not there.
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
    holders = [folder for folder in candidates if first and (folder / first).is_file()]
    return (holders or candidates)[0]


def _entry_problem(entry: Any, required: dict[str, type]) -> str | None:
    if not isinstance(entry, dict):
        return f"is a {type(entry).__name__}, not an object"
    for key, kind in required.items():
        if entry.get(key) is None:
            return f"lacks {key}"
        if kind is int and not is_whole(entry[key]):
            return f"has {key} {entry[key]!r}, not a whole number"
        if not isinstance(entry[key], kind):
            return f"has {key} that are not a list"
    return None


def _video_problems(video: Part) -> Iterator[str]:
    names, name = video["file_names"], f"video {video['id']}"
    width, height = video["width"], video["height"]
    if not (width > 0 and height > 0 and width * height <= limits().pixels):
        yield f"{name} has {width} x {height} pixels"
    if not names:
        yield f"{name} has no frames"
    for file in names:
        try:
            inner_path(file)
        except ValueError as error:
            yield f"{name} has file_names of which one {error}"
            break
    if video.get("length", len(names)) != len(names):
        yield f"{name} has length {video['length']} but {len(names)} file_names"


def _annotation_problems(
    entry: Part, videos: dict[int, Part], categories: dict[int, Part]
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
        if values is not None and not isinstance(values, list):
            yield f"{name} has {key} that are not a list"
        elif values is not None and len(values) != length:
            yield (
                f"{name} has {len(values)} {key}, but video {entry['video_id']} has {length} frames"
            )
    areas = entry.get("areas")
    if isinstance(areas, list) and not all(isinstance(a, (int, float, type(None))) for a in areas):
        yield f"{name} has areas that are not numbers"
