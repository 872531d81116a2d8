"""Options that the commands of instance segmentation share: which model, and how it runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from tempomask.cli import console
from tempomask.errors import InputError

if TYPE_CHECKING:
    from tempomask.devices import DTypeName
    from tempomask.instances.model import InstanceModel, RouterName

_MODEL = "Model"

ModelName = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="Such as nano-vis, minvis-r50-ytvis19, dvis-plus-r50-ovis. Default: what the"
        " checkpoint holds, or nano-vis.",
        rich_help_panel=_MODEL,
        show_default=False,
    ),
]
Router = Annotated[
    str,
    typer.Option(
        help="Which decoder layers run: tar routes by the model's TAR weights, none runs all, a"
        " number so many on every frame; auto takes TAR where the file has it.",
        rich_help_panel=_MODEL,
    ),
]
Classes = Annotated[
    Path | None,
    typer.Option(
        help="Other names for the classes: a text file with one a line, or JSON.",
        rich_help_panel=_MODEL,
        show_default=False,
    ),
]
ImageSize = Annotated[
    int | None,
    typer.Option(
        help="Shorter side of what the network sees. Default: the model's own.",
        rich_help_panel=_MODEL,
        show_default=False,
    ),
]


def load_model(
    name: str | None,
    checkpoint: str | None,
    router: str,
    classes: Path | None,
    image_size: int | None,
    device: str,
    dtype: str,
) -> InstanceModel:
    """The model that the options name, with a spinner while it loads; InputError as its loader."""
    with console.waiting("loading the model"):
        from tempomask.instances.model import load_instances

        return load_instances(
            name,
            checkpoint,
            router_choice(router),
            classes,
            image_size,
            device,
            cast("DTypeName", dtype),
        )


def router_choice(text: str) -> RouterName | int:
    """A number of layers, or the router's name; InputError for anything else."""
    if text.isdecimal():
        return int(text)
    if text not in ("auto", "tar", "none"):
        raise InputError(f"--router {text}: unknown; use auto, tar, none or a number of layers")
    return cast("RouterName", text)
