"""`tempomask propagate`: masks of one frame flow through a video by the similarity of patches."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from tempomask.cli import choices, console, run_choices
from tempomask.cli.prompt_options import mask_prompts
from tempomask.errors import InputError

if TYPE_CHECKING:
    from tempomask.devices import DTypeName
    from tempomask.prompts import Prompt
    from tempomask.tracking.propagate import Direction

_PROPAGATION = "Propagation"


def propagate(
    source: run_choices.Source,
    *,
    mask: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PNG",
            help="Mask on the first frame: an image with several ids starts one object for each,"
            " plain masks are objects 1, 2 ... in the order given.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            help="dinov3-vits16 or a larger one, or any of `tempomask models`, by its encoder.",
        ),
    ] = "nano",
    checkpoint: choices.Checkpoint = None,
    device: choices.Device = "auto",
    dtype: choices.DType = "auto",
    short_side: Annotated[
        int | None,
        typer.Option(
            help="Of the images the encoder sees, in pixels. Default: 960.",
            rich_help_panel=_PROPAGATION,
            show_default=False,
        ),
    ] = None,
    context_frames: Annotated[
        int | None,
        typer.Option(
            help="Last frames compared with, besides the first. Default: 7.",
            rich_help_panel=_PROPAGATION,
            show_default=False,
        ),
    ] = None,
    radius: Annotated[
        float | None,
        typer.Option(
            help="Of the neighbourhood that labels come from, in patches. Default: 12.",
            rich_help_panel=_PROPAGATION,
            show_default=False,
        ),
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option(
            help="Patches that give their labels. Default: 5.",
            rich_help_panel=_PROPAGATION,
            show_default=False,
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            help="Of the softmax over their similarities. Default: 0.2.",
            rich_help_panel=_PROPAGATION,
            show_default=False,
        ),
    ] = None,
    adapter: choices.Adapter = None,
    router: choices.Router = "auto",
    budget: choices.Budget = None,
    rule: choices.RuleOption = "top-k",
    threshold: choices.Threshold = None,
    routing_seed: choices.RoutingSeed = None,
    frame: Annotated[int, typer.Option(help="Frame of the masks.")] = 0,
    end: Annotated[
        int | None,
        typer.Option(
            help="Frame to stop before; backward, the last one reached.", show_default=False
        ),
    ] = None,
    direction: Annotated[str, typer.Option(help="forward or backward.")] = "forward",
    out: Annotated[
        Path | None, run_choices.folder("Folder for the results. Default: NAME-tracked.")
    ] = None,
    save: Annotated[str, run_choices.formats(run_choices.TRACKED)] = "masks,overlay",
    names: run_choices.Names = False,
    resume: run_choices.Resume = False,
    as_json: run_choices.Json = False,
) -> None:
    """Propagate masks through SOURCE without any training, as DINOv3's published tracking does.

    tempomask propagate dog.mp4 --mask first.png --model dinov3-vits16

    Ctrl-C stops after the frame at hand and keeps what is finished; the exit code is then 130.
    """
    prompts = masks_at(frame, mask or [])
    if direction not in ("forward", "backward"):
        raise InputError(f"--direction must be forward or backward, got {direction!r}")
    routing = choices.routing_options(router, budget, rule, threshold=threshold, seed=routing_seed)
    with console.waiting("starting"):
        from tempomask.cli.run import Request, Run
        from tempomask.cli.tracking_task import TrackingTask, print_report
        from tempomask.io.video import open_video
        from tempomask.propagation.model import load_propagator
        from tempomask.propagation.options import PropagationOptions

    options = PropagationOptions(
        **choices.chosen(
            short_side=short_side,
            context_frames=context_frames,
            radius=radius,
            top_k=top_k,
            temperature=temperature,
        )
    )
    adapter = choices.adapter_for(adapter, model, checkpoint, routing)
    request = Request(
        source=source,
        out=out or run_choices.default_folder(source, "tracked"),
        save=frozenset(run_choices.listed("save", save) or ()),
        resume=resume,
        end=end,
        checkpoint=checkpoint,
        names=names,
        inputs=tuple(mask or ()),
    )
    task = TrackingTask(prompts, cast("Direction", direction), options, routing, adapter)
    with open_video(source) as video:
        run = Run(request, task, video)
        with console.waiting("loading the model"):
            precision = cast("DTypeName", dtype)
            loaded = load_propagator(model, checkpoint, short_side, device, precision, adapter)
        report, files = run.execute(loaded)
    console.conclude(report, files, as_json, print_report)


def masks_at(frame: int, paths: list[Path]) -> list[Prompt]:
    """The objects of mask images as prompts on a frame; InputError if two have the same id."""
    if not paths:
        raise InputError("no mask given; say where the objects are on the first frame with --mask")
    prompts = [prompt for n, path in enumerate(paths, 1) for prompt in mask_prompts(path, frame, n)]
    ids = [prompt.object_id for prompt in prompts]
    for object_id in ids:
        if ids.count(object_id) > 1:
            raise InputError(f"object {object_id} has two masks; use images with ids of their own")
    return prompts
