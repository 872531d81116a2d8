"""The task of `track` and `propagate`: prompted objects followed through a video."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tempomask.cli import console
from tempomask.cli.progress import RunStats
from tempomask.cli.run import Plan, ReplayBuffer, Request, Task
from tempomask.errors import InputError
from tempomask.frames import Frame
from tempomask.io.images import MAX_ID
from tempomask.io.records import TRACK
from tempomask.io.writer import ResultWriter
from tempomask.prompts import Prompt, check_given
from tempomask.routing.options import Routing
from tempomask.tracking.base import next_frame
from tempomask.tracking.options import TrackingOptions
from tempomask.tracking.passes import Direction, check_frames, in_order, plan_passes

if TYPE_CHECKING:
    from tempomask.io.video import Video
    from tempomask.matching.model import Matcher
    from tempomask.matching.options import MatchingOptions
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
        every: Everything on every so many frames starts objects too; None without that.
        detections: Boxes by frame that start objects too.
    """

    name = TRACK
    noun = "object"

    def __init__(
        self,
        prompts: list[Prompt],
        direction: Direction = "forward",
        options: TrackingOptions | PropagationOptions | MatchingOptions | None = None,
        routing: Routing | None = None,
        adapter: str | None = None,
        every: int | None = None,
        detections: Mapping[int, Sequence[Sequence[float]]] | None = None,
    ) -> None:
        self.prompts, self.adapter, self.every = prompts, adapter, every
        self.detections = detections
        self.direction: Direction = direction
        self.backward = direction == "backward"
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
        self.frames(request, video.num_frames)
        check_given(in_order(self.prompts, self.direction, self.lookahead))

    def frames(self, request: Request, num_frames: int | None) -> range | None:
        """The frames to track, None for the usual ones; InputError where that leaves no frame."""
        start, end = request.start, request.end
        if self.every is not None or self.detections is not None:
            start = start or 0
        if start is None and end is None:
            return None
        prompted = [prompt.frame for prompt in self.prompts] or [0]
        if self.backward:
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

    def begin(
        self, request: Request, frames: ReplayBuffer, model: Model | Propagator | Matcher
    ) -> None:
        """InputError for what does not fit the model, before anything is written."""
        self._request, self._video = request, frames
        rest: dict[str, Any] = {"options": self.options, "routing": self.routing}
        if self.every is not None:
            rest["detections"] = partial(self._everything, model, request.start or 0)
        elif self.detections is not None:
            rest["detections"] = self.detections
        self._track = partial(model.track, frames, direction=self.direction, **rest)
        self._full_plan = self._plan_from()
        self.settings = {
            "image_size": model.image_size,
            "dtype": str(model.dtype).removeprefix("torch."),
            "pooled_memory": model.pooling,
            "adapter": self.adapter,
            "direction": self.direction,
            "prompts": [_described(prompt) for prompt in self.prompts],
            **({} if self.every is None else {"everything": self.every}),
            **({} if self.detections is None else {"detections": _digest(self.detections)}),
            **self.options.settings(),
            **self.routing.settings(),
        }

    def _everything(
        self, model: Any, start: int, index: int, frame: Frame
    ) -> NDArray[np.bool_] | None:
        """Masks (K, H, W) of everything, on every so many frames from the first on."""
        if (index - start) % (self.every or 1):
            return None
        return model.everything(frame, routing=self.routing).masks

    def plan(self, writer: ResultWriter) -> Plan:
        """What to do: everything, or the frames that an earlier run left."""
        request, count = self._request, self._video.num_frames
        resumed_at = writer.resume_at(self.backward)
        if resumed_at is None:
            return self._full_plan
        if self.backward:
            done = resumed_at < (request.end or 0)
        else:
            last = count if request.end is None else request.end
            done = last is not None and resumed_at >= last
        if done:
            return Plan(iter(()), 0, resumed_at)
        rest = self._plan_from(self.kept_state(writer))
        return replace(rest, resumed_at=resumed_at, skip=writer.finished)

    def state(self) -> bytes | None:
        """The session after the last frame."""
        return self._tracks.state()

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

    def _plan_from(self, state: bytes | None = None) -> Plan:
        """Tracking from a state on; InputError for what does not fit the model or the video."""
        count = self._video.num_frames
        frames = self.frames(self._request, count)
        planned = plan_passes(self.prompts, self.direction, frames, self.lookahead)
        self._tracks = self._track(self.prompts, frames=frames, state=state)
        if state is not None:
            planned = planned.after(next_frame(state))
        return Plan(self._tracks, planned.frames_to_read(count))


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


def _digest(detections: Mapping[int, Sequence[Sequence[float]]]) -> str:
    return hashlib.sha256(repr(sorted(detections.items())).encode()).hexdigest()[:12]


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
