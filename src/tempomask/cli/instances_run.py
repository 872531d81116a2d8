"""One run of instance segmentation, from an open video to files: resuming, Ctrl-C, the report."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tempomask.cli import console
from tempomask.cli.interrupts import stop_wish
from tempomask.cli.progress import FrameBar
from tempomask.errors import InputError
from tempomask.instances.model import instance_options
from tempomask.instances.state import restore_session, session_state
from tempomask.io.instance_writer import INSTANCE_FORMATS, INSTANCE_RESULTS, InstanceWriter
from tempomask.io.result_folder import check_folder
from tempomask.io.sources import Frame
from tempomask.results import InstanceSummary

if TYPE_CHECKING:
    from tempomask.instances.model import InstanceModel
    from tempomask.instances.session import InstanceSession
    from tempomask.io.video import Video

# The session is kept every so many frames, and at the end: after a crash, so many are done again.
KEEP_EVERY = 25


@dataclass(frozen=True)
class InstanceRequest:
    """What a person asked for. save: any of INSTANCE_FORMATS. options: of `InstanceModel.track`.

    checkpoint: as it was named; None for the model's own.
    """

    source: str
    start: int
    end: int | None
    options: dict[str, Any]
    out: Path
    save: frozenset[str]
    resume: bool
    checkpoint: str | None = None

    def check(self, video: Video) -> None:
        """InputError for what cannot work, before a model is loaded for it."""
        for name in sorted(self.save - set(INSTANCE_FORMATS)):
            raise InputError(f"--save {name}: unknown; choose from {', '.join(INSTANCE_FORMATS)}")
        instance_options(self.options)
        if self.start < 0 or (self.end is not None and self.end <= self.start):
            raise InputError(f"frames from {self.start} to before {self.end}: there are none")
        if video.num_frames is not None and self.start >= video.num_frames:
            raise InputError(f"{video.name} has {video.num_frames} frames; --start {self.start}")
        check_folder(self.out, INSTANCE_RESULTS, [self.source])
        if self.resume and not video.seekable:
            raise InputError(f"{video.name} cannot be read again, so its run cannot be resumed")


@dataclass
class _Tally:
    frames: int = 0
    seconds: float = 0.0
    interrupted: bool = False


def follow_instances(
    request: InstanceRequest, video: Video, model: InstanceModel
) -> tuple[dict[str, Any], dict[str, Path]]:
    """Find instances and write as asked for; the report, and the files by format."""
    session = model.session(start=request.start, **request.options)
    with InstanceWriter(
        request.out,
        request.save,
        video=video,
        classes=model.classes,
        summary=session.summary,
        settings=_settings(request, model),
        resume=request.resume,
    ) as writer:
        state = writer.state()
        first = request.start if state is None else restore_session(session, state)
        tally = _run(session, video, writer, first, request.end)
        files = dict(writer.finish())
        if not tally.interrupted and _to_the_end(request, video):
            writer.forget_state()
    summary = session.summary()
    report = {
        "source": request.source,
        "model": model.name,
        "router": None if model.router is None else type(model.router).__name__,
        "device": str(model.device),
        "size": list(video.size),
        "frames": tally.frames,
        "seconds": round(tally.seconds, 3),
        "fps": round(tally.frames / tally.seconds, 3) if tally.frames and tally.seconds else None,
        "layers_run": round(summary.layers_run, 3),
        "resumed_at": first if writer.finished else None,
        "interrupted": tally.interrupted,
        "tracks": _tracks(summary),
        "out": str(request.out),
    }
    return report, files


def _to_the_end(request: InstanceRequest, video: Video) -> bool:
    """Whether no later end could extend the run."""
    last = video.num_frames
    return request.end is None or (last is not None and request.end >= last)


def _settings(request: InstanceRequest, model: InstanceModel) -> dict[str, Any]:
    """What must be the same for a run to be resumed."""
    router = model.router
    return {
        "source": Path(request.source).name,
        "model": model.name,
        "checkpoint": request.checkpoint,
        "router": None if router is None else type(router).__name__,
        "short_side": model.config.short_side,
        "start": request.start,
        **asdict(instance_options(request.options)),
    }


def _run(
    session: InstanceSession,
    video: Video,
    writer: InstanceWriter,
    first: int,
    end: int | None,
) -> _Tally:
    """Take every frame from `first` on, until the end or Ctrl-C."""
    last = _least(video.num_frames, end)
    bar = FrameBar(None if last is None else max(0, last - first))
    tally = _Tally()
    with stop_wish() as wish, bar.bar:
        started = time.perf_counter()
        for index, frame in _frames(video, first, end):
            bar.read()
            result = session.step(frame)
            bar.count(len(result), "instance")
            tally.frames += 1
            # Asked once, so that a session that stops is also kept.
            tally.interrupted = wish.is_set()
            ending = tally.interrupted or index + 1 == last
            kept = session_state(session) if ending or tally.frames % KEEP_EVERY == 0 else None
            writer.add(frame, result, kept)
            if tally.interrupted:
                break
        # Within the clock: frames that wait to be written are work too.
        writer.finish()
        tally.seconds = time.perf_counter() - started
    return tally


def _frames(video: Video, first: int, end: int | None) -> Iterator[tuple[int, Frame]]:
    last = _least(video.num_frames, end)
    if last is not None and first >= last:
        return iter(())
    return video.frames(first, end)


def _least(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)


def _tracks(summary: InstanceSummary) -> list[dict[str, Any]]:
    return [
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
