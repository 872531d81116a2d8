"""A project folder: what a person made of one video, on disk after every change.

project.json: {"tempomask_project": 1, "source", "name", "size": [H, W], "num_frames", "fps",
"objects": [{"id", "name", "color", "visible", "locked"}], "settings": {"budget", "fps"}}.
prompts.json: all prompts, as `tempomask track --prompts` takes them; masks in prompts/.
frames.jsonl: the masks, the journal that `tempomask track` writes; of a frame with several lines
the last holds. A folder with nothing but that is a run of the command line, and opens as well.
history.jsonl: what undo takes back, see `history`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from tempomask.errors import InputError
from tempomask.files import FolderLock, make_folder, read_json, replacing, write_errors, write_json
from tempomask.frames import Size
from tempomask.io.journal import Journal, VideoInfo, open_journal
from tempomask.io.overlay import object_color
from tempomask.io.prompt_file import read_prompts, write_prompts
from tempomask.io.records import TRACK, FrameRecord
from tempomask.io.result_folder import JOURNAL
from tempomask.prompts import Prompt
from tempomask.rle import RLE
from tempomask.schema import check, one_of, whole
from tempomask.web.history import OBJECT_INFO, SETTINGS, History
from tempomask.web.messages import OBJECT
from tempomask.web.state import MaskEntry, ObjectInfo, Settings, Spot, State, Table

PROJECT, PROMPTS, HISTORY = "project.json", "prompts.json", "history.jsonl"
# All that is written, with the folders of masks and of exports.
_WRITTEN = (PROJECT, PROMPTS, Path(PROMPTS).stem, HISTORY, JOURNAL, "export")
_VERSION = 1


# What project.json holds, see `schema`.
_FACTS = {
    "tempomask_project": one_of(_VERSION),
    "size": [whole(1), whole(1)],
    "num_frames": whole(1),
    "objects": [OBJECT_INFO],
    "settings": SETTINGS,
}
# A journal is written anew when it has more lines than this for each frame.
_STALE = 3


@dataclass(frozen=True)
class VideoFacts:
    """What a project knows of its video.

    Attributes:
        source: Path of the file or folder.
        size: (H, W) in pixels.
        num_frames: Exact.
        fps: None where there is no clock.
        frame_names: Of the images of a folder.
    """

    source: str
    size: Size
    num_frames: int
    fps: float | None = None
    frame_names: tuple[str, ...] | None = None

    @property
    def name(self) -> str:
        """Of the file or folder."""
        return Path(self.source).name


@dataclass
class Project:
    """One open project; `Project.open` makes one. Only one process may have it open."""

    folder: Path
    video: VideoFacts
    state: State = field(default_factory=State)
    _lock: FolderLock | None = None
    _journal: Journal | None = None
    _history: History | None = None

    @classmethod
    def open(cls, folder: Path, video: VideoFacts) -> Self:
        """The project in a folder, begun if there is none.

        Raises:
            InputError: If it is of another video, damaged, not writable, or open elsewhere.
        """
        make_folder(folder, *_WRITTEN)
        project = cls(folder, video)
        with write_errors(folder):
            project._lock = FolderLock(folder)
        try:
            project._read()
            project._journal = project._open_journal()
            project._history = History(folder / HISTORY, video.size, project.state)
        except BaseException:
            project.close()
            raise
        return project

    def close(self) -> None:
        """Let go of its files."""
        for file in (self._journal, self._history):
            if file is not None:
                file.close()
        if self._lock is not None:
            self._lock.release()

    def save(self, touched: Iterable[tuple[Table, Any]]) -> None:
        """Bring to disk what a change has touched; InputError if that cannot be done."""
        listed = list(touched)
        tables = {table for table, _ in listed}
        if tables & {"objects", "settings"}:
            self.save_facts()
        if "prompts" in tables:
            write_prompts(self.folder / PROMPTS, self.state.all_prompts())
        frames = {key.frame if table == "masks" else key for table, key in listed
                  if table in ("masks", "blocks")}  # fmt: skip
        with write_errors(self.folder):
            for frame in sorted(frames):
                self.journal.add(self.record(frame))

    def save_facts(self) -> None:
        """Write project.json."""
        facts = {
            "tempomask_project": _VERSION,
            "source": self.video.source,
            "name": self.video.name,
            "size": list(self.video.size),
            "num_frames": self.video.num_frames,
            "fps": self.video.fps,
            "objects": [asdict(info) for info in self.state.objects.values()],
            "settings": asdict(self.settings),
        }
        write_json(self.folder / PROJECT, facts)

    @property
    def settings(self) -> Settings:
        """What is asked of the router."""
        return self.state.settings.get("speed", Settings())

    @property
    def journal(self) -> Journal:
        """Of an open project."""
        assert self._journal is not None, "the project is open"
        return self._journal

    @property
    def history(self) -> History:
        """Of an open project."""
        assert self._history is not None, "the project is open"
        return self._history

    def record(self, frame: int, only: Collection[int] | None = None) -> FrameRecord:
        """The masks of a frame as the exports take them. only: of these objects."""
        found = self.state.masks_on(frame)
        masks = {i: each for i, each in found.items() if only is None or i in only}
        size, names = self.video.size, self.video.frame_names
        entries = list(masks.values())
        return FrameRecord(
            index=frame,
            size=size,
            ids=tuple(masks),
            encodings=tuple(RLE(size=list(size), counts=each.counts) for each in entries),
            boxes=np.array([each.box for each in entries], np.float32).reshape(-1, 4),
            scores=np.array([each.score for each in entries], np.float32),
            predicted_iou=np.array([each.iou for each in entries], np.float32),
            areas=np.array([each.area for each in entries], np.int64),
            blocks=np.array([m == "1" for m in self.state.blocks.get(frame, "")], dtype=bool),
            name=None if names is None else names[frame],
            labels=np.full(len(entries), -1),
        )

    def info(self) -> VideoInfo:
        """What journals of this project say of the video."""
        video = self.video
        names = {info.id: info.name for info in self.state.objects.values()}
        settings = {"source": video.name, "made_by": "annotate"}
        return VideoInfo(video.size, video.fps, video.num_frames, names, settings, video.source)

    def _read(self) -> None:
        """Objects, prompts and masks; those of a run of the command line become a project."""
        records = list(self._records())
        for record in records:
            self.state.load("masks", _masks_of(record))
            marks = "".join("1" if ran else "0" for ran in record.blocks)
            self.state.load("blocks", {record.index: marks or None})
        if (self.folder / PROJECT).exists():
            self._read_facts()
            self.state.load("prompts", _by_spot(self._read_prompts()))
            return
        ids = sorted({object_id for record in records for object_id in record.ids})
        names = self._names()
        self.state.load("objects", {i: new_object(i, names.get(i)) for i in ids})
        self.state.load("prompts", _by_spot(self._read_prompts() or first_masks(records)))
        self.save_facts()
        write_prompts(self.folder / PROMPTS, self.state.all_prompts())

    def _read_facts(self) -> None:
        path = self.folder / PROJECT
        facts = read_json(path, "the project", _FACTS)
        size, count = tuple(facts["size"]), facts["num_frames"]
        objects = [ObjectInfo(**each) for each in facts["objects"]]
        self.state.load("settings", {"speed": Settings(**facts["settings"])})
        if (size, count) != (self.video.size, self.video.num_frames):
            raise InputError(
                f"{self.folder} is a project of {facts.get('name')}, {count} frames of {size[1]} x"
                f" {size[0]} pixels; {self.video.name} has {self.video.num_frames} of"
                f" {self.video.size[1]} x {self.video.size[0]}: choose another --project"
            )
        self.state.load("objects", {info.id: info for info in objects})

    def _read_prompts(self) -> list[Prompt]:
        path = self.folder / PROMPTS
        if not path.exists() or read_json(path, "the prompts") == []:
            return []
        prompts = read_prompts(path)
        for prompt in prompts:
            prompt.check_inside(self.video.size)
        return prompts

    def _names(self) -> dict[int, str]:
        path = self.folder / JOURNAL
        return dict(open_journal(path, TRACK).info.names) if path.exists() else {}

    def _records(self) -> Iterable[FrameRecord]:
        """The frames of the journal; InputError if it is of another video."""
        path = self.folder / JOURNAL
        if not path.exists():
            return
        journal = open_journal(path, TRACK)
        if journal.info.size != self.video.size:
            raise InputError(
                f"{path} has masks of {journal.info.size[1]} x {journal.info.size[0]} pixels,"
                f" {self.video.name} has {self.video.size[1]} x {self.video.size[0]}; choose"
                " another --project"
            )
        yield from (each for each in journal.records() if each.index < self.video.num_frames)

    def _open_journal(self) -> Journal:
        """The journal, written anew where most of its lines are out of date."""
        path = self.folder / JOURNAL
        if path.exists():
            journal = open_journal(path, TRACK)
            with path.open("rb") as file:
                lines = sum(1 for _ in file)
            if lines <= _STALE * (len(journal.finished) + 10):
                return journal
        with write_errors(path), replacing(path) as part:
            fresh = Journal(part, self.info())
            fresh.begin()
            for frame in self.state.frames():
                fresh.add(self.record(frame))
            fresh.close()
        return open_journal(path, TRACK)


def new_object(object_id: int, name: str | None = None) -> ObjectInfo:
    """An object with the name and the colour that belong to its number.

    Raises:
        InputError: A project could not be read again with an object of this number.
    """
    check(object_id, OBJECT, "the object's id")
    red, green, blue = object_color(object_id)
    return ObjectInfo(object_id, name or f"object {object_id}", f"#{red:02x}{green:02x}{blue:02x}")


def first_masks(records: Iterable[FrameRecord]) -> list[Prompt]:
    """For masks without prompts: each object's mask on the first frame that shows it."""
    first: dict[int, Prompt] = {}
    for record in records:
        for place, object_id in enumerate(record.ids):
            if object_id not in first and record.areas[place]:
                mask = record.masks[place]
                first[object_id] = Prompt(record.index, object_id, mask=mask)
    return list(first.values())


def _masks_of(record: FrameRecord) -> dict[Spot, MaskEntry]:
    found = {}
    for place, object_id in enumerate(record.ids):
        x0, y0, x1, y1 = record.boxes[place].tolist()
        found[Spot(record.index, object_id)] = MaskEntry(
            str(record.encodings[place]["counts"]),
            round(float(record.scores[place]), 4),
            # A run of `tempomask propagate` knows none.
            round(float(np.nan_to_num(record.predicted_iou[place], nan=1.0)), 4),
            (x0, y0, x1, y1),
            int(record.areas[place]),
        )
    return found


def _by_spot(prompts: Iterable[Prompt]) -> dict[Spot, tuple[Prompt, ...]]:
    found: dict[Spot, tuple[Prompt, ...]] = {}
    for prompt in prompts:
        spot = Spot(prompt.frame, prompt.object_id)
        found[spot] = (*found.get(spot, ()), prompt)
    return found
