"""`tempomask instances`: every object of the known classes in a video, found and followed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tempomask.cli import choices, console, instance_choices, run_choices

_SHOWN = "What is shown"
_RANGE = "Frames"


def instances(
    source: run_choices.Source,
    *,
    model: instance_choices.ModelName = None,
    checkpoint: choices.Checkpoint = None,
    router: instance_choices.Router = "auto",
    classes: instance_choices.Classes = None,
    image_size: instance_choices.ImageSize = None,
    device: choices.Device = "auto",
    dtype: choices.DType = "auto",
    min_score: Annotated[
        float | None,
        typer.Option(
            help="Show a track while its score is at least this. Default: 0.3.",
            rich_help_panel=_SHOWN,
            show_default=False,
        ),
    ] = None,
    max_overlap: Annotated[
        float | None,
        typer.Option(
            help="Of two tracks of a class that overlap more, show one. Default: 0.8.",
            rich_help_panel=_SHOWN,
            show_default=False,
        ),
    ] = None,
    score_frames: Annotated[
        int | None,
        typer.Option(
            help="Frames that a score is averaged over. Default: 10.",
            rich_help_panel=_SHOWN,
            show_default=False,
        ),
    ] = None,
    start: Annotated[int, typer.Option(help="First frame.", rich_help_panel=_RANGE)] = 0,
    end: Annotated[
        int | None,
        typer.Option(help="Frame to stop before.", rich_help_panel=_RANGE, show_default=False),
    ] = None,
    out: Annotated[
        Path | None, run_choices.folder("Folder for the results. Default: NAME-instances.")
    ] = None,
    save: Annotated[
        str, run_choices.formats("overlay, json, tracks, boxes, masks")
    ] = "overlay,json,tracks",
    resume: run_choices.Resume = False,
    as_json: run_choices.Json = False,
) -> None:
    """Find, classify and follow every instance in SOURCE, frame by frame.

    tempomask instances street.mp4 --out street

    Writes an overlay video with ids, classes and scores, YouTube-VIS JSON and a table of tracks.

    Ctrl-C stops after the frame at hand and keeps what is finished; the exit code is then 130.
    """
    with console.waiting("starting"):
        from tempomask.cli.instance_task import InstanceTask, print_report
        from tempomask.cli.run import Request, Run
        from tempomask.instances.session import InstanceOptions
        from tempomask.io.video import open_video

    given = choices.chosen(min_score=min_score, max_overlap=max_overlap, score_frames=score_frames)
    task = InstanceTask(InstanceOptions(**given))
    request = Request(
        source=source,
        out=out or run_choices.default_folder(source, "instances"),
        save=frozenset(run_choices.listed("save", save) or ()),
        resume=resume,
        start=start,
        end=end,
        checkpoint=checkpoint,
    )
    with open_video(source) as video:
        run = Run(request, task, video)
        loaded = instance_choices.load_model(
            model, checkpoint, router, classes, image_size, device, dtype
        )
        report, files = run.execute(loaded)
    console.conclude(report, files, as_json, print_report)
