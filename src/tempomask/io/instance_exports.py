"""Result files of instance segmentation, made from the journal: YouTube-VIS JSON and tables.

Masks stream through a spool: what is held of a track is one number for each frame.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from tempomask.files import replacing
from tempomask.io.instance_journal import InstanceJournal
from tempomask.results import InstanceSummary, InstanceTrack

TRACK_COLUMNS = ("track", "class", "score", "first_frame", "last_frame", "frames", "mean_area")
BOX_COLUMNS = ("frame", "track", "class", "score", "x0", "y0", "x1", "y1", "area")


def write_youtube_vis(path: Path, journal: InstanceJournal, summary: InstanceSummary) -> None:
    """One JSON file in YouTube-VIS format, which can be read as a data set: an annotation a track.

    Categories are the classes, numbered from 1; an annotation's id is the track id. It has, by
    frame of the video, `segmentations` (an RLE, or null), `areas`, `bboxes` (x, y, w, h) and
    `scores`, and for the whole track `category_id` and `score`, see `InstanceTrack`. The file names
    are those of frames extracted one by one.
    """
    info = journal.info
    length = max(info.num_frames or 0, 1 + max(journal.finished, default=-1))
    height, width = info.size
    names = [f"{index:05d}.jpg" for index in range(length)]
    size = {"width": width, "height": height, "length": length}
    head = {
        "info": {"description": "tempomask", "fps": info.fps},
        "videos": [{"id": 1, **size, "file_names": names}],
        "categories": [{"id": i, "name": name} for i, name in enumerate(journal.classes, 1)],
    }
    with (
        replacing(path) as part,
        part.open("w", encoding="utf-8") as file,
        TemporaryFile("w+", dir=path.parent, encoding="utf-8") as spool,
    ):
        file.write(json.dumps(head)[:-1] + ', "annotations": [')
        shown = _spool_tracks(journal, spool)
        for number, track in enumerate(summary.tracks):
            file.write(",\n" if number else "\n")
            first = {"id": track.track_id, "video_id": 1, "category_id": track.label + 1}
            rest = {"iscrowd": 0, **size, "score": round(track.score, 4)}
            file.write(json.dumps({**first, **rest})[:-1])
            frames = shown.get(track.track_id, _Shown())
            _write_frames(file.write, spool, frames, length)
        file.write("\n]}\n")


def write_tracks(path: Path, summary: InstanceSummary) -> None:
    """CSV, one row per track, see `InstanceTrack`; frames: on which it is shown."""
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(TRACK_COLUMNS)
        for track in summary.tracks:
            writer.writerow(_track_row(track, summary.classes))


def write_instance_boxes(path: Path, journal: InstanceJournal) -> None:
    """CSV, one row per frame and instance; x1 and y1 lie past the last pixel."""
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(BOX_COLUMNS)
        for record in journal.records():
            for place, track_id in enumerate(record.track_ids.tolist()):
                name, score = record.names[place], f"{record.scores[place]:.4f}"
                box = [f"{side:g}" for side in record.boxes[place]]
                writer.writerow([record.index, track_id, name, score, *box, record.areas[place]])


@dataclass
class _Shown:
    """Where one track is shown: by frame the mask's place in the spool, and what else there is."""

    places: dict[int, int] = field(default_factory=dict)
    areas: dict[int, int] = field(default_factory=dict)
    bboxes: dict[int, list[float]] = field(default_factory=dict)
    scores: dict[int, float] = field(default_factory=dict)


def _spool_tracks(journal: InstanceJournal, spool: IO[str]) -> dict[int, _Shown]:
    """Tracks by id; their masks go to the spool, one line each."""
    tracks: dict[int, _Shown] = {}
    for record in journal.records():
        for place, track_id in enumerate(record.track_ids.tolist()):
            shown = tracks.setdefault(track_id, _Shown())
            x0, y0, x1, y1 = record.boxes[place].tolist()
            shown.places[record.index] = spool.tell()
            shown.areas[record.index] = int(record.areas[place])
            shown.bboxes[record.index] = [x0, y0, x1 - x0, y1 - y0]
            shown.scores[record.index] = round(float(record.scores[place]), 4)
            spool.write(json.dumps(record.encodings[place]) + "\n")
    return tracks


def _write_frames(write: Callable[[str], Any], spool: IO[str], shown: _Shown, length: int) -> None:
    """The lists of an annotation that has been begun, and its end."""
    write(', "segmentations": [')
    for frame in range(length):
        write(", " if frame else "")
        if frame in shown.places:
            spool.seek(shown.places[frame])
            write(spool.readline().rstrip())
        else:
            write("null")
    lists = {
        name: [values.get(frame) for frame in range(length)]
        for name, values in (
            ("areas", shown.areas),
            ("bboxes", shown.bboxes),
            ("scores", shown.scores),
        )
    }
    write("], " + json.dumps(lists)[1:])


def _track_row(track: InstanceTrack, classes: tuple[str, ...]) -> list[Any]:
    numbers = (track.first_frame, track.last_frame, track.num_frames)
    score, area = f"{track.score:.4f}", f"{track.mean_area:.1f}"
    return [track.track_id, classes[track.label], score, *numbers, area]
