"""`tempomask data`: make the synthetic set of video instances, and check sets of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tempomask.cli import console

app = typer.Typer(
    help="Make and check data for instance segmentation.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _group() -> None:
    """Make and check data for instance segmentation."""


@app.command()
def synthetic(
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="Folder for the set.", show_default=False)
    ],
    *,
    stills: Annotated[
        Path, typer.Option(help="Folder that holds stills-256/.", show_default=False)
    ],
    train: Annotated[int, typer.Option(min=0, help="Videos to train with.")] = 1200,
    validation: Annotated[int, typer.Option(min=0, help="Videos to validate with.")] = 40,
    seed: Annotated[int, typer.Option(help="All of the set follows from it.")] = 1,
) -> None:
    """Compose videos of people, horses, nuclei and shapes, in YouTube-VIS format.

    Training and validation videos share no image. Needs the extra `train`.
    """
    with console.waiting("starting"):
        from tempomask.data.video_instance_set import VideoSetConfig, write_video_set

    config = VideoSetConfig(train=train, validation=validation, seed=seed)
    with console.bars() as bar:
        task = bar.add_task("videos", total=train + validation)
        paths = write_video_set(
            stills, out, config, progress=lambda done, _total: bar.update(task, completed=done)
        )
    for path in paths:
        console.out.print(str(path), soft_wrap=True)


@app.command()
def check(
    annotations: Annotated[
        Path,
        typer.Argument(metavar="JSON", help="A file in YouTube-VIS format.", show_default=False),
    ],
    *,
    images: Annotated[
        Path | None,
        typer.Option(
            help="Folder that file names start from. Default: looked for beside JSON.",
            show_default=False,
        ),
    ] = None,
    decode: Annotated[
        bool, typer.Option("--decode", help="Read every image to the end; slower.")
    ] = False,
) -> None:
    """Say what is wrong with a data set, one line for each problem; exit code 1 if there is any."""
    with console.waiting("reading"):
        from tempomask.data.youtube_vis_check import check as problems

        found = problems(annotations, images, decode=decode, progress=None)
        first = next(found, None)
    count = 0
    while first is not None:
        console.out.print(first, soft_wrap=True)
        count, first = count + 1, next(found, None)
    if count:
        console.note(f"{count} problem{'' if count == 1 else 's'}")
        raise typer.Exit(1)
    console.out.print("nothing wrong")
