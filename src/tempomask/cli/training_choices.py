"""Options that commands share which train: data, length, seed."""

from __future__ import annotations

from typing import Annotated

import typer

_TRAINING = "Training"

BatchSize = Annotated[
    int, typer.Option(min=1, help="Clips a step and GPU.", rich_help_panel=_TRAINING)
]
NumFrames = Annotated[int, typer.Option(min=2, help="Frames a clip.", rich_help_panel=_TRAINING)]
Workers = Annotated[
    int, typer.Option(min=0, help="Processes that prepare clips.", rich_help_panel=_TRAINING)
]
