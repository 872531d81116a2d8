"""Instances to disk as they come: overlay video, YouTube-VIS JSON, tables, masks, in one folder.

Whatever stops a run, the files of the finished frames are whole, and the run can be resumed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tempomask.errors import InputError
from tempomask.files import make_folder, part_path, replacing, write_errors
from tempomask.instances.state import State, load_state, save_state
from tempomask.io.folder_writer import FolderWriter, check_formats
from tempomask.io.instance_exports import write_instance_boxes, write_tracks, write_youtube_vis
from tempomask.io.instance_journal import TASK, InstanceJournal, open_instance_journal
from tempomask.io.instance_overlay import draw_instances
from tempomask.io.journal import VideoInfo
from tempomask.io.masks import write_mask_png
from tempomask.io.result_folder import JOURNAL, check_folder, place_of
from tempomask.io.sources import Frame
from tempomask.io.video import Video
from tempomask.io.video_writer import VideoWriter
from tempomask.io.writer_thread import WriterThread
from tempomask.results import InstanceResult, InstanceSummary

# What each format is called on disk.
INSTANCE_FORMATS = {
    "overlay": "overlay.mp4",
    "json": "instances.json",
    "tracks": "tracks.csv",
    "boxes": "boxes.csv",
    "masks": "masks",
}
# The session as it was after some frame, for resuming: see `instance_state`.
STATE = "session.safetensors"
# All that a run may write.
INSTANCE_RESULTS = (*INSTANCE_FORMATS.values(), STATE, JOURNAL)


class _Item(NamedTuple):
    frame: Frame | None
    result: InstanceResult
    state: State | None


class InstanceWriter(FolderWriter[InstanceJournal]):
    """Write the instances of one video into `directory`, in a thread that runs behind the caller.

    formats, any of:
        overlay: `overlay.mp4`, the frames with masks, ids, classes and scores drawn over them;
        json: `instances.json`, see `instance_exports.write_youtube_vis`;
        tracks: `tracks.csv`, a row per track; boxes: `boxes.csv`, a row per frame and instance;
        masks: `masks/TRACK/NNNNN.png`, black-and-white, one folder per track.
    `frames.jsonl` is always written, a line per finished frame, and `session.safetensors`, the
    session as last given to `add`; resuming relies on both. `forget_state` removes it.

    video: where the frames come from; the overlay of a resumed run is drawn at the end from a
        second reading of it, so it must stay open until then.
    classes: names of labels. summary: asked for the tracks when the files are made.
    settings: of the run; resuming with others is refused. resume: go on with what is there; else
        the first frame takes the place of an earlier run in the folder.

    As a context manager it finishes on the way out, also after an error or Ctrl-C.

    Raises InputError for an unknown format, a folder that is not writable, full or of another kind
    of run, results that would overwrite the video or what no run wrote, and when resuming with what
    does not fit.
    """

    file_names = INSTANCE_FORMATS

    def __init__(
        self,
        directory: str | Path,
        formats: Iterable[str],
        *,
        video: Video,
        classes: tuple[str, ...],
        summary: Callable[[], InstanceSummary],
        settings: Mapping[str, Any] | None = None,
        resume: bool = False,
        queue: int = 4,
    ) -> None:
        self.formats = check_formats(formats, INSTANCE_FORMATS)
        self._video, self._summary = video, summary
        check_folder(directory, INSTANCE_RESULTS, [video.name])
        self._new_folder = not Path(directory).exists()
        self.directory = make_folder(directory)
        journal = self.directory / JOURNAL
        earlier = open_instance_journal(journal) if journal.exists() else None
        self._earlier = None if resume else earlier
        kept = {"task": TASK, "classes": list(classes), **(settings or {})}
        source = place_of(video.name)
        info = VideoInfo(video.size, video.fps, video.num_frames, settings=kept, source=source)
        self._journal = InstanceJournal(journal, info, resume)
        self._finished = frozenset(i for i in self._journal.finished if self._files_there(i))
        self._redraw = bool(self._finished)
        if self._redraw and "overlay" in self.formats and not video.seekable:
            raise InputError(
                f"resuming with an overlay needs {video.name} a second time, and it cannot be read"
                " again; leave out the overlay, or give a file"
            )
        self._overlay = VideoWriter(self._path("overlay"), info.size, info.fps)
        self._background = WriterThread(self._write, queue)

    @property
    def finished(self) -> frozenset[int]:
        """Indices of the frames that were finished at the start of a resumed run."""
        return self._finished

    def state(self) -> State | None:
        """The session as it was after a finished frame; None without one, to start at the front."""
        path = self.directory / STATE
        if not self._finished or not path.exists():
            return None
        state = load_state(path)
        start, frames = state["counts"].tolist()[:2]
        return state if self._finished >= set(range(start, start + frames)) else None

    def forget_state(self) -> None:
        """Remove the session: the run is through, nothing is left to be resumed."""
        with write_errors(self.directory):
            (self.directory / STATE).unlink(missing_ok=True)

    def add(self, frame: Frame | None, result: InstanceResult, state: State | None = None) -> None:
        """Queue one result for writing. frame (H, W, 3), RGB: may be None without an overlay.

        state: of the session after this frame, to be kept for resuming; from time to time will do.
        Frames that are finished already are not written again, their state is.

        Raises InputError for a result of another size, and what went wrong with earlier frames.
        """
        self._check_open(result.size)
        # The caller may reuse the array for the next frame.
        drawn = None if frame is None or "overlay" not in self.formats else frame.copy()
        self._background.submit(_Item(drawn, result, state))

    def _mask_path(self, track_id: int, index: int) -> Path:
        return self._path("masks") / str(track_id) / f"{index:05d}.png"

    def _files_there(self, index: int) -> bool:
        """Whether the masks of a frame in the journal are still on disk."""
        if "masks" not in self.formats:
            return True
        ids = self._journal.record(index).track_ids.tolist()
        return all(self._mask_path(track_id, index).exists() for track_id in ids)

    def _remove(self, earlier: InstanceJournal) -> None:
        """Remove the results of an earlier run, and nothing that a run did not write."""
        for record in earlier.records():
            for track_id in record.track_ids.tolist():
                self._mask_path(track_id, record.index).unlink(missing_ok=True)
        for file in (*INSTANCE_FORMATS.values(), STATE):
            path = self.directory / file
            if not path.is_dir():
                path.unlink(missing_ok=True)
                part_path(path).unlink(missing_ok=True)

    def _write(self, item: _Item) -> None:
        result = item.result
        with write_errors(self.directory):
            if self._earlier is not None:
                self._remove(self._earlier)
                self._earlier = None
            self._journal.begin()
            if result.index not in self._finished:
                if "masks" in self.formats:
                    self._write_masks(result)
                if item.frame is not None and not self._redraw:
                    self._overlay.add(draw_instances(item.frame, result))
                self._journal.add(result)
            if item.state is not None:
                with replacing(self.directory / STATE) as part:
                    save_state(part, item.state)

    def _write_masks(self, result: InstanceResult) -> None:
        for track_id, mask in zip(result.track_ids.tolist(), result.masks, strict=True):
            path = self._mask_path(track_id, result.index)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_mask_png(path, mask)

    def _finish_overlay(self) -> None:
        done = self._journal.finished
        if "overlay" in self.formats and self._redraw and done:
            info = self._journal.info
            self._overlay = VideoWriter(self._path("overlay"), info.size, info.fps)
            for index, frame in self._video.frames(min(done), max(done) + 1):
                if index in done:
                    self._overlay.add(draw_instances(frame, self._journal.record(index)))
        self._overlay.close()

    def _write_exports(self) -> None:
        if not self._journal.finished:
            return
        if "json" in self.formats:
            write_youtube_vis(self._path("json"), self._journal, self._summary())
        if "tracks" in self.formats:
            write_tracks(self._path("tracks"), self._summary())
        if "boxes" in self.formats:
            write_instance_boxes(self._path("boxes"), self._journal)
