"""`tempomask track`: a video and a click, box or mask become the object's mask in every frame."""

from __future__ import annotations

import sys
from typing import Annotated

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
)
from tempomask.cli.prompt_options import PromptOptions
from tempomask.errors import InputError
from tempomask.tracking.options import Direction


def track(
    source: str,
    /,
    *,
    prompts: PromptOptions = PromptOptions(),
    everything: Annotated[bool, Parameter(group=EVERYTHING)] = False,
    every: Annotated[int | None, Parameter(group=EVERYTHING), at_least(1)] = None,
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
        direction: forward from the first prompt, backward from the last, or both.
        start: First frame to track.
        end: Frame to stop before; backward, the last one tracked.
    """
    output.check("track")
    if every is not None and not everything:
        raise InputError(f"--every {every} says how often to look for everything; add --everything")
    if everything and direction != "forward":
        raise InputError(f"--everything is tracked forward; leave --direction {direction} out")
    first = max(0, start or 0)
    wanted = [] if everything and not prompts.order else prompts.read(first)
    options = tracking.options()
    with console.waiting("starting"):
        from tempomask.cli.run import Run
        from tempomask.cli.tracking_task import TrackingTask, print_report
        from tempomask.io.video import open_video

    adapter = routing.adapter_for(model.model, model.checkpoint)
    routed = adapter is not None and routing.router != "none"
    saved = ("masks", "overlay", *["blocks"] * routed)
    weights, files = model.checkpoint, prompts.files()
    request = output.request(
        source, "tracked", saved, start=start, end=end, checkpoint=weights, inputs=files
    )
    looks = (every or sys.maxsize) if everything else None
    task = TrackingTask(wanted, direction, options, routing, adapter, looks)
    with open_video(source) as video:
        run = Run(request, task, video)
        report, written = run.execute(model.load(adapter, tracking.pooled_memory))
    return console.conclude(report, written, output.as_json, print_report)
