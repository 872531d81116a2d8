"""`tempomask eval boxes`: box tracking on LaSOT, GOT-10k or OTB, or on data laid out so."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from tempomask.cli import choices, console, run_choices
from tempomask.cli.evaluate import SequenceBars
from tempomask.tracking.options import TrackingOptions

if TYPE_CHECKING:
    from tempomask.data.box_tracking import Layout
    from tempomask.evaluation.boxes import BoxSummary
    from tempomask.tracking.options import Preset


def boxes(
    root: Annotated[
        Path,
        typer.Argument(metavar="ROOT", help="Folder that holds the sequences.", show_default=False),
    ],
    *,
    layout: Annotated[
        str, typer.Option(help="How ROOT is laid out: lasot, got10k or otb.", show_default=False)
    ],
    model: choices.ModelName = None,
    checkpoint: choices.Checkpoint = None,
    image_size: choices.ImageSize = None,
    device: choices.Device = "auto",
    dtype: choices.DType = "auto",
    memory: choices.Memory = None,
    preset: choices.PresetName = "evaluation",
    sequences: run_choices.Sequences = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="LaSOT: a list beside the classes, such as testing_set. GOT-10k: val or train.",
            show_default=False,
        ),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            "--boxes",
            help="Score this folder of SEQ.txt (x,y,w,h a line) instead of a model.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None, run_choices.folder("Folder for boxes/, results.csv and summary.json.")
    ] = None,
    as_json: run_choices.Json = False,
) -> None:
    """Track every sequence of ROOT from its first box; success, precision and average overlap.

    The boxes are those of the masks. FPS leaves decoding and writing out.
    """
    with console.waiting("starting"):
        from tempomask.evaluation.boxes import evaluate_box_files, evaluate_boxes

    wanted: dict[str, Any] = {
        "split": split,
        "sequences": run_choices.listed("sequences", sequences),
        "out": out,
    }
    kind = cast("Layout", layout)
    if predictions is not None:
        choices.refuse(
            "--boxes scores a folder without a model",
            model=model,
            checkpoint=checkpoint,
            image_size=image_size,
            device=device,
            dtype=dtype,
            memory=memory,
            preset=preset,
        )
        with SequenceBars() as bars:
            summary = evaluate_box_files(root, kind, predictions, progress=bars.show, **wanted)
    else:
        loaded = choices.load_model(model, checkpoint, image_size, device, dtype)
        chosen = choices.chosen(memory=memory)
        options = TrackingOptions.of(cast("Preset", preset), "official", **chosen)
        with SequenceBars() as bars:
            summary = evaluate_boxes(
                loaded, root, kind, progress=bars.show, options=options, **wanted
            )
    if as_json:
        console.print_json(summary.to_dict())
    else:
        _print(summary, out)


def _print(summary: BoxSummary, out: Path | None) -> None:
    from tempomask.evaluation.boxes import percent

    total = percent(summary.scores)
    table = console.table("sequence", *(f">{name}" for name in total))
    for name, result in summary.per_sequence.items():
        table.add_row(name, *(f"{value:.1f}" for value in percent(result).values()))
    table.add_row("all", *(f"{value:.2f}" for value in total.values()))
    console.out.print(table)
    speed = "" if summary.fps is None else f", {summary.fps:.2f} FPS"
    console.out.print(
        f"{len(summary.per_sequence)} sequences, {summary.frames} frames{speed}; percent"
    )
    if out is not None:
        console.out.print(f"written: {out}")
