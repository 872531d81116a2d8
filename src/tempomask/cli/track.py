"""`tempomask track`: a video and a click, box or mask become the object's mask in every frame."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from tempomask.cli import console
from tempomask.cli.options import (
    EVERYTHING,
    FRAMES,
    ModelOptions,
    RoutingOptions,
    RunOutput,
    TrackingFlags,
    at_least,
    refuse,
)
from tempomask.cli.prompt_options import PromptOptions
from tempomask.errors import InputError
from tempomask.tracking.options import Direction, TrackingOptions

if TYPE_CHECKING:
    from tempomask.matching.model import Matcher
    from tempomask.matching.options import MatchingOptions
    from tempomask.model import Model
    from tempomask.prompts import Prompt

LoadModel = Callable[[ModelOptions, "str | None", bool], "Model | Matcher"]


def track(
    source: str,
    /,
    *,
    prompts: PromptOptions = PromptOptions(),
    everything: Annotated[bool, Parameter(group=EVERYTHING)] = False,
    every: Annotated[int | None, Parameter(group=EVERYTHING), at_least(1)] = None,
    detections: Annotated[str | None, Parameter(group=EVERYTHING)] = None,
    model: ModelOptions = ModelOptions(),
    routing: RoutingOptions = RoutingOptions(),
    direction: Annotated[Direction, Parameter(group=FRAMES)] = "forward",
    start: Annotated[int | None, Parameter(group=FRAMES)] = None,
    end: Annotated[int | None, Parameter(group=FRAMES)] = None,
    tracking: TrackingFlags = TrackingFlags(),
    output: RunOutput = RunOutput(),
) -> int:
    """Track objects through SOURCE, from clicks, boxes or masks.

    `tempomask track dog.mp4 --point 410,260`

    `tempomask track dog.mp4 --point 410,260 --object 2 --box 20,30,180,200 --save masks,rle`

    `tempomask track dog.mp4 --point 410,260 --router rds --budget 0.6`

    `tempomask track dog.mp4 --everything --every 30`

    Formats of --save: masks, objects, overlay, cutouts, rle, npz, boxes, coco, yolo, mot, mots,
    chart, blocks. Default: masks,overlay, and blocks with an adapter. Ctrl-C stops after the frame
    at hand and keeps what is finished; the exit code is then 130.

    Args:
        source: Video file, folder of images, stream URL, or a number for a camera.
        everything: Find all there is on the first frame, and track it; prompts may be added.
        every: With --everything, look for what is new on every so many frames.
        detections: Boxes of a detector that start objects, unless one has them: a JSON file with
            {frame: [[x0, y0, x1, y1], ...]}, or that.
        direction: forward from the first prompt, backward from the last, or both.
        start: First frame to track.
        end: Frame to stop before; backward, the last one tracked.
    """
    asked = Asked(
        source,
        prompts,
        everything,
        every,
        detections,
        model,
        routing,
        direction,
        start,
        end,
        tracking,
        output,
    )
    wanted, options = asked.check()
    report, written = asked.execute(wanted, options, ModelOptions.load_tracker)
    return console.conclude(report, written, output.as_json, _print)


@dataclass(frozen=True)
class Asked:
    """All that `track` was asked for; the fields are its parameters."""

    source: str
    prompts: PromptOptions
    everything: bool
    every: int | None
    detections: str | None
    model: ModelOptions
    routing: RoutingOptions
    direction: Direction
    start: int | None
    end: int | None
    tracking: TrackingFlags
    output: RunOutput

    def check(self) -> tuple[list[Prompt], TrackingOptions | MatchingOptions]:
        """The prompts and options; InputError for what does not go together."""
        self.output.check("track")
        if self.every is not None and not self.everything:
            raise InputError(
                f"--every {self.every} says how often to look for everything; add --everything"
            )
        if self.everything and self.detections is not None:
            raise InputError("--detections and --everything both start objects; leave one out")
        arriving = self.everything or self.detections is not None
        if arriving and self.direction != "forward":
            option = "everything" if self.everything else "detections"
            raise InputError(
                f"--{option} is tracked forward; leave --direction {self.direction} out"
            )
        first = max(0, self.start or 0)
        bare = arriving and not self.prompts.order
        if self.detections is not None:
            from tempomask.io.prompt_file import read_detections

            read_detections(self.detections)
        wanted = [] if bare else self.prompts.read(first)
        if self.model.matches:
            return wanted, self._matching(wanted)
        return wanted, self.tracking.options()

    def _matching(self, wanted: list[Prompt]) -> MatchingOptions:
        """The options of Cutie and XMem; InputError for what they do not take."""
        from tempomask.matching.options import MatchingOptions

        name = self.model.model
        refuse(f"{name} has a memory of its own", self.tracking, self.routing)
        refuse(
            f"{name} tracks the masks it is given",
            everything=self.everything,
            detections=self.detections,
        )
        if any(prompt.mask is None for prompt in wanted):
            raise InputError(
                f"{name} tracks masks; give --mask, and make one of a click or box with `tempomask"
                " segment` (nano)"
            )
        side = self.model.image_size
        return MatchingOptions() if side is None else MatchingOptions(short_side=side)

    def execute(
        self,
        wanted: list[Prompt],
        options: TrackingOptions | MatchingOptions,
        load: LoadModel,
    ) -> tuple[dict[str, Any], dict[str, Path]]:
        """Track: the report, and the files by format. load: as `ModelOptions.load`."""
        with console.waiting("starting"):
            from tempomask.cli.run import Run
            from tempomask.cli.tracking_task import TrackingTask
            from tempomask.io.prompt_file import files_of, read_detections
            from tempomask.io.video import open_video

        model, routing = self.model, self.routing
        adapter = routing.adapter_for(model.model, model.checkpoint)
        routed = adapter is not None and routing.router != "none"
        request = self.output.request(
            self.source,
            "tracked",
            ("masks", "overlay", *["blocks"] * routed),
            start=self.start,
            end=self.end,
            checkpoint=model.checkpoint,
            inputs=(*self.prompts.files(), *files_of(self.detections)),
        )
        looks = (self.every or sys.maxsize) if self.everything else None
        found = None if self.detections is None else read_detections(self.detections)
        task = TrackingTask(wanted, self.direction, options, routing, adapter, looks, found)
        with open_video(self.source) as video:
            run = Run(request, task, video)
            return run.execute(load(model, adapter, self.tracking.pooled_memory))


def _print(report: Mapping[str, Any]) -> None:
    from tempomask.cli.tracking_task import print_report

    print_report(report)
