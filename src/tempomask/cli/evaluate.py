"""`tempomask eval davis`: the scores of a model on DAVIS 2016 or 2017, or on data laid out so."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from tempomask.cli import console
from tempomask.cli.options import (
    OUTPUT,
    Json,
    ModelOptions,
    Names,
    RoutingOptions,
    TrackingFlags,
    refuse,
)
from tempomask.errors import InputError

if TYPE_CHECKING:
    from tempomask.evaluation.vos import EvaluationSummary

PromptKind = Literal["mask", "box", "click", "3clicks", "5clicks"]


def davis(
    root: Path,
    /,
    *,
    model: ModelOptions = ModelOptions(),
    sequences: Names | None = None,
    split: str | None = None,
    prompt: PromptKind = "mask",
    single_object: bool = False,
    resolution: str | None = None,
    max_frames: int | None = None,
    propagator: str | None = None,
    masks: Path | None = None,
    out: Annotated[Path | None, Parameter(group=OUTPUT)] = None,
    tracking: TrackingFlags = TrackingFlags(),
    routing: RoutingOptions = RoutingOptions(),
    as_json: Json = False,
) -> None:
    """Track every sequence of ROOT from its first annotation and print J, F and J&F.

    FPS leaves decoding and writing out. First and last frames are not scored, as DAVIS does it.

    Args:
        root: Folder with JPEGImages/ and Annotations/.
        sequences: Only these sequences, with commas between.
        split: List of sequences, such as 2017/val.
        prompt: What is given on the first frame.
        single_object: All objects as one, as in DAVIS 2016.
        resolution: Folder of the images, such as 480p.
        max_frames: Only so many first frames of each sequence, for a quick look; the scores say so.
        propagator: Propagate the first masks over this model's features instead of tracking:
            dinov3-vits16, nano ... --image-size is then the short side.
        masks: Score this folder of SEQ/NNNNN.png instead of a model.
        out: Folder for masks/, results.csv and summary.json.
        as_json: Print one JSON object on stdout, all else on stderr.
    """
    if routing.fps is not None:
        raise InputError("--fps is for track; a score needs a budget that does not move with time")
    with console.waiting("starting"):
        from tempomask.data.davis import Davis
        from tempomask.evaluation.vos import evaluate, evaluate_masks

    dataset = Davis(root, split, sequences, single_object, resolution, max_frames)
    if masks is not None:
        other = {"prompt": None if prompt == "mask" else prompt, "propagator": propagator}
        refuse("--masks scores a folder without a model", model, tracking, routing, **other)
        with SequenceBars() as bars:
            summary = evaluate_masks(dataset, masks, out=out, progress=bars.show)
    else:
        adapter = routing.adapter_for(propagator or model.model, model.checkpoint)
        if propagator is None:
            options = tracking.options()
            loaded = model.load(adapter, tracking.pooled_memory)
        else:
            why = f"--propagator {propagator} propagates by its features alone"
            refuse(why, tracking, model=model.model)
            options = None
            loaded = model.load_propagator(propagator, adapter, model.image_size)
        with SequenceBars() as bars:
            summary = evaluate(
                loaded,
                dataset,
                out=out,
                prompt=prompt,
                options=options,
                routing=routing.routing,
                progress=bars.show,
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
    for part in ("J", "F"):
        values = (summary.scores[name] for name in (part, f"{part}_recall", f"{part}_decay"))
        table.add_row(part, *(f"{value:.2f}" for value in values))
    console.out.print(table)
    speed = "" if summary.fps is None else f", {summary.fps:.2f} FPS"
    console.out.print(
        f"J&F {summary.mean:.2f} over {summary.objects} objects, {summary.frames} frames{speed}"
    )
    for note in summary.notes:
        console.out.print(note)
    if out is not None:
        console.out.print(f"written: {out}")
