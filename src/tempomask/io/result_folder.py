"""The folder of a run: what its files are called, and what must not be overwritten.

Every path that a run writes or removes comes from here, and from numbers and checked names alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tempomask.errors import InputError
from tempomask.files import absolute_path, check_links, part_path
from tempomask.io import dataset_exports, exports
from tempomask.io.journal import Journal, read_header
from tempomask.io.records import INSTANCES, TRACK, FrameRecord, image_stem

JOURNAL = "frames.jsonl"
# The session as it was after some frame, for resuming.
STATE = "session.safetensors"
# What commands draw from a finished run's journal.
CHARTS = {"chart": "chart.png", "blocks": "blocks.png"}


@dataclass(frozen=True)
class Format:
    """One thing that `--save` names.

    Attributes:
        file: Its file or folder in the run's folder.
        images: Of a folder, what is on its images: a map of labels a frame, or of each object its
            mask, or its pixels.
        export: Makes the file from the journal when the run ends.
        drawn: Made of the frames too, not of masks alone.
    """

    file: str
    images: Literal["labels", "objects", "cutouts"] | None = None
    export: exports.Export | None = None
    drawn: bool = False


FORMATS: Mapping[str, Mapping[str, Format]] = {
    TRACK: {
        "masks": Format("masks", images="labels"),
        "objects": Format("objects", images="objects"),
        "overlay": Format("overlay.mp4", drawn=True),
        "rle": Format("rle.json", export=exports.write_rle),
        "npz": Format("masks.npz", export=exports.write_npz),
        "boxes": Format("boxes.csv", export=exports.write_boxes),
        "coco": Format("coco.json", export=dataset_exports.write_coco),
        "yolo": Format("yolo", export=dataset_exports.write_yolo),
        "mot": Format("mot.txt", export=dataset_exports.write_mot),
        "mots": Format("mots.txt", export=dataset_exports.write_mots),
        "cutouts": Format("cutouts", images="cutouts", drawn=True),
    },
    INSTANCES: {
        "overlay": Format("overlay.mp4", drawn=True),
        "json": Format("instances.json", export=exports.write_youtube_vis),
        "tracks": Format("tracks.csv", export=exports.write_tracks),
        "boxes": Format("boxes.csv", export=exports.write_instance_boxes),
        "masks": Format("masks", images="objects"),
    },
}
# What else a run may write.
_OTHERS = {TRACK: ("boxes", *CHARTS.values(), STATE, JOURNAL), INSTANCES: (STATE, JOURNAL)}


def formats_of(task: str) -> tuple[str, ...]:
    """What `--save` of a task knows."""
    return (*FORMATS[task], *CHARTS) if task == TRACK else tuple(FORMATS[task])


class ResultFolder:
    """Paths of the results of one run.

    Args:
        directory: That holds them.
        task: `track` or `instances`.
    """

    def __init__(self, directory: str | Path, task: str) -> None:
        self.directory = Path(directory)
        self.formats = FORMATS[task]
        self.journal = self.directory / JOURNAL
        self.state = self.directory / STATE
        self._names = [*(each.file for each in self.formats.values()), *_OTHERS[task]]

    def path(self, name: str) -> Path:
        """The file or folder of a format."""
        return self.directory / self.formats[name].file

    def images(self, name: str, stem: str, ids: Iterable[int]) -> list[Path]:
        """The images of a frame in a format: one, or one for each of `ids`, or none.

        Args:
            name: Of the format.
            stem: What the frame is called, see `image_stem`.
            ids: Of the objects on it.
        """
        kind = self.formats[name].images
        if kind == "labels":
            return [self.path(name) / f"{stem}.png"]
        if kind is not None:
            return [self.path(name) / str(object_id) / f"{stem}.png" for object_id in ids]
        return []

    def check(self, inputs: Iterable[str | Path] = ()) -> None:
        """Refuse to overwrite input, or what no run has written.

        Args:
            inputs: Files and folders that are read, among them names that are not paths.

        Raises:
            InputError: If results would take the place of one of them, or of unknown files, or if a
                link would lead them elsewhere.
        """
        folder = self.directory
        if not folder.is_dir():
            return
        check_links(folder, self._names)
        taken = [(folder / name).resolve() for name in self._names]
        for given in inputs:
            path = absolute_path(given)
            if path is None:
                continue
            if path == folder.resolve() or any(p == path or p in path.parents for p in taken):
                raise InputError(
                    f"results in {folder} would overwrite or mingle with the input {given}; choose"
                    " another output folder"
                )
        if self.journal.exists():
            return
        for path in (folder / name for name in self._names):
            if any(path.iterdir()) if path.is_dir() else path.exists():
                raise InputError(
                    f"{path} is there already and, without {JOURNAL} beside it, not known to be of"
                    " an earlier run; move it away, or choose another output folder"
                )

    def remove(self, earlier: Journal) -> None:
        """Remove the results of an earlier run, and nothing that a run did not write."""
        for record in earlier.records():
            for path in self._files_of(record, bool(earlier.info.settings.get("named"))):
                path.unlink(missing_ok=True)
                with suppress(OSError):  # it holds more
                    path.parent.rmdir()
        for path in (self.directory / name for name in self._names if name != JOURNAL):
            if path.is_dir():
                with suppress(OSError):  # it holds more than a run wrote
                    path.rmdir()
            else:
                path.unlink(missing_ok=True)
                part_path(path).unlink(missing_ok=True)

    def _files_of(self, record: FrameRecord, named: bool) -> Iterator[Path]:
        stem = image_stem(record.index, record.name if named else None)
        for name, each in self.formats.items():
            yield from self.images(name, stem, record.ids)
            if each.export is exports.write_boxes:
                lines = exports.box_lines_folder(self.path(name))
                yield from (lines / f"{object_id}.txt" for object_id in record.ids)
            if each.export is dataset_exports.write_yolo:
                labels = f"labels/{image_stem(record.index, record.name)}.txt"
                yield from (self.path(name) / file for file in (labels, "data.yaml"))


def holds_another(directory: Path, source: str) -> bool:
    """Whether a folder has the results of a run of another source than this one."""
    if not (directory / JOURNAL).exists():
        return False
    info, path = read_header(directory / JOURNAL), absolute_path(source)
    if info.source is not None and path is not None:
        return info.source != str(path)
    return info.settings.get("source") != Path(source).name
