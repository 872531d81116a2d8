"""Look through a data set in YouTube-VIS format and say what is wrong with it, line by line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tempomask.data.segmentations import mask_of
from tempomask.data.youtube_vis import (
    InstanceAnnotation,
    VideoEntry,
    YouTubeVIS,
    read_content,
    structure_problems,
)
from tempomask.errors import InputError
from tempomask.io.images import image_size, read_image

# Areas in the file may differ from the masks' by this share: they are measured in other ways.
AREA_SLACK = 0.05


def check(
    annotations: str | Path,
    images: str | Path | None = None,
    *,
    decode: bool = False,
) -> Iterator[str]:
    """Every problem as one line that names the video, the annotation or the file; none if all fits.

    Looked at are the entries and how they refer to each other; every mask (kind, size, run lengths,
    empty ones, areas); every image (there, and of the video's size).

    Args:
        annotations: Same as in `YouTubeVIS`.
        images: Same as in `YouTubeVIS`.
        decode: Read all images to the end, which finds those that are cut off.

    Raises:
        InputError: The file itself cannot be read.
    """
    path = Path(annotations)
    problems = list(structure_problems(read_content(path)))
    if problems:
        yield from problems
        yield "masks and images were not looked at; put the lines above right first"
        return
    dataset = YouTubeVIS(path, images)
    if dataset.annotated:
        for video in dataset.videos:
            if not dataset.annotations(video.id):
                yield f"video {video.id} ({video.name}) has no annotation"
    for video in dataset.videos:
        yield from _image_problems(dataset, video, decode)
        for annotation in dataset.annotations(video.id):
            yield from _mask_problems(annotation)


def _image_problems(dataset: YouTubeVIS, video: VideoEntry, decode: bool) -> Iterator[str]:
    missing = [name for name in video.file_names if not (dataset.images / name).is_file()]
    if len(missing) == len(video):
        yield f"video {video.id}: none of its {len(video)} images is in {dataset.images}"
        return
    for name in missing:
        yield f"video {video.id}: no image {dataset.images / name}"
    if len(set(video.file_names)) < len(video):
        yield f"video {video.id} names an image more than once"
    for index, name in enumerate(video.file_names):
        if name in missing:
            continue
        try:
            size = image_size(dataset.images / name)
            if size != video.size:
                yield (
                    f"video {video.id}, frame {index}: {dataset.images / name} has {size[1]} x"
                    f" {size[0]} pixels, the video says {video.size[1]} x {video.size[0]}"
                )
            if decode:
                read_image(dataset.images / name)
        except InputError as error:
            yield f"video {video.id}, frame {index}: {error}"


def _mask_problems(annotation: InstanceAnnotation) -> Iterator[str]:
    video, areas = annotation.video, annotation.areas
    name = f"annotation {annotation.id} of video {video.id}"
    if not annotation.seen.any():
        yield f"{name} is not seen on any frame"
    for index, segmentation in enumerate(annotation.segmentations):
        area = None if areas is None else areas[index]
        problem = _mask_problem(segmentation, video, areas is not None, area)
        if problem is not None:
            yield f"{name}, frame {index}: {problem}"


def _mask_problem(
    segmentation: Any, video: VideoEntry, has_areas: bool, area: float | None
) -> str | None:
    if not segmentation:
        return f"no mask, but area {area:g}" if area else None
    try:
        pixels = int(mask_of(segmentation, video.size).sum())
    except InputError as error:
        return str(error)
    if pixels == 0:
        return "an empty mask; use null where the instance is not seen"
    if not has_areas or (area and abs(area - pixels) <= max(2.0, AREA_SLACK * pixels)):
        return None
    return f"a mask of {pixels} pixels, but {f'area {area:g}' if area else 'no area'}"
