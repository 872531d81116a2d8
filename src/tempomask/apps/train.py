"""`tempomask train`: train a model by its recipe, going on from where the last run stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tempomask.apps import console


def train(
    model: Annotated[str, typer.Argument(metavar="[MODEL]", help="Model to train.")] = "nano",
    *,
    data: Annotated[
        Path, typer.Option(help="Folder that holds the training data.", show_default=False)
    ],
    out: Annotated[
        Path,
        typer.Option(help="Folder for checkpoints, logs and weights.", show_default=False),
    ],
    steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps in all.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Clips a step.")] = None,
    num_frames: Annotated[int | None, typer.Option(min=2, help="Frames a clip.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Side of the network's input.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of new layers.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of data, prompts and initial weights.")] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that prepare clips.")] = 1,
) -> None:
    """Train MODEL; run the same command again to go on after a stop.

    Options left out are as in the recipe. Writes checkpoints, TensorBoard logs, validation.jsonl
    and, at the end, model.safetensors, which `tempomask track --checkpoint` takes.
    Several GPUs: accelerate launch -m tempomask train ...
    """
    from tempomask.errors import InputError

    if not data.is_dir():
        raise InputError(f"--data {data} is not a folder")
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file; choose another folder")
    from tempomask.training.loop import train as run
    from tempomask.training.recipe import Recipe

    recipe = Recipe(model=model).with_overrides(
        steps=steps,
        batch_size=batch_size,
        num_frames=num_frames,
        image_size=image_size,
        learning_rate=learning_rate,
        seed=seed,
    )
    run(data, out, recipe, workers)
    console.note(f"weights: {out / 'model.safetensors'}")
