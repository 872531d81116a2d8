"""Results to disk as they come: masks, overlay video, COCO RLE, NPZ and boxes, in one folder.

Whatever stops a run, the files of the finished frames are whole, and the run can be resumed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tempomask.errors import InputError
from tempomask.files import make_folder, part_path, write_errors
from tempomask.frames import Size
from tempomask.io.exports import box_lines_folder, write_boxes, write_npz, write_rle
from tempomask.io.folder_writer import FolderWriter, check_formats
from tempomask.io.journal import Journal, VideoInfo, open_journal
from tempomask.io.masks import read_mask, write_label_png, write_mask_png
from tempomask.io.overlay import draw_overlay
from tempomask.io.result_folder import JOURNAL, check_folder, place_of
from tempomask.io.sources import Frame
from tempomask.io.video import Video
from tempomask.io.video_writer import VideoWriter
from tempomask.io.writer_thread import WriterThread
from tempomask.results import FrameResult

# What each format is called on disk.
FORMATS = {
    "masks": "masks",
    "objects": "objects",
    "overlay": "overlay.mp4",
    "rle": "rle.json",
    "npz": "masks.npz",
    "boxes": "boxes.csv",
}
# What commands draw from a finished run's journal.
PICTURES = ("chart.png", "blocks.png")
# All that a run may write; `boxes` holds the lines by object.
RESULTS = (*FORMATS.values(), "boxes", *PICTURES, JOURNAL)
_EXPORTS = {"rle": write_rle, "npz": write_npz, "boxes": write_boxes}


@dataclass(frozen=True)
class ResumePoint:
    """Where to go on: the first frame to track, and the label map (H, W) of the one before it."""

    frame: int
    label_map: NDArray[np.int32]


class ResultWriter(FolderWriter[Journal]):
    """Write the results of one video into `directory`, in a thread that runs behind the caller.

    formats, any of:
        masks: `masks/NNNNN.png`, label maps in the DAVIS layout (16-bit for ids above 255);
        objects: `objects/ID/NNNNN.png`, one black-and-white mask per object: overlaps, any id;
        overlay: `overlay.mp4`, the frames with contours and ids drawn over them;
        rle: `rle.json`, COCO run-length encoding in the layout of YouTube-VIS;
        npz: `masks.npz`, see `exports.write_npz`; boxes: `boxes.csv` and `boxes/ID.txt`, see
            `exports.write_boxes`.
    `frames.jsonl` is always written: one line per finished frame, which resuming relies on.

    video: where the frames come from; gives size, fps and num_frames unless those are given. An
        overlay of frames that come in another order (backward), or of a resumed run, is drawn at
        the end from a second reading of it, so it must stay open until then.
    names: of objects by id, for tags and rle. settings: of the run (model, prompts ...); resuming
        with others is refused. resume: keep what is there and go on; else the first frame takes
        the place of an earlier run in the folder, so that nothing is lost to a run without frames.
    named: masks and objects are called after the images of the video, a folder, not by number.
    queue: frames that may wait to be written.

    As a context manager it finishes on the way out, also after an error or Ctrl-C.

    Raises InputError for an unknown format, a folder that is a file, not writable or full, results
    that would overwrite the video or what no run wrote, and when resuming with what does not fit.
    """

    file_names = FORMATS

    def __init__(
        self,
        directory: str | Path,
        formats: Iterable[str] = ("masks",),
        *,
        video: Video | None = None,
        size: Size | None = None,
        fps: float | None = None,
        num_frames: int | None = None,
        names: Mapping[int, str] | None = None,
        settings: Mapping[str, Any] | None = None,
        resume: bool = False,
        named: bool = False,
        queue: int = 4,
    ) -> None:
        self.formats = check_formats(formats, FORMATS)
        self._video = video
        self._frame_names = None if video is None else video.frame_names
        self._named = named
        if named:
            check_named(video)
            settings = {**(settings or {}), "named": True}
        info = _video_info(video, size, fps, num_frames, names, settings)
        check_folder(directory, RESULTS, [] if video is None else [video.name])
        self._new_folder = not Path(directory).exists()
        self.directory = make_folder(directory)
        self._earlier = None if resume else self._open_earlier()
        self._journal = Journal(self.directory / JOURNAL, info, resume)
        self._finished = {index for index in self._journal.finished if self._files_there(index)}
        self._overlay = VideoWriter(self._path("overlay"), info.size, info.fps)
        self._last_drawn = -1
        self._redraw = bool(self._finished)
        if "overlay" in self.formats and self._finished:
            self._check_redraw("resuming with an overlay")
        self._background = WriterThread(self._write, queue)

    @property
    def finished(self) -> frozenset[int]:
        """Indices of the frames that need not be tracked again, at the start of a resumed run."""
        return frozenset(self._finished)

    def resume_point(self, backward: bool = False) -> ResumePoint | None:
        """The first frame that is not finished, after (backward: before) those that are in a row.

        None when nothing is finished. May lie past the last frame: then all is done.
        """
        if not self._finished:
            return None
        step = -1 if backward else 1
        frame = max(self._finished) if backward else min(self._finished)
        while frame in self._finished:
            frame += step
        if "masks" in self.formats:
            return ResumePoint(frame, read_mask(self._mask_path(self._stem(frame - step))))
        return ResumePoint(frame, self._journal.record(frame - step).label_map())

    def add(self, frame: Frame | None, result: FrameResult) -> None:
        """Queue one result for writing. frame (H, W, 3), RGB: may be None without an overlay.

        Raises InputError for a result of another size, and what went wrong with earlier frames.
        """
        self._check_open(result.size)
        if "overlay" in self.formats:
            if frame is None:
                raise InputError("an overlay needs the frame with each result")
            # The caller may reuse the array for the next frame.
            frame = frame.copy()
        self._background.submit((frame, result))

    def _name_of(self, index: int) -> str | None:
        """What the source calls a frame, if it has names."""
        return None if self._frame_names is None else self._frame_names[index]

    def _stem(self, index: int) -> str:
        """What the images of a frame are called."""
        return _stem(index, self._name_of(index) if self._named else None)

    def _mask_path(self, stem: str) -> Path:
        return self._path("masks") / f"{stem}.png"

    def _object_path(self, object_id: int, stem: str) -> Path:
        return self._path("objects") / str(object_id) / f"{stem}.png"

    def _box_lines(self, object_id: int) -> Path:
        return box_lines_folder(self._path("boxes")) / f"{object_id}.txt"

    def _files_there(self, index: int) -> bool:
        """Whether the images of a frame in the journal are still on disk."""
        stem = self._stem(index)
        if "masks" in self.formats and not self._mask_path(stem).exists():
            return False
        if "objects" in self.formats:
            ids = self._journal.record(index).object_ids
            return all(self._object_path(object_id, stem).exists() for object_id in ids)
        return True

    def _open_earlier(self) -> Journal | None:
        """The journal of a run in the folder, which the first frame is to replace."""
        path = self.directory / JOURNAL
        return open_journal(path) if path.exists() else None

    def _remove(self, earlier: Journal) -> None:
        """Remove the results of an earlier run, and nothing that a run did not write."""
        named = earlier.info.settings.get("named")
        for record in earlier.records():
            stem = _stem(record.index, record.name if named else None)
            self._mask_path(stem).unlink(missing_ok=True)
            for object_id in record.object_ids:
                self._object_path(object_id, stem).unlink(missing_ok=True)
                self._box_lines(object_id).unlink(missing_ok=True)
        for name in ("overlay", *_EXPORTS):
            self._path(name).unlink(missing_ok=True)
            part_path(self._path(name)).unlink(missing_ok=True)
        for name in PICTURES:
            (self.directory / name).unlink(missing_ok=True)
        objects = self._path("objects")
        folders = [self._path("masks"), box_lines_folder(self._path("boxes")), *objects.glob("*")]
        for folder in (*folders, objects):
            with suppress(OSError):  # not there, or it holds more than a run wrote
                folder.rmdir()

    def _write(self, item: tuple[Frame | None, FrameResult]) -> None:
        frame, result = item
        stem = self._stem(result.index)
        with write_errors(self.directory):
            if self._earlier is not None:
                self._remove(self._earlier)
                self._earlier = None
            self._journal.begin()
            if "masks" in self.formats:
                self._path("masks").mkdir(exist_ok=True)
                write_label_png(self._mask_path(stem), result.label_map())
            if "objects" in self.formats:
                for object_id, mask in zip(result.object_ids, result.masks, strict=True):
                    path = self._object_path(object_id, stem)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    write_mask_png(path, mask)
            if "overlay" in self.formats and frame is not None:
                self._draw(frame, result)
            self._journal.add(result, self._name_of(result.index))

    def _draw(self, frame: Frame, result: FrameResult) -> None:
        """Add a frame to the overlay, or note that the overlay has to wait for the end."""
        if not self._redraw and result.index <= self._last_drawn:
            self._check_redraw("an overlay of frames out of order")
            self._redraw = True
            self._overlay.discard()
        if not self._redraw:
            self._overlay.add(draw_overlay(frame, result, names=self._journal.info.names))
            self._last_drawn = result.index

    def _check_redraw(self, what: str) -> None:
        if self._video is None or not self._video.seekable:
            raise InputError(
                f"{what} needs the video a second time, and it cannot be read again; leave out the"
                " overlay, or give a file"
            )

    def _finish_overlay(self) -> None:
        done = self._journal.finished
        if "overlay" in self.formats and self._redraw and self._video is not None and done:
            self._overlay = VideoWriter(
                self._path("overlay"), self._journal.info.size, self._journal.info.fps
            )
            for index, frame in self._video.frames(min(done), max(done) + 1):
                if index in done:
                    record = self._journal.record(index)
                    self._overlay.add(draw_overlay(frame, record, names=self._journal.info.names))
        self._overlay.close()

    def _write_exports(self) -> None:
        if self._journal.finished:
            for name in self.formats & set(_EXPORTS):
                _EXPORTS[name](self._path(name), self._journal)


def check_named(video: Video | None) -> None:
    """InputError unless the frames of a video have names."""
    if video is None or video.frame_names is None:
        what = "results without a video" if video is None else video.name
        raise InputError(
            f"{what} cannot be called after the source's images, there are none; leave names"
            " out, or give a folder of images"
        )


def _stem(index: int, name: str | None) -> str:
    return f"{index:05d}" if name is None else name


def _video_info(
    video: Video | None,
    size: Size | None,
    fps: float | None,
    num_frames: int | None,
    names: Mapping[int, str] | None,
    settings: Mapping[str, Any] | None,
) -> VideoInfo:
    if video is not None:
        size = size or video.size
        fps = fps or video.fps
        num_frames = num_frames or video.num_frames
    if size is None:
        raise InputError("a result writer needs the video, or the size of its frames")
    source = None if video is None else place_of(video.name)
    return VideoInfo(size, fps, num_frames, names or {}, settings or {}, source)
