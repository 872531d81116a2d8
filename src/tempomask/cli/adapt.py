"""`tempomask adapt`: make a cheaper submodel of a model, kept as a small adapter."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from tempomask.cli import choices, console, run_choices, training_choices
from tempomask.errors import InputError, check_share

if TYPE_CHECKING:
    from tempomask.adaptation.importance import View
    from tempomask.routing.predictive import RouterInputs

_METHOD = "Method"
_TRAINING = "Training"


def adapt(
    *,
    data: Annotated[
        Path,
        typer.Option(
            help="Folder in the DAVIS layout, or one with davis16-train-256 and stills-256.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the adapter; a stopped run goes on in it.")],
    model: choices.ModelName = None,
    checkpoint: choices.Checkpoint = None,
    image_size: choices.ImageSize = None,
    budget: Annotated[
        float,
        typer.Option(help="Share of the encoder's blocks to run.", rich_help_panel=_METHOD),
    ] = 0.6,
    method: Annotated[
        str,
        typer.Option(help="rds, or one that it is compared with.", rich_help_panel=_METHOD),
    ] = "rds",
    blocks: Annotated[
        int | None,
        typer.Option(
            help="Blocks that get adapters. Default: half of them.",
            rich_help_panel=_METHOD,
            show_default=False,
        ),
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Of the adapters. Default: the largest power of two within 4% of the model.",
            rich_help_panel=_METHOD,
            show_default=False,
        ),
    ] = None,
    importance: Annotated[
        str,
        typer.Option(help="What chooses them: both, global or local.", rich_help_panel=_METHOD),
    ] = "both",
    inputs: Annotated[
        str,
        typer.Option(help="What the router sees: both, mask or image.", rich_help_panel=_METHOD),
    ] = "both",
    mask_frames: Annotated[
        int,
        typer.Option(min=1, help="Previous masks the router sees.", rich_help_panel=_METHOD),
    ] = 1,
    learn_missed: Annotated[
        bool,
        typer.Option(
            "--learn-missed",
            help="Compute skipped blocks too in training, for the gradient of the router of rds.",
            rich_help_panel=_METHOD,
        ),
    ] = False,
    rate: Annotated[
        float, typer.Option(help="Learning rate of the adapters.", rich_help_panel=_TRAINING)
    ] = 3e-4,
    router_rate: Annotated[
        float, typer.Option(help="Learning rate of the router.", rich_help_panel=_TRAINING)
    ] = 3e-4,
    steps: Annotated[
        int, typer.Option(min=1, help="Optimiser steps in all.", rich_help_panel=_TRAINING)
    ] = 2000,
    batch_size: training_choices.BatchSize = 4,
    num_frames: training_choices.NumFrames = 4,
    seed: Annotated[
        int, typer.Option(help="Of data, prompts and routing.", rich_help_panel=_TRAINING)
    ] = 1,
    validation: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help="Sequences to hold out. Default: some, evenly spread.",
            rich_help_panel=_TRAINING,
            show_default=False,
        ),
    ] = None,
    validate_every: Annotated[
        int, typer.Option(min=1, help="Steps between validations.", rich_help_panel=_TRAINING)
    ] = 250,
    save_every: Annotated[
        int, typer.Option(min=1, help="Steps between checkpoints.", rich_help_panel=_TRAINING)
    ] = 100,
    workers: training_choices.Workers = 1,
) -> None:
    """Train a router and adapters for a model; run the same command again to go on after a stop.

    tempomask adapt --data DAVIS --budget 0.6 --out adapter

    tempomask track dog.mp4 --point 410,260 --adapter adapter --budget 0.6

    The network itself stays as it is. Several GPUs: accelerate launch -m tempomask adapt ...
    """
    if not data.is_dir():
        raise InputError(f"--data {data} is not a folder")
    check_share("--budget", budget)
    names = run_choices.listed("validation", validation)
    with console.waiting("starting") as status:
        from tempomask.adaptation.rds import AdapterConfig, RDSConfig
        from tempomask.baselines.methods import build_method
        from tempomask.evaluation.measured_once import MeasuredOnce
        from tempomask.training.adapt import AdaptRecipe, phases, start_adaptation
        from tempomask.weights import load_segmenter

        adapters = AdapterConfig(
            blocks=blocks, view=cast("View", importance), rank=rank, rate=rate, seed=seed
        )
        config = RDSConfig(
            budget,
            cast("RouterInputs", inputs),
            mask_frames,
            router_rate,
            learn_missed=learn_missed,
            adapters=adapters,
        )

        def measured(done: int, total: int) -> None:
            status.update(f"measuring the importance of blocks: {done} of {total}")

        # Importances take minutes; what is measured of them outlives a stop.
        chosen = MeasuredOnce(
            build_method(method, config, measured, steps), out / "training" / "measured.json"
        )
        status.update("loading the model")
        segmenter = load_segmenter(model, checkpoint, image_size)
        warmup, decay = phases(steps)
        recipe = AdaptRecipe(
            model=segmenter.config.name,
            method=method,
            settings=asdict(config),
            image_size=segmenter.config.image_size,
            steps=steps,
            batch_size=batch_size,
            num_frames=num_frames,
            warmup_steps=warmup,
            decay_steps=decay,
            seed=seed,
            validate_every=validate_every,
            save_every=save_every,
        )
        status.update("reading the data")
        run = start_adaptation(segmenter, data, out, chosen, recipe, names, workers)
    own = (p for n, p in run.prepared.segmenter.named_parameters() if "lora_" not in n)
    share = run.trained_parameters / sum(p.numel() for p in own)
    console.note(f"training {run.trained_parameters:,} parameters, {share:.1%} of the network")
    if run.step:
        console.note(f"going on from step {run.step}")
    run.run()
    console.note(f"adapter: {run.export()}")
