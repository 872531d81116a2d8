"""Options that several commands share: which model, where it runs, how it tracks."""

from __future__ import annotations

from typing import Annotated, Any

import typer

_MODEL = "Model"
_TRACKING = "Tracking"

ModelName = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="Name as in `tempomask models`. Default: what the checkpoint holds, or nano.",
        rich_help_panel=_MODEL,
        show_default=False,
    ),
]
Checkpoint = Annotated[
    str | None,
    typer.Option(
        help="Weights: a file, a folder or a Hub id. Default: the model's own.",
        rich_help_panel=_MODEL,
        show_default=False,
    ),
]
ImageSize = Annotated[
    int | None,
    typer.Option(
        help="Side of the square the network sees. Default: the model's own.",
        rich_help_panel=_MODEL,
        show_default=False,
    ),
]
Device = Annotated[
    str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.", rich_help_panel=_MODEL)
]
DType = Annotated[
    str,
    typer.Option(
        help="Of the computation: auto, float32, bfloat16 or float16.", rich_help_panel=_MODEL
    ),
]
PresetName = Annotated[
    str,
    typer.Option(
        help="evaluation: SAM 2's benchmark settings. interactive: its settings for clicking, with"
        " holes filled and unstable masks replaced.",
        rich_help_panel=_TRACKING,
    ),
]
CompatibilityName = Annotated[
    str,
    typer.Option(
        help="official, or transformers to give the masks of its implementation.",
        rich_help_panel=_TRACKING,
    ),
]
FillHoles = Annotated[
    int | None,
    typer.Option(
        help="Fill holes of at most so many low-resolution pixels. Default: the preset's.",
        rich_help_panel=_TRACKING,
        show_default=False,
    ),
]
NonOverlapping = Annotated[
    bool,
    typer.Option(
        "--non-overlapping",
        help="Give each pixel to one object at most.",
        rich_help_panel=_TRACKING,
    ),
]
DynamicMultimask = Annotated[
    bool,
    typer.Option(
        "--dynamic-multimask",
        help="Let an unstable mask give way to the best of three.",
        rich_help_panel=_TRACKING,
    ),
]
Memory = Annotated[
    str | None,
    typer.Option(
        help="recent: the last frames, as SAM 2. samurai: motion chooses masks and memories."
        " samurai-official: with the mistakes of its released code. Default: recent.",
        rich_help_panel=_TRACKING,
        show_default=False,
    ),
]
MemoryStride = Annotated[
    int | None,
    typer.Option(
        help="Remember every so many frames besides the last. Default: 1.",
        rich_help_panel=_TRACKING,
        show_default=False,
    ),
]
ObjectsPerBatch = Annotated[
    int | None,
    typer.Option(
        help="Objects that go through the network at once. Default: all.",
        rich_help_panel=_TRACKING,
        show_default=False,
    ),
]


def chosen(**options: Any) -> dict[str, Any]:
    """The options that were given: those that are neither None nor False."""
    return {
        name: value for name, value in options.items() if value is not None and value is not False
    }
