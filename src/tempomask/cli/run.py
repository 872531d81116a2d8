"""One run through a video, from its frames to files: resuming, Ctrl-C, progress and the report.

What is done with the frames is a task: `tracking_task.py` follows prompted objects (`track` and
`propagate`), `instance_task.py` finds instances.
"""

from __future__ import annotations

import signal
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, current_thread, main_thread
from types import FrameType, MappingProxyType
from typing import Any

from tempomask.cli import console
from tempomask.cli.progress import FrameBar, RunStats
from tempomask.devices import computation
from tempomask.errors import InputError
from tempomask.frames import Frame, IndexedFrames, Size
from tempomask.io.audio import source_of_audio
from tempomask.io.exports import Tracks
from tempomask.io.journal import VideoInfo, open_journal
from tempomask.io.records import Result, ids_of
from tempomask.io.result_folder import CHARTS, JOURNAL, ResultFolder
from tempomask.io.video import Video
from tempomask.io.writer import ResultWriter, check_named
from tempomask.tracking.base import next_frame
from tempomask.tracking.upload import AHEAD

# The state of a session is kept every so many frames, and at the end: after a crash, so many are
# done again.
KEEP_EVERY = 25
# And less often where it would cost more than this share of the time.
KEEP_SHARE = 0.01


@dataclass(frozen=True)
class Request:
    """What a person asked for, whatever the task.

    Attributes:
        source: As for `open_video`.
        out: Folder of the results.
        save: Names of formats and charts.
        resume: Go on with the run in `out`.
        start: First frame; None leaves it to the task.
        end: Frame to stop before; backward, the last one tracked.
        checkpoint: As it was named; None for the model's own.
        names: Whether masks are called after the images of the source.
        audio: Whether the overlay has the audio of the source.
        inputs: Files that were read for the task, not to be overwritten.
    """

    source: str
    out: Path
    save: frozenset[str]
    resume: bool = False
    start: int | None = None
    end: int | None = None
    checkpoint: str | None = None
    names: bool = False
    audio: bool = False
    inputs: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Plan:
    """What is still to be done.

    Attributes:
        results: Of the frames, in the order in which they are tracked.
        total: Number of frames to read; None where the video does not tell its length.
        resumed_at: The first frame that an earlier run left; None in a new run.
        skip: Frames that are there already, and tracked again only to get to the others.
    """

    results: Iterator[Result]
    total: int | None
    resumed_at: int | None = None
    skip: Collection[int] = ()


class Task(ABC):
    """What is done with the frames of a video: a subclass for objects, one for instances.

    Attributes:
        name: `track` or `instances`.
        noun: What a result shows.
        classes: Of instances; None for tracked objects.
        settings: What must be the same for the run to be resumed, once it has begun.
        backward: Frames are tracked in descending order.
    """

    name: str
    noun: str
    classes: tuple[str, ...] | None = None
    settings: Mapping[str, Any] = MappingProxyType({})
    backward: bool = False

    @abstractmethod
    def check(self, request: Request, video: Video) -> None:
        """InputError for what cannot work, before a model is loaded for it."""

    @abstractmethod
    def begin(self, request: Request, frames: ReplayBuffer, model: Any) -> None:
        """InputError for what does not fit the model, before anything is written."""

    @abstractmethod
    def plan(self, writer: ResultWriter) -> Plan:
        """What to do, from the front or from where an earlier run stopped."""

    def kept_state(self, writer: ResultWriter) -> bytes | None:
        """The session that an earlier run kept, unless results up to it are gone."""
        state, at = writer.state(), writer.resume_at(self.backward)
        if state is None or at is None:
            return None
        following = next_frame(state)
        return state if (following >= at if self.backward else following <= at) else None

    def note(self, result: Any) -> None:  # noqa: B027 - a task may have nothing to count
        """Count what a result shows, for the report."""

    def state(self) -> bytes | None:
        """The session after the last result, to go on with later; None if it keeps none."""
        return None

    def tracks(self) -> Tracks:
        """The instances of the whole video; none of tracked objects."""
        return ()

    @abstractmethod
    def report(self, stats: RunStats) -> dict[str, Any]:
        """What the report tells besides what every run does."""


