"""`tempomask instances`: every object of the known classes in a video, found and followed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tempomask.apps import choices, console, instance_choices

_SHOWN = "What is shown"
_RANGE = "Frames"
_OUTPUT = "Output"


def instances(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Video file, folder of pictures, stream URL, or a number for a camera.",
            show_default=False,
        ),
    ],
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
        Path | None,
        typer.Option(
            help="Folder for the results. Default: NAME-instances.",
            rich_help_panel=_OUTPUT,
            show_default=False,
        ),
    ] = None,
    save: Annotated[
        str,
        typer.Option(help="Any of overlay, json, tracks, boxes, masks.", rich_help_panel=_OUTPUT),
    ] = "overlay,json,tracks",
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with an interrupted run in the same folder, with the same ids.",
            rich_help_panel=_OUTPUT,
        ),
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print one JSON object on stdout, all else on stderr.",
            rich_help_panel=_OUTPUT,
        ),
    ] = False,
) -> None:
    """Find, classify and follow every instance in SOURCE, frame by frame.

    tempomask instances street.mp4 --out street

    Writes an overlay video with ids, classes and scores, YouTube-VIS JSON and a table of tracks.

    Ctrl-C stops after the frame at hand and keeps what is finished; the exit code is then 130.
    """
    with console.waiting("starting"):
        from tempomask.apps.instances_run import InstanceRequest, follow_instances, print_report
        from tempomask.media.video import open_video

    request = InstanceRequest(
        source=source,
        start=start,
        end=end,
        options=choices.chosen(
            min_score=min_score, max_overlap=max_overlap, score_frames=score_frames
        ),
        out=out or default_folder(source),
        save=frozenset(name.strip() for name in save.split(",") if name.strip()),
        resume=resume,
    )
    with open_video(source) as video:
        request.check(video)
        loaded = instance_choices.load_model(
            model, checkpoint, router, classes, image_size, device, dtype
        )
        report, files = follow_instances(request, video, loaded)
    if as_json:
        console.print_json({**report, "files": {name: str(path) for name, path in files.items()}})
    else:
        print_report(report, files)
    if report["interrupted"]:
        raise typer.Exit(console.INTERRUPTED)


def default_folder(source: str) -> Path:
    """Where results go unless a folder is named."""
    name = f"camera{source}" if source.isdecimal() else Path(source.rstrip("/")).stem
    return Path(f"{name or 'video'}-instances")
