"""`tempomask train` and `train-instances`: train a model by its recipe, or go on with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tempomask.cli import console
from tempomask.cli.options import Positive, at_least
from tempomask.errors import InputError

if TYPE_CHECKING:
    from tempomask.training.instances.recipe import InstanceRecipe

# Clips of which the loss is watched.
HELD_OUT = 32

Workers = Annotated[int, at_least(0)]


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
    workers: Workers = 1,
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
    _check_out(out)
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


def train_instances(
    recipe: str = "nano-vis",
    /,
    *,
    annotations: Path,
    out: Path,
    images: Path | None = None,
    start: str | None = None,
    start_model: str | None = None,
    model: str | None = None,
    held_out: Path | None = None,
    steps: Positive | None = None,
    batch_size: Positive | None = None,
    image_size: Annotated[int | None, at_least(64)] = None,
    learning_rate: float | None = None,
    warmup_layers: Annotated[int | None, at_least(0)] = None,
    synchroniser: str | None = None,
    layer_weight: float | None = None,
    seed: int | None = None,
    workers: Workers = 1,
    half: bool = False,
) -> None:
    """Train by RECIPE; run the same command again to go on after a stop.

    Options left out are as in the recipe. Writes checkpoints, TensorBoard logs, validation.jsonl
    and, at the end, model.safetensors, which `tempomask instances --checkpoint` takes.
    Several GPUs: accelerate launch -m tempomask train-instances ...

    Args:
        recipe: minvis, dvis, tar, tar-dvis (the papers', on YouTube-VIS 2019; with -ytvis21 or
            -ovis behind them, on these), or nano-vis, nano-vis-tar, nano-vis-dvis,
            nano-vis-tar-dvis.
        annotations: Training file in YouTube-VIS format.
        out: Folder for checkpoints, logs and weights.
        images: Folder of its images; looked for beside it if left out.
        start: Weights to start from: a file, folder or Hub id; needed but for minvis.
        start_model: Name of the model they hold, if the file does not say it.
        model: Another model than the recipe's.
        held_out: Validation file in YouTube-VIS format, to watch the loss.
        steps: Optimiser steps in all.
        batch_size: Clips a step.
        image_size: Side of the clips, which are then square.
        learning_rate: Of all but the backbone.
        warmup_layers: TAR: layers that always run.
        synchroniser: TAR: attention, bipartite or none.
        layer_weight: TAR: loss for each share of layers run; the paper has 0.
        seed: Of data and initial weights.
        workers: Processes that prepare clips.
        half: Write the matrices as bfloat16.
    """
    _check_out(out)
    from tempomask.data.instance_clips import VideoInstanceClips
    from tempomask.data.youtube_vis import YouTubeVIS
    from tempomask.training.instances.loop import train_instances as run
    from tempomask.weights.instances import load_instance_segmenter

    router = {"warmup_layers": warmup_layers, "synchroniser": synchroniser}
    wanted = _recipe(recipe, router, layer_weight).with_overrides(
        model=model,
        steps=steps,
        batch_size=batch_size,
        image_size=image_size,
        learning_rate=learning_rate,
        seed=seed,
    )
    shape: Any = {
        "image_size": wanted.image_size,
        "num_frames": wanted.num_frames,
        "seed": wanted.seed,
        "short_sides": wanted.short_sides,
    }
    dataset = YouTubeVIS(annotations, images)
    clips = VideoInstanceClips(dataset, **shape)
    watched = []
    if held_out is not None:
        still = VideoInstanceClips(YouTubeVIS(held_out), **shape, augment=False)
        watched = [still[index] for index in range(min(HELD_OUT, len(still)))]
    initial = None
    if start or start_model:
        initial = load_instance_segmenter(start_model, start).segmenter
    weights = run(wanted, clips, dataset.classes, out, initial, watched, workers, half)
    console.note(f"weights: {weights}")


def _recipe(name: str, router: dict[str, Any], layer_weight: float | None) -> InstanceRecipe:
    """The named recipe with another router and another weight of its loss."""
    from dataclasses import replace

    from tempomask.training.instances.recipe import instance_recipe

    recipe = instance_recipe(name)
    given = {key: value for key, value in router.items() if value is not None}
    if recipe.router is not None:
        recipe = replace(recipe, router=replace(recipe.router, **given))
    elif given or layer_weight is not None:
        raise InputError(f"recipe {name} trains no router; choose tar, tar-dvis or a nano one")
    if layer_weight is not None:
        recipe = replace(recipe, losses=replace(recipe.losses, layers=layer_weight))
    return recipe


def _check_out(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file; choose another folder")
