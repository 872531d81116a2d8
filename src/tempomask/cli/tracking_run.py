"""One tracking run, from an open video to files: resuming, Ctrl-C, and what is told at the end."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import numpy as np

from tempomask.cli import console
from tempomask.cli.interrupts import stop_wish
from tempomask.cli.progress import FrameBar, RunStats
from tempomask.cli.resume import Direction, plan
from tempomask.cli.watched import ReplayBuffer
from tempomask.errors import InputError
from tempomask.io.journal import open_journal
from tempomask.io.masks import MAX_ID
from tempomask.io.result_folder import JOURNAL, check_folder
from tempomask.io.writers import FORMATS, RESULTS, ResultWriter, check_named
from tempomask.prompts import check_given
from tempomask.tracking.options import TrackingOptions
from tempomask.tracking.propagate import check_frames, in_order, plan_passes

if TYPE_CHECKING:
    from tempomask.io.video import Video
    from tempomask.model import Model
    from tempomask.prompts import Prompt
    from tempomask.propagation.model import Propagator
    from tempomask.propagation.options import PropagationOptions
    from tempomask.results import FrameResult
    from tempomask.routing.options import Routing

CHART, BLOCKS = "chart", "blocks"
SAVED = (*FORMATS, CHART, BLOCKS)
# The share of a speed that counts as that speed.
MET = 0.95


@dataclass(frozen=True)
class Request:
    """What a person asked for. save: any of SAVED. options, routing: same as in `Model.track`.

    start, end: first frame and the one after the last; backward, end is the last one tracked.
    checkpoint, adapter: as they were named; None for the model's own, and for none.
    prompt_files: that the prompts were read from, not to be overwritten. names: whether masks are
    called after the images of the source.
    """

    source: str
    prompts: list[Prompt]
    direction: Direction
    start: int | None
    end: int | None
    options: TrackingOptions | PropagationOptions
    routing: Routing
    out: Path
    save: frozenset[str]
    resume: bool
    checkpoint: str | None = None
    adapter: str | None = None
    prompt_files: tuple[Path, ...] = ()
    names: bool = False

    def check(self, video: Video) -> None:
        """InputError for what cannot work, before a model is loaded for it."""
        for name in sorted(self.save - set(SAVED)):
            raise InputError(f"--save {name}: unknown; choose from {', '.join(SAVED)}")
        for prompt in self.prompts:
            prompt.check_inside(video.size)
            if prompt.object_id < 1:
                raise InputError(f"object id {prompt.object_id}: ids begin at 1, 0 is background")
            if prompt.object_id > MAX_ID and "masks" in self.save:
                raise InputError(
                    f"object id {prompt.object_id} does not fit a mask image (1 to {MAX_ID});"
                    " take a smaller one, or --save objects with a folder for each"
                )
        self.frames(self.prompts, self.start, video)
        check_given(in_order(self.prompts, self.direction, self.lookahead))
        if self.names:
            check_named(video)
        check_folder(self.out, RESULTS, [self.source, *self.prompt_files])
        if self.resume and not video.seekable:
            raise InputError(f"{video.name} cannot be read again, so its run cannot be resumed")

    @property
    def lookahead(self) -> bool:
        return isinstance(self.options, TrackingOptions) and self.options.lookahead

    def frames(
        self,
        prompts: Sequence[Prompt],
        start: int | None,
        video: Video,
    ) -> range | None:
        """The frames to track from `start` (None: from the prompts on) to the end asked for.

        InputError for an end that leaves out the prompted frame from which tracking starts.
        """
        prompted, end, direction = [prompt.frame for prompt in prompts], self.end, self.direction
        if start is None and end is None:
            return None
        if start is None and not (direction == "both" and self.lookahead):
            _check_end(direction, (max if direction == "backward" else min)(prompted), end)
        if direction == "backward":
            first = max(prompted) if start is None else start
            frames = range(first, (end or 0) - 1, -1)
        else:
            first = min(prompted) if direction == "forward" else 0
            frames = range(first if start is None else start, sys.maxsize if end is None else end)
        if not frames:
            raise InputError(f"there are no frames from {start} to {end}; check --start and --end")
        return check_frames(frames, video.num_frames)


def _check_end(direction: Direction, prompted: int, end: int | None) -> None:
    """InputError for an end that leaves out the prompted frame from which tracking starts."""
    if end is None:
        return
    if direction == "backward" and end > prompted:
        raise InputError(
            f"end {end} lies after the prompt on frame {prompted}; backward, end is the last frame"
            f" tracked: take {prompted} or less"
        )
    if direction != "backward" and end <= prompted:
        raise InputError(
            f"end {end} stops before the prompt on frame {prompted}; end is the first frame left"
            f" out: take {prompted + 1} or more"
        )


def run_tracking(
    request: Request, video: Video, model: Model | Propagator
) -> tuple[dict[str, Any], dict[str, Path]]:
    """Track and write as asked for; the report, and the files by format."""
    frames = request.frames(request.prompts, request.start, video)
    bar = FrameBar(_frames_to_read(request, video, request.prompts, frames))
    watched = ReplayBuffer(video, bar.read)
    options: Any = request.options
    track = partial(
        model.track, watched, direction=request.direction, options=options, routing=request.routing
    )
    # Bad input is refused here, before anything of an earlier run is replaced.
    results = track(request.prompts, frames=frames)
    resumed_at = None
    with ResultWriter(
        request.out,
        request.save - {CHART, BLOCKS},
        video=video,
        settings=_settings(request, model),
        resume=request.resume,
        named=request.names,
    ) as writer:
        point = writer.resume_point(backward=request.direction == "backward")
        if point is not None:
            resumed_at = point.frame
            results = _rest(request, video, track, resumed_at, bar)
        tally = _write(results, watched, writer, bar, _backward_part(request))
        files = dict(writer.finish())
    if tally.indices or resumed_at is not None:
        for name in sorted(request.save & {CHART, BLOCKS}):
            files[name] = _draw(name, request.out)
    report = {
        "source": request.source,
        "model": model.name,
        "image_size": model.config.image_size,
        "device": str(model.device),
        "size": list(video.size),
        **tally.report(),
        "resumed_at": resumed_at,
        "out": str(request.out),
    }
    if request.routing.fps is not None:
        report["fps_target"] = _target(request.routing.fps, tally.settled_speed())
    return report, files


def _frames_to_read(
    request: Request, video: Video, prompts: Sequence[Prompt], frames: range | None
) -> int | None:
    planned = plan_passes(prompts, request.direction, frames, request.lookahead)
    return planned.frames_to_read(video.num_frames)


def _target(wanted: float, reached: float | None) -> dict[str, Any]:
    """Whether frames came as fast as wanted, once the budget had settled."""
    met = None if reached is None else reached >= MET * wanted
    return {"wanted": wanted, "reached": reached and round(reached, 3), "met": met}


def _settings(request: Request, model: Model | Propagator) -> dict[str, Any]:
    """What must be the same for a run to be resumed; not the end, so that it can be extended."""
    attention = getattr(model.config, "memory_attention", None)
    pooling = None if attention is None else attention.pooling
    return {
        "source": Path(request.source).name,
        "model": model.name,
        "checkpoint": request.checkpoint,
        "image_size": model.config.image_size,
        "dtype": str(model.dtype).removeprefix("torch."),
        "pooled_memory": pooling,
        "adapter": request.adapter,
        "direction": request.direction,
        "start": request.start,
        "prompts": [_in_words(prompt) for prompt in request.prompts],
        **request.options.settings(),
        **request.routing.settings(),
    }


def _in_words(prompt: Prompt) -> str:
    """A prompt as a person reads it in a message; another prompt reads otherwise."""
    parts = []
    if prompt.points is not None:
        marks = zip(np.asarray(prompt.points).tolist(), np.asarray(prompt.labels), strict=True)
        parts += [f"click {'on' if label else 'off'} {x:g},{y:g}" for (x, y), label in marks]
    if prompt.box is not None:
        parts.append("box " + ",".join(f"{side:g}" for side in np.asarray(prompt.box).tolist()))
    if prompt.mask is not None:
        digest = hashlib.sha256(np.asarray(prompt.mask).tobytes()).hexdigest()
        parts.append(f"mask {digest[:8]}")
    return f"object {prompt.object_id} on frame {prompt.frame}: {', '.join(parts)}"


def _rest(
    request: Request,
    video: Video,
    track: Callable[..., Iterator[FrameResult]],
    next_frame: int,
    bar: FrameBar,
) -> Iterator[FrameResult]:
    """Results of the frames that an earlier run left, and of those tracked again to get there."""
    if request.direction == "backward":
        done = next_frame < (request.end or 0)
    else:
        last = video.num_frames if request.end is None else request.end
        done = last is not None and next_frame >= last
    if done:
        bar.restart(0)
        return iter(())
    journal = open_journal(request.out / JOURNAL)
    try:
        planned = plan(journal, request.prompts, next_frame, request.direction)
        frames = request.frames(planned.prompts, planned.start, video)
        total = _frames_to_read(request, video, planned.prompts, frames)
        rest = track(planned.prompts, frames=frames)
        first, start = min(journal.finished), request.start or 0
        if request.direction == "both" and first > start:
            # The backward pass was stopped on its way.
            before = plan(journal, request.prompts, first - 1, "backward")
            total = None if total is None else total + before.start - start + 1
            frames = range(start, before.start + 1)
            back = track(before.prompts, direction="backward", frames=frames)
            rest = chain((result for result in back if result.index < first), rest)
    finally:
        journal.close()
    bar.restart(total)
    return rest


def _backward_part(request: Request) -> int:
    """The frame before which results come from a backward pass that is done before they come."""
    if request.direction != "both":
        return 0
    return max(min(prompt.frame for prompt in request.prompts), request.start or 0)


def _write(
    results: Iterable[FrameResult],
    video: ReplayBuffer,
    writer: ResultWriter,
    bar: FrameBar,
    backward_part: int = 0,
) -> RunStats:
    """Write every result that is not there yet, until the end or Ctrl-C.

    Results before frame `backward_part` are written even after Ctrl-C: they were ready by then.
    """
    tally = RunStats()
    drawn = "overlay" in writer.formats
    with stop_wish() as wish, bar.bar:
        if backward_part:
            video.stop = wish
        started = time.perf_counter()
        for result in _ready(results, wish):
            if tally.interrupted and result.index >= backward_part:
                break
            bar.show(result)
            if result.index not in writer.finished:
                writer.add(video.frame(result.index) if drawn else None, result)
                tally.add(result)
            tally.interrupted = wish.is_set()
            if tally.interrupted and result.index >= backward_part:
                break
        tally.interrupted = wish.is_set()
        # Within the clock: frames that wait to be written are work too.
        writer.finish()
        tally.seconds = time.perf_counter() - started
    return tally


def _ready(results: Iterable[FrameResult], wish: Event) -> Iterator[FrameResult]:
    """The results; after Ctrl-C without the complaint that the frames ended before a prompt."""
    try:
        yield from results
    except InputError:
        if not wish.is_set():
            raise


def _draw(name: str, out: Path) -> Path:
    """Which encoder blocks ran on all finished frames; the chart also tells of the objects."""
    from tempomask.reports.figures import save_block_chart, save_run_chart

    path = out / f"{name}.png"
    journal = open_journal(out / JOURNAL)
    try:
        if name == CHART:
            save_run_chart(path, journal.records())
        else:
            rows = [(record.index, record.blocks) for record in journal.records()]
            save_block_chart(path, [index for index, _ in rows], [ran for _, ran in rows])
    finally:
        journal.close()
    return path


def print_report(report: Mapping[str, Any], remedy: str = "--resume goes on") -> None:
    """The summary for a person. remedy: what to do after a stop."""
    share = report["blocks_run"]
    blocks = "" if share in (None, 1) else f", {share:.0%} of the encoder's blocks"
    speed, stopped = console.speed_of(report), console.stop_of(report, remedy)
    console.out.print(f"{report['frames']} frames{speed}{blocks}{stopped}")
    target = report.get("fps_target", {})
    if target.get("reached") is not None:
        met, reached = "met" if target["met"] else "missed", target["reached"]
        text = f"target of {target['wanted']:g} FPS {met}: {reached:.1f} FPS in the second half"
        console.out.print(text)
    if not report["objects"]:
        return
    table = console.table("object", ">frames", ">visible", ">predicted IoU")
    for item in report["objects"]:
        iou = "" if item["predicted_iou"] is None else f"{item['predicted_iou']:.2f}"
        cells = str(item["id"]), str(item["frames"]), str(item["visible_frames"]), iou
        table.add_row(*cells)
    console.out.print(table)
