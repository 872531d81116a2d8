"""The task of `instances`: every object of the known classes found and followed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tempomask.cli import console
from tempomask.cli.progress import RunStats
from tempomask.cli.run import Plan, ReplayBuffer, Request, Task
from tempomask.errors import InputError
from tempomask.instances.options import InstanceOptions
from tempomask.io.records import INSTANCES
from tempomask.io.writer import ResultWriter
from tempomask.results import InstanceResult, InstanceTrack
from tempomask.tracking.passes import check_frames

if TYPE_CHECKING:
    from tempomask.instances.model import InstanceModel
    from tempomask.io.video import Video


class InstanceTask(Task):
    """Instance segmentation.

    Args:
        options: Which tracks a frame shows.
    """

    name = INSTANCES
    noun = "instance"

    def __init__(self, options: InstanceOptions) -> None:
        self.options = options

    def check(self, request: Request, video: Video) -> None:
        """InputError for what cannot work, before a model is loaded for it."""
        start, end = request.start or 0, request.end
        if end is not None and end <= start:
            raise InputError(f"--end {end} leaves no frame after --start {start}")
        check_frames(range(start, start + 1), video.num_frames)

    def begin(self, request: Request, frames: ReplayBuffer, model: InstanceModel) -> None:
        """Open a session."""
        self._request, self._video = request, frames
        self._session = model.session(start=request.start or 0, options=self.options)
        self.classes = model.classes
        self._router = None if model.router is None else type(model.router).__name__
        short_side = model.config.short_side
        self.settings = {"router": self._router, "short_side": short_side, **asdict(self.options)}

    def plan(self, writer: ResultWriter) -> Plan:
        """From the state that an earlier run kept; without one, from the front."""
        state = self.kept_state(writer)
        if state is not None:
            self._session.restore(state)
        first = self._session.next_index
        limits = (self._video.num_frames, self._request.end)
        last = min((limit for limit in limits if limit is not None), default=None)
        total = None if last is None else max(0, last - first)
        resumed_at, skip = writer.resume_at(), writer.finished
        return Plan(self._results(first, total), total, resumed_at, skip)

    def state(self) -> bytes | None:
        """The session after the last frame."""
        return self._session.state()

    def tracks(self) -> tuple[InstanceTrack, ...]:
        """The instances of the whole video."""
        return self._session.summary().tracks

    def report(self, stats: RunStats) -> dict[str, Any]:
        """The tracks, and how many decoder layers ran."""
        summary = self._session.summary()
        tracks = [
            {
                "id": track.track_id,
                "class": summary.classes[track.label],
                "score": round(track.score, 4),
                "first_frame": track.first_frame,
                "last_frame": track.last_frame,
                "frames": track.num_frames,
            }
            for track in summary.tracks
        ]
        layers = round(summary.layers_run, 3)
        return {"router": self._router, "layers_run": layers, "tracks": tracks}

    def _results(self, first: int, total: int | None) -> Iterator[InstanceResult]:
        if total != 0:
            for _, frame in self._video.frames(first, self._request.end):
                yield self._session.step(frame)


def print_report(report: Mapping[str, Any]) -> None:
    """The summary for a person."""
    speed, stopped = console.speed_of(report), console.stop_of(report)
    count = len(report["tracks"])
    console.out.print(
        f"{report['frames']} frames{speed}, {count} track{'' if count == 1 else 's'}{stopped}"
    )
    if not report["tracks"]:
        return
    table = console.table("track", "class", ">score", ">first", ">last", ">frames")
    for track in report["tracks"]:
        numbers = (track["first_frame"], track["last_frame"], track["frames"])
        cells = str(track["id"]), track["class"], f"{track['score']:.2f}"
        table.add_row(*cells, *(str(number) for number in numbers))
    console.out.print(table)
