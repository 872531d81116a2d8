"""What of video instances is scored: all videos, parts of them, and edges of tubes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tempomask.data.youtube_vis import VideoEntry, YouTubeVIS
from tempomask.errors import InputError
from tempomask.metrics.video_ap import PredictedTrack, TrueTrack, VideoAP, VideoAPResult


@dataclass(frozen=True)
class Scoring:
    """What is scored beside AP over all videos.

    Attributes:
        boundary: Tube-boundary AP as well (HQ-YTVIS).
        parts: The truth of some of the videos each, scored by itself as well (YouTube-VIS 2022: its
            short and its long videos).
    """

    boundary: bool = False
    parts: tuple[YouTubeVIS, ...] = ()


AP_ALONE = Scoring()


class Scorer:
    """The metrics of a data set: over all of it, "" if it is annotated, and what else is scored."""

    def __init__(self, dataset: YouTubeVIS, scoring: Scoring) -> None:
        """InputError for a part that is not of these videos, or has no annotations."""
        self.metrics: dict[str, tuple[YouTubeVIS, VideoAP]] = {}
        sets = {"": dataset} if dataset.annotated else {}
        for part in scoring.parts:
            _check_part(part, dataset)
            sets[part.path.stem] = part
        for name, data in sets.items():
            self.metrics[name] = data, VideoAP(data.categories)
            if scoring.boundary:
                edges = VideoAP(data.categories, boundary=True)
                self.metrics[f"{name} boundary".strip()] = data, edges

    def add(self, video: VideoEntry, tracks: Sequence[PredictedTrack]) -> None:
        """Score the tracks of a video; InputError if its truth cannot be read."""
        for data, metric in self.metrics.values():
            if video in data.videos:
                metric.update(true_tracks(data, video), tracks)

    def scores(self) -> dict[str, VideoAPResult]:
        """Of the videos so far, by name."""
        return {name: metric.compute() for name, (_, metric) in self.metrics.items()}


def _check_part(part: YouTubeVIS, whole: YouTubeVIS) -> None:
    if not part.annotated:
        raise InputError(f"{part.path} has no annotations; a part is scored against its own")
    strange = [video.name for video in part.videos if video not in whole.videos]
    if strange or part.categories != whole.categories:
        what = f"the video {strange[0]}" if strange else "the classes"
        raise InputError(
            f"{part.path} is no part of {whole.path}, which does not have {what} as it is there;"
            " take files of one data set"
        )


def true_tracks(dataset: YouTubeVIS, video: VideoEntry) -> list[TrueTrack]:
    """What is to be found in a video; areas are those of the file, where it has them."""
    tracks = []
    for annotation in dataset.annotations(video.id):
        areas = [area for area in annotation.areas or () if area]
        tracks.append(
            TrueTrack(
                category_id=annotation.category_id,
                masks=[annotation.rle(frame) for frame in range(len(video))],
                area=float(np.mean(areas)) if areas else None,
                is_crowd=annotation.is_crowd,
            )
        )
    return tracks