class Run:
    """One run of a task through an open video.

    Args:
        request: What a person asked for.
        task: What is done with the frames.
        video: Open until the run is over.

    Raises:
        InputError: For what cannot work, before a model is loaded for it.
    """

    def __init__(self, request: Request, task: Task, video: Video) -> None:
        self.request, self.task, self.video = request, task, video
        task.check(request, video)
        if request.names:
            check_named(video)
        if request.audio:
            source_of_audio(video)
        ResultFolder(request.out, task.name).check([request.source, *request.inputs])
        if request.resume and not video.seekable:
            raise InputError(f"{video.name} cannot be read again, so its run cannot be resumed")

    def execute(self, model: Any) -> tuple[dict[str, Any], dict[str, Path]]:
        """Do it with a model: the report, and the files by format."""
        request, task, video = self.request, self.task, self.video
        used = computation(model.device, model.dtype)
        console.detail(
            f"computing on {used['device']}, {used['dtype']}, {used['threads']} threads of"
            f" {used['machine']}, torch {used['torch']}"
        )
        bar = FrameBar(task.noun)
        frames = ReplayBuffer(video, bar.read)
        # Bad input is refused here, before anything of an earlier run is replaced.
        task.begin(request, frames, model)
        settings = {
            "source": Path(request.source).name,
            "model": model.name,
            "checkpoint": request.checkpoint,
            "start": request.start,
            **task.settings,
        }
        with ResultWriter(
            request.out,
            VideoInfo.of(video, settings, task.classes),
            request.save - set(CHARTS),
            video=video,
            tracks=task.tracks,
            resume=request.resume,
            named=request.names,
            audio=request.audio,
        ) as writer:
            plan = task.plan(writer)
            bar.expect(plan.total)
            stats = self._write(plan, frames, writer, bar)
            files = dict(writer.finish())
        if stats.indices or plan.resumed_at is not None:
            charts = [name for name in CHARTS if name in request.save]
            files |= {name: _draw(name, request.out, writer.colors) for name in charts}
        report = {
            "source": request.source,
            "model": model.name,
            **used,
            "size": list(video.size),
            **stats.report(),
            **task.report(stats),
            "resumed_at": plan.resumed_at,
            "out": str(request.out),
        }
        return report, files

    def _write(
        self, plan: Plan, frames: ReplayBuffer, writer: ResultWriter, bar: FrameBar
    ) -> RunStats:
        """Write every result that is not there yet, until the end or Ctrl-C."""
        stats = RunStats()
        with stop_on_interrupt() as stop, bar.bar:
            frames.stop = stop
            started = time.perf_counter()
            tracked, keeper = 0, _Keeper(self.task, writer)
            for tracked, result in enumerate(_until(stop, plan.results), 1):
                bar.show(len(ids_of(result)))
                if result.index not in plan.skip:
                    writer.add(frames.frame(result.index) if writer.draws else None, result)
                    stats.add(result.index)
                    self.task.note(result)
                if tracked % KEEP_EVERY == 0:
                    keeper.keep_if_cheap()
            stats.interrupted = stop.is_set()
            if tracked:
                keeper.keep()
            # Within the clock: frames that wait to be written are work too.
            writer.finish()
            stats.seconds = time.perf_counter() - started
        end, last = self.request.end, self.video.num_frames
        if not stats.interrupted and (end is None or (last is not None and end >= last)):
            writer.forget_state()
        return stats


