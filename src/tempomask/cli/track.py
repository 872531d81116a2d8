"""`tempomask track`: a video and a click, box or mask become the object's mask in every frame."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from tempomask.cli import choices, console, run_choices
from tempomask.cli.prompt_options import given_options, prompt_files, prompts_from_options
from tempomask.errors import InputError
from tempomask.tracking.options import TrackingOptions

if TYPE_CHECKING:
    from tempomask.tracking.options import Compatibility, Preset
    from tempomask.tracking.propagate import Direction

_PROMPTS = "Prompts, in order: --object and --frame are for those after them"
_RANGE = "Frames"
SAVED = "masks,overlay"

# The prompts are read from the command line's order (`given_options`), these only describe them.
Words = list[str] | None


def track(
    ctx: typer.Context,
    source: run_choices.Source,
    *,
    point: Annotated[
        Words,
        typer.Option(metavar="X,Y", help="A click on the object.", rich_help_panel=_PROMPTS),
    ] = None,
    negative: Annotated[
        Words,
        typer.Option(metavar="X,Y", help="A click off the object.", rich_help_panel=_PROMPTS),
    ] = None,
    box: Annotated[
        Words,
        typer.Option(
            metavar="X0,Y0,X1,Y1", help="A box around the object.", rich_help_panel=_PROMPTS
        ),
    ] = None,
    mask: Annotated[
        Words,
        typer.Option(
            metavar="PNG",
            help="The object's mask; an image with several ids starts one object for each.",
            rich_help_panel=_PROMPTS,
        ),
    ] = None,
    object_id: Annotated[
        Words,
        typer.Option(
            "--object",
            metavar="N",
            help="Object of the prompts after it; given once behind all, of all.",
            rich_help_panel=_PROMPTS,
        ),
    ] = None,
    frame: Annotated[
        Words,
        typer.Option(
            metavar="K",
            help="Frame of the prompts after it; given once behind all, of all. Default: the"
            " first to track.",
            rich_help_panel=_PROMPTS,
        ),
    ] = None,
    prompts: Annotated[
        Words,
        typer.Option(
            metavar="JSON",
            help="A list of {frame, object, points, labels, box, mask}.",
            rich_help_panel=_PROMPTS,
        ),
    ] = None,
    model: choices.ModelName = None,
    checkpoint: choices.Checkpoint = None,
    image_size: choices.ImageSize = None,
    device: choices.Device = "auto",
    dtype: choices.DType = "auto",
    pooled_memory: choices.PooledMemory = False,
    adapter: choices.Adapter = None,
    router: choices.Router = "auto",
    budget: choices.Budget = None,
    rule: choices.RuleOption = "top-k",
    threshold: choices.Threshold = None,
    routing_seed: choices.RoutingSeed = None,
    fps: choices.FramesPerSecond = None,
    adaptive: choices.Adaptive = False,
    direction: Annotated[
        str,
        typer.Option(
            help="forward from the first prompt, backward from the last, or both.",
            rich_help_panel=_RANGE,
        ),
    ] = "forward",
    start: Annotated[
        int | None,
        typer.Option(help="First frame to track.", rich_help_panel=_RANGE, show_default=False),
    ] = None,
    end: Annotated[
        int | None,
        typer.Option(
            help="Frame to stop before; backward, the last one tracked.",
            rich_help_panel=_RANGE,
            show_default=False,
        ),
    ] = None,
    lookahead: Annotated[
        bool,
        typer.Option(
            "--lookahead",
            help="Let prompts on later frames help on earlier ones.",
            rich_help_panel=_RANGE,
        ),
    ] = False,
    preset: choices.PresetName = "evaluation",
    compatibility: choices.CompatibilityName = "official",
    memory: choices.Memory = None,
    fill_holes: choices.FillHoles = None,
    non_overlapping: choices.NonOverlapping = False,
    dynamic_multimask: choices.DynamicMultimask = False,
    memory_stride: choices.MemoryStride = None,
    objects_per_batch: choices.ObjectsPerBatch = None,
    out: Annotated[
        Path | None, run_choices.folder("Folder for the results. Default: NAME-tracked.")
    ] = None,
    save: Annotated[
        str | None,
        run_choices.formats(f"{run_choices.TRACKED}. Default: {SAVED}, and blocks with an adapter"),
    ] = None,
    names: run_choices.Names = False,
    resume: run_choices.Resume = False,
    as_json: run_choices.Json = False,
) -> None:
    """Track objects through SOURCE, from clicks, boxes or masks.

    tempomask track dog.mp4 --point 410,260

    tempomask track dog.mp4 --point 410,260 --object 2 --box 20,30,180,200 --save masks,rle

    tempomask track dog.mp4 --point 410,260 --router rds --budget 0.6

    Ctrl-C stops after the frame at hand and keeps what is finished; the exit code is then 130.
    """
    del point, negative, box, mask, object_id, frame, prompts
    given = given_options(ctx)
    wanted = prompts_from_options(given, max(0, start or 0))
    if not wanted:
        raise InputError(
            "no prompt given; say where the object is with --point, --box, --mask or --prompts"
        )
    if direction not in ("forward", "backward", "both"):
        raise InputError(f"--direction must be forward, backward or both, got {direction!r}")
    changes = choices.chosen(
        memory=memory,
        lookahead=lookahead,
        fill_holes=fill_holes,
        non_overlapping=non_overlapping,
        dynamic_multimask=dynamic_multimask,
        memory_stride=memory_stride,
        objects_per_batch=objects_per_batch,
    )
    options = TrackingOptions.of(
        cast("Preset", preset), cast("Compatibility", compatibility), **changes
    )
    routing = choices.routing_options(router, budget, rule, fps, adaptive, threshold, routing_seed)
    with console.waiting("starting"):
        from tempomask.cli.run import Request, Run
        from tempomask.cli.tracking_task import TrackingTask, print_report
        from tempomask.io.video import open_video

    adapter = choices.adapter_for(adapter, model, checkpoint, routing)
    routed = adapter is not None and routing.router != "none"
    default = run_choices.words(SAVED + ",blocks" * routed)
    request = Request(
        source=source,
        out=out or run_choices.default_folder(source, "tracked"),
        save=frozenset(run_choices.listed("save", save) or default),
        resume=resume,
        start=start,
        end=end,
        checkpoint=checkpoint,
        names=names,
        inputs=prompt_files(given),
    )
    task = TrackingTask(wanted, cast("Direction", direction), options, routing, adapter)
    with open_video(source) as video:
        run = Run(request, task, video)
        loaded = choices.load_model(
            model, checkpoint, image_size, device, dtype, adapter, pooled_memory
        )
        report, files = run.execute(loaded)
    console.conclude(report, files, as_json, print_report)
