"""Results to disk as they come: masks, overlay video, JSON, tables and arrays, in one folder.

Whatever stops a run, the files of the finished frames are whole, and the run can be resumed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Self

from tempomask.errors import InputError
from tempomask.files import FolderLock, make_folder, read_file, replacing, write_errors
from tempomask.frames import Frame
from tempomask.io.audio import add_audio, source_of_audio
from tempomask.io.containers import VideoWriter
from tempomask.io.dataset_exports import write_cutout
from tempomask.io.exports import Tracks
from tempomask.io.images import write_label_png, write_mask_png
from tempomask.io.journal import Journal, VideoInfo, open_journal
from tempomask.io.overlay import Color, draw_overlay
from tempomask.io.records import FrameRecord, Result, ids_of, image_stem, record_of
from tempomask.io.result_folder import FORMATS, ResultFolder
from tempomask.io.threads import WorkerThread
from tempomask.io.video import Video
from tempomask.results import InstanceResult


class _Item(NamedTuple):
    """What the thread is to write: a result with its frame, or the session's state."""

    frame: Frame | None
    result: Result | FrameRecord | None
    state: bytes | None = None


class ResultWriter:
    """Write the results of one video into a folder, in a thread that runs behind the caller.

    Formats of tracked objects:
        masks: `masks/NNNNN.png`, label maps in the DAVIS layout (16-bit for ids above 255);
        objects: `objects/ID/NNNNN.png`, one black-and-white mask per object: overlaps, any id;
        overlay: `overlay.mp4`, the frames with contours and ids drawn over them;
        rle, npz, boxes: `rle.json`, `masks.npz`, `boxes.csv` with `boxes/ID.txt`, see `exports`;
        coco, yolo, mot, mots: `coco.json`, `yolo/`, `mot.txt`, `mots.txt`, see `dataset_exports`;
        cutouts: `cutouts/ID/NNNNN.png`, the object on transparency.
    Of instances:
        overlay: as above, with class and score; masks: `masks/TRACK/NNNNN.png`;
        json, tracks, boxes: `instances.json`, `tracks.csv`, `boxes.csv`, see `exports`.
    `frames.jsonl` is always written: one line per finished frame, which resuming relies on.

    As a context manager it finishes on the way out, also after an error or Ctrl-C.

    Args:
        directory: Of the results.
        info: What the run is about; resuming with other settings is refused.
        formats: Names of the above.
        video: Where the frames come from. An overlay of frames that come in another order
            (backward), or of a resumed run, is drawn at the end from a second reading of it, so it
            must stay open until then.
        tracks: Of a run of instances, asked for when the files are made.
        resume: Keep what is there and go on; else the first frame takes the place of an earlier run
            in the folder, so that nothing is lost to a run without frames.
        named: Masks and objects are called after the images of the video, a folder, not by number.
        audio: The overlay has the audio of the video, a file.
        queue: Frames that may wait to be written.

    Attributes:
        finished: Indices of the frames that were finished at the start of a resumed run.
        colors: Of the objects in the overlay, by id.

    Raises:
        InputError: For an unknown format, a folder that is a file, not writable, full, of another
            kind of run or written to by another, results that would overwrite the video or what no
            run wrote, and when resuming with what does not fit.
    """

    def __init__(
        self,
        directory: str | Path,
        info: VideoInfo,
        formats: Iterable[str] = ("masks",),
        *,
        video: Video | None = None,
        tracks: Callable[[], Tracks] = tuple,
        resume: bool = False,
        named: bool = False,
        audio: bool = False,
        queue: int = 4,
    ) -> None:
        self.formats = check_formats(formats, info.task)
        self.folder = ResultFolder(directory, info.task)
        self._video, self._tracks = video, tracks
        self._frame_names = None if video is None else video.frame_names
        self._named = named
        self._audio = source_of_audio(video) if audio else None
        if named:
            check_named(video)
            info = replace(info, settings={**info.settings, "named": True})
        self.folder.check([] if video is None else [video.name])
        self._new_folder = not self.folder.directory.exists()
        self.directory = make_folder(directory)
        with write_errors(self.directory):
            self._lock = FolderLock(self.directory)
        try:
            self._begin(info, resume)
        except BaseException:
            self._lock.release()
            raise
        self._paths: dict[str, Path] | None = None
        self._thread = WorkerThread.writing(self._write, queue)

    def _begin(self, info: VideoInfo, resume: bool) -> None:
        """Look at what is in the folder, and go on with it or not."""
        self.colors: dict[int, Color] = {}
        there = self.folder.journal
        # The journal of a run in the folder, which the first frame is to replace.
        self._earlier = open_journal(there, info.task) if there.exists() and not resume else None
        self.journal = Journal(there, info, resume)
        self.finished = frozenset(i for i in self.journal.finished if self._files_there(i))
        self._overlay = self._new_overlay()
        self._last_drawn = -1
        self._redraw = bool(self.finished)
        if "overlay" in self.formats and self.finished:
            self._check_redraw("resuming with an overlay")

    def resume_at(self, backward: bool = False) -> int | None:
        """The first frame that is not finished, after (backward: before) those that are in a row.

        None when nothing is finished. May lie past the last frame: then all is done.
        """
        if not self.finished:
            return None
        frame = max(self.finished) if backward else min(self.finished)
        while frame in self.finished:
            frame += -1 if backward else 1
        return frame

    def state(self) -> bytes | None:
        """The session as it was given to `keep`; None without one."""
        path = self.folder.state
        return read_file(path, "state") if self.finished and path.exists() else None

    def keep(self, state: bytes | None) -> None:
        """Keep the session as it is after the frames added so far; None changes nothing."""
        if state is not None:
            self._thread.put(_Item(None, None, state))

    @property
    def draws(self) -> bool:
        """Whether results are to come with their frames."""
        return any(self.folder.formats[name].drawn for name in self.formats)

    def forget_state(self) -> None:
        """Remove the session: the run is through, nothing is left to be resumed."""
        with write_errors(self.directory):
            self.folder.state.unlink(missing_ok=True)

    def add(self, frame: Frame | None, result: Result | FrameRecord) -> None:
        """Queue one result for writing.

        Args:
            frame: uint8 (H, W, 3), RGB; may be None without an overlay.
            result: Of a frame, or its record; of one that is finished already it is not written
                again.

        Raises:
            InputError: For a result of another size, and for what went wrong with earlier frames.
        """
        if self._paths is not None:
            raise InputError(f"the results in {self.directory} are finished; open a new writer")
        height, width = self.journal.info.size
        if result.size != (height, width):
            raise InputError(
                f"a result of {result.size[1]} x {result.size[0]} pixels among results of {width} x"
                f" {height}; write each video to a folder of its own"
            )
        if self.draws:
            if frame is None:
                raise InputError("an overlay or cut-out needs the frame with each result")
            # The caller may reuse the array for the next frame.
            frame = frame.copy()
        if result.index not in self.finished:
            self._thread.put(_Item(frame, result))

    def finish(self) -> dict[str, Path]:
        """Write what is still to be written.

        Returns:
            The paths by format, without formats left empty.

        Raises:
            InputError: For what went wrong; what could be written is there all the same.
        """
        if self._paths is not None:
            return self._paths
        self._paths = {}
        errors: list[Exception] = []
        try:
            for step in (self._thread.finish, self._write_exports, self._finish_overlay):
                try:
                    with write_errors(self.directory):
                        step()
                except Exception as error:
                    errors.append(error)
        finally:  # also when Ctrl-C comes here
            self._overlay.discard()
            self.journal.close()
            self._lock.release()
        paths = {name: self.folder.path(name) for name in self.formats}
        for name, path in {**paths, "frames": self.folder.journal}.items():
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
            if path.exists():
                self._paths[name] = path
        if not self.journal.finished:
            # What is there is an earlier run's, or of a first frame that could not be finished.
            if self.journal.begun and set(self._paths) == {"frames"}:
                self.journal.path.unlink()
            self._paths = {}
        if self._new_folder and not any(self.directory.iterdir()):
            self.directory.rmdir()
        if errors:
            raise errors[0]
        return self._paths

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is None:
            self.finish()
            return
        try:
            self.finish()
        except InputError as second:
            if str(second) != str(error):
                error.add_note(str(second))

    def _name_of(self, index: int) -> str | None:
        """What the source calls a frame, if it has names."""
        return None if self._frame_names is None else self._frame_names[index]

    def _images(self, name: str, index: int, ids: Iterable[int]) -> list[Path]:
        stem = image_stem(index, self._name_of(index) if self._named else None)
        return self.folder.images(name, stem, ids)

    def _files_there(self, index: int) -> bool:
        """Whether the images of a frame in the journal are still on disk."""
        kinds = [name for name in self.formats if self.folder.formats[name].images]
        ids = self.journal.record(index).ids if kinds else ()
        return all(path.exists() for name in kinds for path in self._images(name, index, ids))

    def _write(self, item: _Item) -> None:
        with write_errors(self.directory):
            if item.result is not None:
                self._write_result(item.frame, item.result)
            if item.state is not None:
                with replacing(self.folder.state) as part:
                    part.write_bytes(item.state)

    def _write_result(self, frame: Frame | None, result: Result | FrameRecord) -> None:
        if self._earlier is not None:
            self.folder.remove(self._earlier)
            self._earlier = None
        self.journal.begin()
        for name in self.formats:
            paths = self._images(name, result.index, ids_of(result))
            if self.folder.formats[name].images == "labels" and not isinstance(
                result, InstanceResult
            ):
                self.folder.path(name).mkdir(exist_ok=True)
                write_label_png(paths[0], result.label_map())
                continue
            for path, mask in zip(paths, result.masks if paths else (), strict=True):
                path.parent.mkdir(parents=True, exist_ok=True)
                if self.folder.formats[name].drawn and frame is not None:
                    write_cutout(path, frame, mask)
                else:
                    write_mask_png(path, mask)
        if "overlay" in self.formats and frame is not None:
            self._draw(frame, result)
        self.journal.add(record_of(result, self._name_of(result.index)))

    def _draw(self, frame: Frame, result: Result | FrameRecord) -> None:
        """Add a frame to the overlay, or note that the overlay has to wait for the end."""
        if not self._redraw and result.index <= self._last_drawn:
            self._check_redraw("an overlay of frames out of order")
            self._redraw = True
            self._overlay.discard()
        if not self._redraw:
            self._add_drawn(frame, result)
            self._last_drawn = result.index

    def _new_overlay(self) -> VideoWriter:
        self.colors = {}
        info, video = self.journal.info, self._video
        aspect = 1 if video is None else video.pixel_aspect
        return VideoWriter(self.folder.path("overlay"), info.size, info.fps, aspect)

    def _add_drawn(self, frame: Frame, result: Result | FrameRecord) -> None:
        drawn = draw_overlay(frame, result, names=self.journal.info.names, colors=self.colors)
        times = None if self._video is None else self._video.times
        self._overlay.add(drawn, None if times is None else float(times[result.index]))

    def _check_redraw(self, what: str) -> None:
        if self._video is None or not self._video.seekable:
            raise InputError(
                f"{what} needs the video a second time, and it cannot be read again; leave out the"
                " overlay, or give a file"
            )

    def _finish_overlay(self) -> None:
        """Draw what the overlay still lacks, and close it."""
        done = self.journal.finished
        if "overlay" in self.formats and self._redraw and self._video is not None and done:
            self._overlay = self._new_overlay()
            for index, frame in self._video.frames(min(done), max(done) + 1):
                if index in done:
                    self._add_drawn(frame, self.journal.record(index))
        self._overlay.close()
        if self._audio is not None and self._overlay.num_frames:
            add_audio(self._overlay.path, self._audio, min(done), max(done))

    def _write_exports(self) -> None:
        """Write the files that are made from the journal."""
        for name in self.formats if self.journal.finished else ():
            export = self.folder.formats[name].export
            if export is not None:
                export(self.folder.path(name), self.journal, self._tracks())


def check_formats(formats: Iterable[str], task: str) -> frozenset[str]:
    """The formats asked for; InputError for one that is not known."""
    chosen = frozenset([formats] if isinstance(formats, str) else formats)
    for name in sorted(chosen - set(FORMATS[task])):
        raise InputError(f"unknown format {name!r}; choose from {', '.join(FORMATS[task])}")
    return chosen


def check_named(video: Video | None) -> None:
    """InputError unless the frames of a video have names."""
    if video is None or video.frame_names is None:
        what = "results without a video" if video is None else video.name
        raise InputError(
            f"{what} cannot be called after the source's images, there are none; leave names"
            " out, or give a folder of images"
        )
