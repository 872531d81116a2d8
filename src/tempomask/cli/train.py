"""`tempomask train`: train a model by its recipe, going on from where the last run stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tempomask.cli import console
from tempomask.cli.options import Positive, at_least
from tempomask.errors import InputError


def train(
    model: str = "nano",
    /,
    *,
    data: Path,
    out: Path,
    start: Path | None = None,
    steps: Positive | None = None,
    decay_steps: Positive | None = None,
    learning_rate: float | None = None,
    average_decay: float | None = None,
    seed: int | None = None,
    workers: Annotated[int, at_least(0)] = 1,
) -> None:
    """Train MODEL; run the same command again to go on after a stop.

    `tempomask train nano --data DATA --out RUN --start WEIGHTS`

    Options left out are as in the recipe. Writes checkpoints, TensorBoard logs, validation.jsonl
    and, at the end, model.safetensors, which `tempomask track --checkpoint` takes. A run can be
    prolonged by other --steps. Several GPUs: accelerate launch -m tempomask train ...

    Args:
        model: Model to train.
        data: Folder with coco-mini/, davis16-train-256/ and the others, as in docs/nano.md.
        out: Folder for checkpoints, logs and weights.
        start: Weights of a nano to go on from where they fit.
        steps: Optimiser steps in all.
        decay_steps: Last steps, over which the learning rate falls.
        learning_rate: Of all but the stem.
        average_decay: Of the moving average of the weights.
        seed: Of data, prompts and initial weights.
        workers: Processes that prepare clips.
    """
    if not data.is_dir():
        raise InputError(f"--data {data} is not a folder")
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file; choose another folder")
    from tempomask.training import loop
    from tempomask.training.recipe import Recipe

    recipe = Recipe().with_overrides(
        model=model,
        steps=steps,
        decay_steps=decay_steps,
        learning_rate=learning_rate,
        average_decay=average_decay,
        seed=seed,
    )
    loop.train(data, out, recipe, workers, start)
    console.note(f"weights: {out / 'model.safetensors'}")
