"""`tempomask propagate`: masks of one frame flow through a video by the similarity of patches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from tempomask.cli import console
from tempomask.cli.options import FRAMES, ModelOptions, RoutingOptions, RunOutput
from tempomask.errors import InputError
from tempomask.propagation.options import PropagationOptions

if TYPE_CHECKING:
    from tempomask.prompts import Prompt


def propagate(
    source: str,
    /,
    *,
    mask: Annotated[list[Path] | None, Parameter(n_tokens=1)] = None,
    model: ModelOptions = ModelOptions(),
    propagation: Annotated[
        PropagationOptions, Parameter(name="*", group="Propagation")
    ] = PropagationOptions(),
    routing: RoutingOptions = RoutingOptions(),
    frame: Annotated[int, Parameter(group=FRAMES)] = 0,
    end: Annotated[int | None, Parameter(group=FRAMES)] = None,
    direction: Annotated[Literal["forward", "backward"], Parameter(group=FRAMES)] = "forward",
    output: RunOutput = RunOutput(),
) -> int:
    """Propagate masks through SOURCE without any training, as DINOv3's published tracking does.

    `tempomask propagate dog.mp4 --mask first.png --model dinov3-vits16`

    `tempomask propagate dog.mp4 --mask first.png --adapter adapter --budget 0.6`

    The model is dinov3-vits16 or a larger one, or any of `tempomask models`, by its encoder.
    Ctrl-C stops after the frame at hand and keeps what is finished; the exit code is then 130.

    Args:
        source: Video file, folder of images, stream URL, or a number for a camera.
        mask: Mask on the first frame: an image with several ids starts one object for each, plain
            masks are objects 1, 2 ... in the order given.
        frame: Frame of the masks.
        end: Frame to stop before; backward, the last one reached.
        direction: forward or backward.
    """
    output.check("track")
    prompts = masks_at(frame, mask or [])
    with console.waiting("starting"):
        from tempomask.cli.run import Run
        from tempomask.cli.tracking_task import TrackingTask, print_report
        from tempomask.io.video import open_video

    if model.image_size is not None:
        propagation = replace(propagation, short_side=model.image_size)
    adapter = routing.adapter_for(model.model, model.checkpoint)
    saved, weights, files = ("masks", "overlay"), model.checkpoint, tuple(mask or ())
    request = output.request(source, "tracked", saved, end=end, checkpoint=weights, inputs=files)
    task = TrackingTask(prompts, direction, propagation, routing, adapter)
    with open_video(source) as video:
        run = Run(request, task, video)
        loaded = model.load_propagator(model.model, adapter, propagation.short_side)
        report, written = run.execute(loaded)
    return console.conclude(report, written, output.as_json, print_report)


def masks_at(frame: int, paths: list[Path]) -> list[Prompt]:
    """The objects of mask images as prompts on a frame; InputError if two have the same id."""
    if not paths:
        raise InputError("no mask given; say where the objects are on the first frame with --mask")
    from tempomask.io.prompt_file import mask_prompts

    prompts = [prompt for n, path in enumerate(paths, 1) for prompt in mask_prompts(path, frame, n)]
    ids = [prompt.object_id for prompt in prompts]
    for object_id in ids:
        if ids.count(object_id) > 1:
            raise InputError(f"object {object_id} has two masks; use images with ids of their own")
    return prompts