class _Keeper:
    """Keeps a task's state, so seldom that it costs little."""

    def __init__(self, task: Task, writer: ResultWriter) -> None:
        self._task, self._writer = task, writer
        self._not_before = 0.0

    def keep(self) -> None:
        """Keep the state after the results so far."""
        began = time.perf_counter()
        self._writer.keep(self._task.state())
        ended = time.perf_counter()
        self._not_before = ended + (ended - began) / KEEP_SHARE

    def keep_if_cheap(self) -> None:
        """The same, unless the last time has cost more than KEEP_SHARE of the time since."""
        if time.perf_counter() >= self._not_before:
            self.keep()


class ReplayBuffer:
    """The frames of a video, each reported as it is read; the last few are kept to draw on.

    A `FrameSource` for `Model.track`.

    Args:
        video: That is read.
        on_read: Called for every frame that the tracker reads.

    Attributes:
        stop: Once set, the frames end.
    """

    def __init__(self, video: Video, on_read: Callable[[], None]) -> None:
        self.video, self._on_read = video, on_read
        # On a GPU frames are read ahead of the one whose result comes.
        self._latest: deque[tuple[int, Frame]] = deque(maxlen=AHEAD + 1)
        self._again: IndexedFrames = iter(())
        self._again_at = -1
        self.stop = Event()

    @property
    def size(self) -> Size:
        return self.video.size

    @property
    def num_frames(self) -> int | None:
        return self.video.num_frames

    @property
    def seekable(self) -> bool:
        return self.video.seekable

    def frames(self, start: int = 0, end: int | None = None) -> IndexedFrames:
        return self._watch(self.video.frames(start, end))

    def reversed_frames(self, start: int, end: int = 0) -> IndexedFrames:
        return self._watch(self.video.reversed_frames(start, end))

    def frame(self, index: int) -> Frame:
        """The frame of a result: a tracked one is at hand; one of an earlier pass is read again.

        In one go, where they are asked for in ascending order.
        """
        for known, frame in self._latest:
            if known == index:
                return frame
        if self._again_at != index:
            self._again = iter(self.video.frames(index))
        self._again_at = index + 1
        return next(self._again)[1]

    def _watch(self, frames: IndexedFrames) -> IndexedFrames:
        while not self.stop.is_set() and (item := next(frames, None)) is not None:
            self._latest.append(item)
            self._on_read()
            yield item


@contextmanager
def stop_on_interrupt() -> Iterator[Event]:
    """An event that Ctrl-C, SIGTERM or SIGHUP sets; the same a second time acts at once, as usual.

    A SIGHUP that is ignored (nohup) stays so.
    """
    stop = Event()
    before: dict[int, Any] = {}

    def interrupted(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, before[number])
        stop.set()
        with suppress(OSError):  # of a terminal that is gone
            console.note("stopping after this frame; again, to stop at once")

    # Only the main thread may handle signals.
    for name in ("SIGINT", "SIGTERM", "SIGHUP") if current_thread() is main_thread() else ():
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is None or (name == "SIGHUP" and signal.getsignal(number) == signal.SIG_IGN):
            continue
        before[number] = signal.signal(number, interrupted)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _until(stop: Event, results: Iterable[Result]) -> Iterator[Result]:
    """The results; once stopped, without the complaint that the frames ended before a prompt."""
    try:
        yield from results
    except InputError:
        if not stop.is_set():
            raise


def _draw(name: str, out: Path, colors: Mapping[int, tuple[int, int, int]]) -> Path:
    """Which encoder blocks ran on all finished frames; the chart also tells of the objects.

    colors: Of objects by id, as in the overlay.
    """
    from tempomask.reports.figures import save_block_chart, save_run_chart

    path = out / CHARTS[name]
    journal = open_journal(out / JOURNAL)
    if name == "chart":
        save_run_chart(path, journal.records(), colors)
    else:
        rows = [(record.index, record.blocks) for record in journal.records()]
        save_block_chart(path, [index for index, _ in rows], [ran for _, ran in rows])
    return path
