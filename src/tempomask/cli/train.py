"""`tempomask train`: train a model by its recipe, going on from where the last run stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tempomask.cli import console
from tempomask.cli.options import Positive, at_least
from tempomask.errors import InputError


def train(
    model: str = "nano",
    /,
    *,
    data: Path,
    out: Path,
    stage: Literal["tracking", "prompts"] = "tracking",
    start: Path | None = None,
    steps: Positive | None = None,
    batch_size: Positive | None = None,
    num_frames: Annotated[int | None, at_least(2)] = None,
    image_size: int | None = None,
    learning_rate: float | None = None,
    seed: int | None = None,
    workers: Annotated[int, at_least(0)] = 1,
) -> None:
    """Train MODEL; run the same command again to go on after a stop.

    `tempomask train nano --data DATA --out tracking`

    `tempomask train nano --stage prompts --start tracking/model.safetensors --data DATA --out nano`

    Options left out are as in the recipe of the stage. Writes checkpoints, TensorBoard logs,
    validation.jsonl and, at the end, model.safetensors, which `tempomask track --checkpoint` takes.
    Several GPUs: accelerate launch -m tempomask train ...

    Args:
        model: Model to train.
        data: Folder with davis16-train-256/ and stills-256/, as in docs/nano.md.
        out: Folder for checkpoints, logs and weights.
        stage: prompts: teach clicks and boxes to a model that tracks.
        start: Weights that stage prompts starts from.
        steps: Optimiser steps in all.
        batch_size: Clips a step.
        num_frames: Frames a clip.
        image_size: Side of the network's input.
        learning_rate: Of new layers; of stage prompts, in its second phase.
        seed: Of data, prompts and initial weights.
        workers: Processes that prepare clips.
    """
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
    if stage == "prompts":
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
