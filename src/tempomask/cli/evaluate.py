"""`tempomask eval davis`: the scores of a model on DAVIS 2016 or 2017, or on data laid out so."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from tempomask.cli import choices, console, run_choices
from tempomask.tracking.options import TrackingOptions

if TYPE_CHECKING:
    from tempomask.devices import DTypeName
    from tempomask.evaluation.prompts import PromptKind
    from tempomask.evaluation.summary import EvaluationSummary

app = typer.Typer(
    help="Score a model, or masks on disk, on a dataset.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _group() -> None:
    """Score a model, or masks on disk, on a dataset."""


@app.command()
def davis(
    root: Annotated[
        Path,
        typer.Argument(
            metavar="ROOT", help="Folder with JPEGImages/ and Annotations/.", show_default=False
        ),
    ],
    *,
    model: choices.ModelName = None,
    checkpoint: choices.Checkpoint = None,
    image_size: choices.ImageSize = None,
    device: choices.Device = "auto",
    dtype: choices.DType = "auto",
    sequences: run_choices.Sequences = None,
    split: Annotated[
        str | None,
        typer.Option(help="List of sequences, such as 2017/val.", show_default=False),
    ] = None,
    prompt: Annotated[
        str,
        typer.Option(help="What is given on the first frame: mask, box, click, 3clicks, 5clicks."),
    ] = "mask",
    single_object: Annotated[
        bool, typer.Option("--single-object", help="All objects as one, as in DAVIS 2016.")
    ] = False,
    resolution: Annotated[
        str | None,
        typer.Option(help="Folder of the images, such as 480p.", show_default=False),
    ] = None,
    max_frames: Annotated[
        int | None,
        typer.Option(
            help="Only so many first frames of each sequence, for a quick look; the scores say so.",
            show_default=False,
        ),
    ] = None,
    propagator: Annotated[
        str | None,
        typer.Option(
            help="Propagate the first masks over this model's features instead of tracking:"
            " dinov3-vits16, nano ... --image-size is then the short side.",
            show_default=False,
        ),
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option(
            help="Score this folder of SEQ/NNNNN.png instead of a model.", show_default=False
        ),
    ] = None,
    out: Annotated[
        Path | None, run_choices.folder("Folder for masks/, results.csv and summary.json.")
    ] = None,
    preset: choices.PresetName = "evaluation",
    compatibility: choices.CompatibilityName = "official",
    memory: choices.Memory = None,
    fill_holes: choices.FillHoles = None,
    non_overlapping: choices.NonOverlapping = False,
    dynamic_multimask: choices.DynamicMultimask = False,
    memory_stride: choices.MemoryStride = None,
    objects_per_batch: choices.ObjectsPerBatch = None,
    pooled_memory: choices.PooledMemory = False,
    adapter: choices.Adapter = None,
    router: choices.Router = "auto",
    budget: choices.Budget = None,
    rule: choices.RuleOption = "top-k",
    threshold: choices.Threshold = None,
    routing_seed: choices.RoutingSeed = None,
    adaptive: choices.Adaptive = False,
    as_json: run_choices.Json = False,
) -> None:
    """Track every sequence of ROOT from its first annotation and print J, F and J&F.

    FPS leaves decoding and writing out. First and last frames are not scored, as DAVIS does it.
    """
    with console.waiting("starting"):
        from tempomask.evaluation.davis import evaluate, evaluate_masks

    routing = choices.routing_options(router, budget, rule, None, adaptive, threshold, routing_seed)
    wanted: dict[str, Any] = {
        "split": split,
        "sequences": run_choices.listed("sequences", sequences),
        "single_object": single_object,
        "resolution": resolution,
        "max_frames": max_frames,
        "out": out,
    }
    tracking = choices.chosen(
        preset=preset,
        compatibility=compatibility,
        memory=memory,
        fill_holes=fill_holes,
        non_overlapping=non_overlapping,
        dynamic_multimask=dynamic_multimask,
        memory_stride=memory_stride,
        objects_per_batch=objects_per_batch,
    )
    if masks is not None:
        choices.refuse(
            "--masks scores a folder without a model",
            model=model,
            checkpoint=checkpoint,
            image_size=image_size,
            device=device,
            dtype=dtype,
            prompt=prompt,
            propagator=propagator,
            pooled_memory=pooled_memory,
            adapter=adapter,
            **tracking,
            **routing.settings(),
        )
        with SequenceBars() as bars:
            summary = evaluate_masks(root, masks, progress=bars.show, **wanted)
    else:
        adapter = choices.adapter_for(adapter, propagator or model, checkpoint, routing)
        options = None
        if propagator is None:
            options = TrackingOptions.of(**tracking)
            loaded = choices.load_model(
                model, checkpoint, image_size, device, dtype, adapter, pooled_memory
            )
        else:
            choices.refuse(
                f"--propagator {propagator} propagates by its features alone",
                model=model,
                pooled_memory=pooled_memory,
                **tracking,
            )
            with console.waiting("loading the model"):
                from tempomask.propagation.model import load_propagator

                precision = cast("DTypeName", dtype)
                loaded = load_propagator(
                    propagator, checkpoint, image_size, device, precision, adapter
                )
        with SequenceBars() as bars:
            summary = evaluate(
                loaded,
                root,
                prompt=cast("PromptKind", prompt),
                progress=bars.show,
                options=options,
                routing=routing,
                **wanted,
            )
    if as_json:
        console.print_json(summary.to_dict())
    else:
        _print(summary, out)


class SequenceBars:
    """One progress bar a sequence, on stderr, from the first frame on."""

    def __init__(self) -> None:
        self.bars = console.bars(" frames")
        self.tasks: dict[str, Any] = {}

    def __enter__(self) -> SequenceBars:
        return self

    def __exit__(self, *_: object) -> Literal[False]:
        if self.tasks:
            self.bars.stop()
        return False

    def show(self, sequence: str, done: int, total: int) -> None:
        if sequence not in self.tasks:
            self.bars.start()
            self.tasks[sequence] = self.bars.add_task(sequence, total=total)
        self.bars.update(self.tasks[sequence], completed=done)


def _print(summary: EvaluationSummary, out: Path | None) -> None:
    table = console.table("sequence", ">J&F")
    for name, score in summary.per_sequence.items():
        table.add_row(name, f"{score:.1f}")
    console.out.print(table)
    table = console.table("", ">mean", ">recall", ">decay")
    table.add_row(
        "J",
        f"{summary.region:.2f}",
        f"{summary.region_recall:.2f}",
        f"{summary.region_decay:.2f}",
    )
    table.add_row(
        "F",
        f"{summary.boundary:.2f}",
        f"{summary.boundary_recall:.2f}",
        f"{summary.boundary_decay:.2f}",
    )
    console.out.print(table)
    speed = "" if summary.fps is None else f", {summary.fps:.2f} FPS"
    console.out.print(
        f"J&F {summary.mean:.2f} over {summary.objects} objects, {summary.frames} frames{speed}"
    )
    for note in summary.notes:
        console.out.print(note)
    if out is not None:
        console.out.print(f"written: {out}")
