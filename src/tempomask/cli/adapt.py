"""`tempomask adapt`: make a cheaper submodel of a model, kept as a small adapter."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Group, Parameter

from tempomask.adaptation.options import AdapterConfig, RDSConfig, RouterTraining, View
from tempomask.baselines.settings import (
    AdaViTConfig,
    AlignmentConfig,
    BaselineConfig,
    DyTConfig,
    PBDConfig,
    SlimConfig,
)
from tempomask.cli import console
from tempomask.cli.options import (
    TRAINING,
    Blocks,
    CountOrBlocks,
    ModelOptions,
    Names,
    Positive,
    at_least,
)
from tempomask.errors import InputError, check_share
from tempomask.routing.options import Draws, RouterInputs, WeightsForm

METHOD = Group.create_ordered("Method")
COMPARED = Group.create_ordered("Compared methods")
ROUTER = Group.create_ordered("Router of rds")


@Parameter(name="*", group=ROUTER)
@dataclass(frozen=True)
class RouterFlags(RouterTraining):
    """How the router of rds is made and trained.

    Args:
        inputs: What it sees.
        mask_frames: Previous masks that it sees.
        always_on: Blocks that always run, such as 0,2,12-17. Default: the first, the last, and
            those that change the shape.
        weights: Normalised over the free blocks, or over all as in the paper.
        draws: Of as many blocks as run in use, or of each by itself as in the paper.
        skipped_gradient: Learn from skipped blocks too, which are then computed in training.
        router_rate: Learning rate of the router.
        first_temperature: What logits are divided by at the start.
        last_temperature: The same at the end and in use.
        importance_start: First logit of the most important block; 0: all start equal.
        settled_share: Share of the steps, at the end, without draws.
        learn_worth: Weight of the loss that predicts what blocks are worth; 0: none.
        worth_warmup: Steps in which that loss alone trains the router.
    """

    # Named again, as the library resolves the names of types in this module.
    inputs: RouterInputs = "both"
    mask_frames: Annotated[int, at_least(1)] = 1
    always_on: Blocks | None = None
    weights: WeightsForm = "free"
    draws: Draws = "exact"
    skipped_gradient: Annotated[bool, Parameter(negative="--no-skipped-gradient")] = True

    def training(self) -> RouterTraining:
        """The same without flags."""
        return RouterTraining(**{f.name: getattr(self, f.name) for f in fields(RouterTraining)})


def adapt(
    *,
    data: Path,
    out: Path,
    model: ModelOptions = ModelOptions(),
    objective: Annotated[Literal["tracking", "propagation"] | None, Parameter(group=METHOD)] = None,
    budget: Annotated[float, Parameter(group=METHOD)] = 0.6,
    method: Annotated[str, Parameter(group=METHOD)] = "rds",
    blocks: Annotated[CountOrBlocks | None, Parameter(group=METHOD)] = None,
    rank: Annotated[int | None, at_least(1), Parameter(group=METHOD)] = None,
    importance: Annotated[View, Parameter(group=METHOD)] = "both",
    router: RouterFlags = RouterFlags(),
    rate: Annotated[float, Parameter(group=TRAINING)] = 3e-4,
    steps: Annotated[Positive, Parameter(group=TRAINING)] = 2000,
    batch_size: Annotated[Positive, Parameter(group=TRAINING)] = 4,
    num_frames: Annotated[int, at_least(2), Parameter(group=TRAINING)] = 8,
    most_objects: Annotated[Positive, Parameter(group=TRAINING)] = 3,
    prompts: Annotated[Literal["mask", "mixed"], Parameter(group=TRAINING)] = "mask",
    seed: Annotated[int, Parameter(group=TRAINING)] = 1,
    validation: Annotated[Names | None, Parameter(group=TRAINING)] = None,
    validate_every: Annotated[Positive, Parameter(group=TRAINING)] = 250,
    save_every: Annotated[Positive, Parameter(group=TRAINING)] = 100,
    workers: Annotated[int, at_least(0), Parameter(group=TRAINING)] = 1,
    align: Annotated[AlignmentConfig, Parameter(group=TRAINING)] = AlignmentConfig(),
    pbd: Annotated[PBDConfig, Parameter(group=COMPARED)] = PBDConfig(),
    slim: Annotated[SlimConfig, Parameter(group=COMPARED)] = SlimConfig(),
    adavit: Annotated[AdaViTConfig, Parameter(group=COMPARED)] = AdaViTConfig(),
    dyt: Annotated[DyTConfig, Parameter(group=COMPARED)] = DyTConfig(),
) -> None:
    """Train a router and adapters for a model; run the same command again to go on after a stop.

    `tempomask adapt --data DAVIS --budget 0.6 --out adapter`

    `tempomask track dog.mp4 --point 410,260 --adapter adapter --budget 0.6`

    `tempomask adapt --model dinov3-vits16 --data DAVIS --out adapter`

    `tempomask propagate dog.mp4 --mask first.png --adapter adapter --budget 0.6`

    The network itself stays as it is. Several GPUs: accelerate launch -m tempomask adapt ...

    Args:
        data: Folder in the DAVIS layout, or one with davis16-train-256 and stills-256.
        out: Folder for the adapter; a stopped run goes on in it.
        objective: What for: tracking, or propagation of labels by the encoder alone. Default:
            tracking, and propagation with DINOv3.
        budget: Share of the encoder's blocks to run.
        method: rds, or one that it is compared with.
        blocks: How many blocks get adapters, or which, such as 0,2,12-17. Default: half of them.
        rank: Of the adapters. Default: the largest power of two within 4% of the model.
        importance: What chooses them.
        rate: Learning rate of the adapters.
        steps: Optimiser steps in all.
        batch_size: Clips a step and GPU.
        num_frames: Frames a clip.
        most_objects: Objects a clip, at most.
        prompts: Of the first frame: its mask, or masks, boxes and clicks mixed.
        seed: Of data, prompts and routing.
        validation: Sequences to hold out. Default: some, evenly spread.
        validate_every: Steps between validations.
        save_every: Steps between checkpoints.
        workers: Processes that prepare clips.
        align: Alignment to the untouched network, whatever the method.
        pbd: Of the method pbd.
        slim: Of the methods slim and slim-paper.
        adavit: Of the method adavit.
        dyt: Of the method dyt.
    """
    if not data.is_dir():
        raise InputError(f"--data {data} is not a folder")
    check_share("--budget", budget)
    with console.waiting("starting") as status:
        from tempomask.baselines.methods import build_method
        from tempomask.evaluation.measured_once import MeasuredOnce
        from tempomask.training.adapt import AdaptRecipe, phases, start_adaptation
        from tempomask.training.objectives import PROMPTS, load_for

        adapters = AdapterConfig(blocks=blocks, view=importance, rank=rank, rate=rate, seed=seed)
        config = RDSConfig(budget, router.training(), adapters)
        compared = BaselineConfig(pbd, slim, adavit, dyt)

        def measured(done: int, total: int) -> None:
            status.update(f"measuring the importance of blocks: {done} of {total}")

        # Importances take minutes; what is measured of them outlives a stop.
        chosen = MeasuredOnce(
            build_method(method, config, measured, steps, compared),
            out / "training" / "measured.json",
        )
        status.update("loading the model")
        network, what_for, side = load_for(
            objective, model.model, model.checkpoint, model.image_size, PROMPTS[prompts]
        )
        warmup, decay = phases(steps)
        recipe = AdaptRecipe(
            model=network.name,
            method=method,
            settings={**asdict(config), **asdict(compared)},
            objective=what_for,
            image_size=side,
            steps=steps,
            batch_size=batch_size,
            num_frames=num_frames,
            most_objects=most_objects,
            warmup_steps=warmup,
            decay_steps=decay,
            alignment=align,
            seed=seed,
            validate_every=validate_every,
            save_every=save_every,
        )
        status.update("reading the data")
        run = start_adaptation(network, data, out, chosen, recipe, validation, workers)
    own = (p for n, p in run.prepared.network.named_parameters() if "lora_" not in n)
    share = run.trained_parameters / sum(p.numel() for p in own)
    console.note(f"training {run.trained_parameters:,} parameters, {share:.1%} of the network")
    if run.step:
        console.note(f"going on from step {run.step}")
    run.run()
    console.note(f"adapter: {run.export()}")
