"""The command line: `tempomask track`, `propagate`, `eval`, `demo`, `models`, `train` ...

Exit codes: 0 done, 2 bad input (one line on stderr), 130 stopped with Ctrl-C.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from tempomask import __version__
from tempomask.cli import console, data, evaluate
from tempomask.cli.adapt import adapt
from tempomask.cli.calibrate import calibrate
from tempomask.cli.demo import demo
from tempomask.cli.evaluate_boxes import boxes
from tempomask.cli.evaluate_instances import youtube_vis
from tempomask.cli.instances import instances
from tempomask.cli.models import models
from tempomask.cli.prompt_options import OrderedCommand
from tempomask.cli.propagate import propagate
from tempomask.cli.track import track
from tempomask.cli.train import train
from tempomask.cli.train_instances import train_instances
from tempomask.errors import InputError

app = typer.Typer(
    name="tempomask",
    help="Segment and track objects in video: one click, box or mask to masks in every frame.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(cls=OrderedCommand)(track)
app.command()(propagate)
evaluate.app.command()(boxes)
evaluate.app.command("youtube-vis")(youtube_vis)
app.command()(instances)
app.add_typer(evaluate.app, name="eval")
app.add_typer(data.app, name="data")
app.command()(demo)
app.command()(models)
app.command()(train)
app.command()(train_instances)
app.command()(adapt)
app.command()(calibrate)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"tempomask {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version."),
    ] = False,
    traceback: Annotated[
        bool,
        typer.Option("--traceback", help="Show where an error comes from; works anywhere."),
    ] = False,
) -> None:
    """Options of every command; `main` reads --traceback."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code. Bad input is one line, not a traceback."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    traceback = "--traceback" in given
    try:
        app([argument for argument in given if argument != "--traceback"], prog_name="tempomask")
    except InputError as error:
        if traceback:
            raise
        console.error(str(error))
        return console.BAD_INPUT
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return 0
