"""`tempomask train`: train a model by its recipe, going on from where the last run stopped."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from tempomask.cli import console


class Stage(StrEnum):
    """The stages of nano's training, in order."""

    tracking = "tracking"
    prompts = "prompts"


def train(
    model: Annotated[str, typer.Argument(metavar="[MODEL]", help="Model to train.")] = "nano",
    *,
    data: Annotated[
        Path,
        typer.Option(
            help="Folder with davis16-train-256/ and stills-256/, as in docs/nano.md.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(help="Folder for checkpoints, logs and weights.", show_default=False),
    ],
    stage: Annotated[
        Stage,
        typer.Option(help="prompts: teach clicks and boxes to a model that tracks."),
    ] = Stage.tracking,
    start: Annotated[
        Path | None,
        typer.Option(help="Weights that stage prompts starts from.", show_default=False),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps in all.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Clips a step.")] = None,
    num_frames: Annotated[int | None, typer.Option(min=2, help="Frames a clip.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Side of the network's input.")] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Of new layers; of stage prompts, in its second phase.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of data, prompts and initial weights.")] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that prepare clips.")] = 1,
) -> None:
    """Train MODEL; run the same command again to go on after a stop.

    tempomask train nano --data DATA --out tracking

    tempomask train nano --stage prompts --start tracking/model.safetensors --data DATA --out nano

    Options left out are as in the recipe of the stage. Writes checkpoints, TensorBoard logs,
    validation.jsonl and, at the end, model.safetensors, which `tempomask track --checkpoint` takes.
    Several GPUs: accelerate launch -m tempomask train ...
    """
    from tempomask.errors import InputError

    if not data.is_dir():
        raise InputError(f"--data {data} is not a folder")
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file; choose another folder")
    settings: dict[str, object] = {
        "model": model,
        "steps": steps,
        "batch_size": batch_size,
        "num_frames": num_frames,
        "image_size": image_size,
        "learning_rate": learning_rate,
        "seed": seed,
    }
    if stage is Stage.prompts:
        from tempomask.training import prompting

        if start is None:
            raise InputError("--stage prompts needs --start, the weights of stage tracking")
        recipe = prompting.PromptRecipe().with_overrides(**settings)
        prompting.train_prompts(data, out, start, recipe, workers)
    else:
        from tempomask.training import loop

        if start is not None:
            raise InputError(f"--start {start} goes with --stage prompts only")
        loop.train(data, out, loop.Recipe().with_overrides(**settings), workers)
    console.note(f"weights: {out / 'model.safetensors'}")
