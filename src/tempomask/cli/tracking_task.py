"""The task of `track` and `propagate`: prompted objects followed through a video.

Going on with an interrupted run, finished masks stand in for the prompts that led to them: what the
tracker remembered is gone, so every object is prompted again with its mask on the last finished
frame on which it was seen, and frames from there on are tracked again without being written.
Prompts on later frames stay as they were given. Masks of a resumed run may therefore differ a
little from those of a run in one go.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tempomask.cli import console
from tempomask.cli.progress import RunStats
from tempomask.cli.run import Plan, ReplayBuffer, Request, Task
from tempomask.errors import InputError
from tempomask.io.images import MAX_ID
from tempomask.io.journal import Journal
from tempomask.io.records import TRACK
from tempomask.io.result_folder import CHARTS, FORMATS
from tempomask.io.writer import ResultWriter
from tempomask.prompts import Prompt, check_given
from tempomask.routing.options import Routing
from tempomask.tracking.options import TrackingOptions
from tempomask.tracking.passes import Direction, check_frames, in_order, plan_passes

if TYPE_CHECKING:
    from tempomask.io.video import Video
    from tempomask.model import Model
    from tempomask.propagation.model import Propagator
    from tempomask.propagation.options import PropagationOptions
    from tempomask.results import FrameResult

# The share of a speed that counts as that speed.
MET = 0.95


class TrackingTask(Task):
    """Tracking of prompted objects.

    Args:
        prompts: Of any objects on any frames.
        direction: As in `Model.track`, like options and routing.
        options: Of a model, or of label propagation.
        routing: Which encoder blocks run.
        adapter: As it was named; None for none.
    """

    name = TRACK
    noun = "object"
    formats = (*FORMATS[TRACK], *CHARTS)

    def __init__(
        self,
        prompts: list[Prompt],
        direction: Direction = "forward",
        options: TrackingOptions | PropagationOptions | None = None,
        routing: Routing | None = None,
        adapter: str | None = None,
    ) -> None:
        self.prompts, self.adapter = prompts, adapter
        self.direction: Direction = direction
        self.options, self.routing = options or TrackingOptions(), routing or Routing()
        self._objects: dict[int, _Object] = {}
        self._blocks: list[NDArray[np.bool_]] = []

    @property
    def lookahead(self) -> bool:
        return isinstance(self.options, TrackingOptions) and self.options.lookahead

    def check(self, request: Request, video: Video) -> None:
        """InputError for what cannot work, before a model is loaded for it."""
        for prompt in self.prompts:
            prompt.check_inside(video.size)
            if prompt.object_id < 1:
                raise InputError(f"object id {prompt.object_id}: ids begin at 1, 0 is background")
            if prompt.object_id > MAX_ID and "masks" in request.save:
                raise InputError(
                    f"object id {prompt.object_id} does not fit a mask image (1 to {MAX_ID});"
                    " take a smaller one, or --save objects with a folder for each"
                )
        self.frames(self.prompts, request.start, request.end, video.num_frames)
        check_given(in_order(self.prompts, self.direction, self.lookahead))

    def frames(
        self,
        prompts: Sequence[Prompt],
        start: int | None,
        end: int | None,
        num_frames: int | None,
    ) -> range | None:
        """The frames to track from `start` (None: from the prompts on) to before `end`.

        Raises:
            InputError: Where that leaves no frame.
        """
        if start is None and end is None:
            return None
        prompted = [prompt.frame for prompt in prompts]
        if self.direction == "backward":
            first = max(prompted) if start is None else start
            frames, meaning = range(first, (end or 0) - 1, -1), "the last frame tracked"
        else:
            low = min(prompted) if self.direction == "forward" else 0
            first = low if start is None else start
            frames = range(first, sys.maxsize if end is None else end)
            meaning = "the first frame left out"
        if not frames:
            raise InputError(
                f"--end {end} leaves no frame: tracking starts at frame {first}, and the end is"
                f" {meaning}"
            )
        return check_frames(frames, num_frames)

    def begin(self, request: Request, frames: ReplayBuffer, model: Model | Propagator) -> None:
        """InputError for what does not fit the model, before anything is written."""
        self._request, self._video = request, frames
        options: Any = self.options
        self._track = partial(
            model.track, frames, direction=self.direction, options=options, routing=self.routing
        )
        self._full_plan = self._plan_from(self.prompts, request.start)
        self.settings = {
            "image_size": model.image_size,
            "dtype": str(model.dtype).removeprefix("torch."),
            "pooled_memory": model.pooling,
            "adapter": self.adapter,
            "direction": self.direction,
            "prompts": [_described(prompt) for prompt in self.prompts],
            **self.options.settings(),
            **self.routing.settings(),
        }

    def plan(self, writer: ResultWriter) -> Plan:
        """What to do: everything, or the frames that an earlier run left."""
        direction, request = self.direction, self._request
        frame = writer.resume_at(backward=direction == "backward")
        if frame is None:
            return self._full_plan
        if direction == "backward":
            done = frame < (request.end or 0)
        else:
            last = self._video.num_frames if request.end is None else request.end
            done = last is not None and frame >= last
        if done:
            return Plan(iter(()), 0, frame)
        rest = self._plan_from(*resume_prompts(writer.journal, self.prompts, frame, direction))
        results, total = rest.results, rest.total
        first, start = min(writer.journal.finished), request.start or 0
        if direction == "both" and first > start:
            # The backward pass was stopped on its way.
            prompts, begin = resume_prompts(writer.journal, self.prompts, first - 1, "backward")
            total = None if total is None else total + begin - start + 1
            frames = range(start, begin + 1)
            back = self._track(prompts, direction="backward", frames=frames)
            results = chain((result for result in back if result.index < first), results)
        return Plan(results, total, frame, writer.finished)

    def note(self, result: FrameResult) -> None:
        """Count the objects, and the blocks that ran."""
        self._blocks.append(result.blocks)
        # Masks at the video's size are left to the thread that writes them, where that will do.
        masks = result.masks if result.non_overlapping else result.low_res_logits > 0
        for i, object_id in enumerate(result.object_ids):
            seen = self._objects.setdefault(object_id, _Object())
            seen.frames += 1
            if masks[i].any():
                seen.visible += 1
                seen.predicted_iou += float(result.predicted_iou[i])

    def report(self, stats: RunStats) -> dict[str, Any]:
        """Frames, blocks and objects; with a target for the speed, whether it was met."""
        shares = [float(blocks.mean()) for blocks in self._blocks if blocks.any()]
        told = {
            "image_size": self.settings.get("image_size"),
            "first_frame": min(stats.indices, default=None),
            "last_frame": max(stats.indices, default=None),
            "blocks_run": round(sum(shares) / len(shares), 4) if shares else None,
            "objects": [seen.report(i) for i, seen in sorted(self._objects.items())],
        }
        wanted = self.routing.fps
        if wanted is not None:
            reached = stats.settled_speed()
            met = None if reached is None else reached >= MET * wanted
            rounded = reached and round(reached, 3)
            told["fps_target"] = {"wanted": wanted, "reached": rounded, "met": met}
        return told

    def _plan_from(self, prompts: Sequence[Prompt], start: int | None) -> Plan:
        """Tracking from `start` on; InputError for what does not fit the model or the video."""
        count = self._video.num_frames
        frames = self.frames(prompts, start, self._request.end, count)
        planned = plan_passes(prompts, self.direction, frames, self.lookahead)
        return Plan(self._track(prompts, frames=frames), planned.frames_to_read(count))


@dataclass
class _Object:
    """What became of an object: frames on which it was tracked and seen, sum of predicted IoU."""

    frames: int = 0
    visible: int = 0
    predicted_iou: float = 0.0

    def report(self, object_id: int) -> dict[str, Any]:
        iou = round(self.predicted_iou / self.visible, 4) if self.visible else None
        seen = {"frames": self.frames, "visible_frames": self.visible}
        return {"id": object_id, **seen, "predicted_iou": iou}


def resume_prompts(
    journal: Journal, prompts: Sequence[Prompt], next_frame: int, direction: Direction
) -> tuple[list[Prompt], int]:
    """How to go on at `next_frame`, with the frames before it (backward: after it) finished.

    Returns:
        The prompts, finished masks among them, and the frame to start from.
    """
    sign = -1 if direction == "backward" else 1
    begun = {p.object_id for p in prompts if sign * p.frame < sign * next_frame}
    seen: dict[int, Prompt] = {}
    finished = (frame for frame in journal.finished if sign * frame < sign * next_frame)
    for frame in sorted(finished, key=lambda frame: -sign * frame):
        if begun <= set(seen):
            break
        record = journal.record(frame)
        for i, object_id in enumerate(record.ids):
            if object_id in begun - set(seen) and record.areas[i]:
                seen[object_id] = Prompt(frame, object_id, mask=record.masks[i])
    later = [
        prompt
        for prompt in prompts
        if prompt.object_id not in seen or sign * prompt.frame > sign * seen[prompt.object_id].frame
    ]
    planned = [*seen.values(), *later]
    # Every frame before a later prompt has to be tracked too, so the next one is the latest start.
    return planned, sign * min(sign * next_frame, *(sign * prompt.frame for prompt in planned))


def _described(prompt: Prompt) -> str:
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
