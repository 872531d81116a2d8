"""`tempomask finetune`: train a model further on data of one's own, or from the start."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from tempomask.cli import console
from tempomask.cli.options import TRAINING, Names, Positive, at_least
from tempomask.errors import InputError


def finetune(
    *,
    data: Annotated[list[str], Parameter(n_tokens=1)],
    out: Path,
    model: Annotated[str | None, Parameter(name=["--model", "-m"])] = None,
    checkpoint: str | None = None,
    from_scratch: bool = False,
    image_size: int | None = None,
    recipe: str = "sam2",
    export_official: Path | None = None,
    lora: Annotated[int | None, at_least(1), Parameter(group=TRAINING)] = None,
    freeze: Annotated[Names | None, Parameter(group=TRAINING)] = None,
    steps: Annotated[Positive | None, Parameter(group=TRAINING)] = None,
    batch_size: Annotated[Positive | None, Parameter(group=TRAINING)] = None,
    at_once: Annotated[Positive | None, Parameter(group=TRAINING)] = None,
    num_frames: Annotated[Positive | None, Parameter(group=TRAINING)] = None,
    most_objects: Annotated[Positive | None, Parameter(group=TRAINING)] = None,
    learning_rate: Annotated[float | None, Parameter(group=TRAINING)] = None,
    encoder_rate: Annotated[float | None, Parameter(group=TRAINING)] = None,
    average_decay: Annotated[float | None, Parameter(group=TRAINING)] = None,
    checkpointing: Annotated[bool, Parameter(negative="--no-checkpointing", group=TRAINING)] = True,
    seed: Annotated[int | None, Parameter(group=TRAINING)] = None,
    validation: Annotated[Names | None, Parameter(group=TRAINING)] = None,
    validate_every: Annotated[Positive | None, Parameter(group=TRAINING)] = None,
    save_every: Annotated[Positive | None, Parameter(group=TRAINING)] = None,
    workers: Annotated[int, at_least(0), Parameter(group=TRAINING)] = 1,
) -> None:
    """Train a model further on your data; run the same command again to go on after a stop.

    `tempomask finetune --model sam2.1-tiny --data davis:DAVIS@2 --data mose:MOSE --out run`

    `tempomask track dog.mp4 --point 410,260 --checkpoint run/model.safetensors`

    Options left out are as in the recipe. Writes checkpoints, TensorBoard logs, validation.jsonl,
    README.md (the model's card) and model.safetensors: of the step that scored best on what is held
    out. Several GPUs: accelerate launch -m tempomask finetune ...

    Args:
        data: LAYOUT:ROOT@WEIGHT, once for each set: davis, youtube-vos, mose, sav (mp4 and JSON),
            coco or sa1b. The layout may be left out where files tell it; the weight is 1.
        out: Folder of the run.
        model: Name as in `tempomask models`. Default: what the checkpoint holds, or the recipe's.
        checkpoint: Weights: a file, a folder or a Hub id. Default: the model's own.
        from_scratch: Start from random weights.
        image_size: Side of the square that the network sees. Default: the model's own.
        recipe: sam2, efficienttam-images or efficienttam-videos.
        export_official: File for the weights in the official layout, as SAM 2's code loads them.
        lora: Rank of adapters that are trained instead of the encoder.
        freeze: Parts not to train, such as encoder,prompt_encoder or encoder.blocks.0.
        steps: Optimiser steps in all. Default of sam2: 80 clips of each video.
        batch_size: Clips a step and GPU.
        at_once: Clips of these that are computed at a time.
        num_frames: Frames a clip.
        most_objects: Objects a clip, at most.
        learning_rate: Of all but the encoder.
        encoder_rate: Of the encoder's last block.
        average_decay: Of the moving average of the weights, which is the result; 0 for none.
        checkpointing: Compute activations twice instead of keeping them.
        seed: Of data, prompts and noise.
        validation: Videos or images to hold out. Default: one video in eight, at most four.
        validate_every: Steps between validations.
        save_every: Steps between checkpoints.
        workers: Processes that prepare clips.
    """
    if from_scratch and checkpoint is not None:
        raise InputError("--from-scratch takes no --checkpoint; leave one of the two out")
    with console.waiting("starting") as status:
        from tempomask.data.footage import open_set
        from tempomask.training import finetune as training
        from tempomask.training.finetune_recipe import finetune_recipe
        from tempomask.training.model_card import write_card

        chosen = finetune_recipe(recipe)
        status.update("reading the data")
        sets = [open_set(text) for text in data]
        status.update("loading the model")
        name = model or (None if checkpoint else chosen.model)
        segmenter = training.starting_segmenter(name, checkpoint, image_size, from_scratch)
        chosen = chosen.with_overrides(
            model=segmenter.name,
            image_size=segmenter.config.image_size,
            data=tuple(data),
            steps=steps,
            passes=None if steps is None else 0,
            lora=lora,
            frozen=freeze,
            batch_size=batch_size,
            at_once=at_once,
            num_frames=num_frames,
            most_objects=most_objects,
            learning_rate=learning_rate,
            encoder_rate=encoder_rate,
            average_decay=average_decay,
            seed=seed,
            validate_every=validate_every,
            save_every=save_every,
        )
        chosen = replace(chosen, checkpointing=checkpointing)
        if export_official is not None:
            training.to_official(segmenter.state_dict())
        run = training.start_finetuning(chosen, sets, segmenter, out, validation, workers)
    trained, every = run.parameters
    console.note(f"training {trained:,} of {every:,} parameters in {run.recipe.steps:,} steps")
    run.complete()
    weights = run.finish()
    if not run.accelerator.is_main_process:
        return
    write_card(out / "README.md", run.recipe, sets, training.validated(out), run.parameters)
    console.note(f"weights: {weights}")
    if export_official is not None:
        training.export_official(weights, export_official)
        console.note(f"in the official layout: {export_official}")
