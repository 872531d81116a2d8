"""`tempomask eval boxes`: box tracking on LaSOT, GOT-10k or OTB, or on data laid out so."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from tempomask.cli import console
from tempomask.cli.evaluate import SequenceBars
from tempomask.cli.options import OUTPUT, Json, ModelOptions, Names, TrackingFlags, refuse

if TYPE_CHECKING:
    from tempomask.evaluation.boxes import BoxSummary


def boxes(
    root: Path,
    /,
    *,
    layout: Literal["lasot", "got10k", "otb"],
    model: ModelOptions = ModelOptions(),
    tracking: TrackingFlags = TrackingFlags(),
    sequences: Names | None = None,
    split: str | None = None,
    predictions: Annotated[Path | None, Parameter(name="--boxes")] = None,
    out: Annotated[Path | None, Parameter(group=OUTPUT)] = None,
    as_json: Json = False,
) -> None:
    """Track every sequence of ROOT from its first box; success, precision and average overlap.

    The boxes are those of the masks. FPS leaves decoding and writing out.

    Args:
        root: Folder that holds the sequences.
        layout: How ROOT is laid out.
        sequences: Only these sequences, with commas between.
        split: LaSOT: a list beside the classes, such as testing_set. GOT-10k: val or train.
        predictions: Score this folder of SEQ.txt (x,y,w,h a line) instead of a model.
        out: Folder for boxes/, results.csv and summary.json.
        as_json: Print one JSON object on stdout, all else on stderr.
    """
    with console.waiting("starting"):
        from tempomask.data.box_tracking import BoxTrackingData
        from tempomask.evaluation.boxes import evaluate_box_files, evaluate_boxes

    data = BoxTrackingData(root, layout, split, sequences)
    if predictions is not None:
        refuse("--boxes scores a folder without a model", model, tracking)
        with SequenceBars() as bars:
            summary = evaluate_box_files(data, predictions, out=out, progress=bars.show)
    else:
        options = tracking.options()
        loaded = model.load(pooled_memory=tracking.pooled_memory)
        with SequenceBars() as bars:
            summary = evaluate_boxes(loaded, data, out=out, options=options, progress=bars.show)
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
