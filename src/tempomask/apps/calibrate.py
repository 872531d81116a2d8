"""`tempomask calibrate`: a threshold at which a router keeps its budget on given videos."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from tempomask.apps import choices, console
from tempomask.errors import InputError

if TYPE_CHECKING:
    from tempomask.api import DTypeName


def calibrate(
    *,
    adapter: Annotated[
        str, typer.Option(help="Folder that tempomask adapt wrote; the threshold is kept there.")
    ],
    data: Annotated[
        Path,
        typer.Option(
            help="Videos with the objects of their first frame, in the DAVIS layout.",
            show_default=False,
        ),
    ],
    budget: Annotated[
        str,
        typer.Option(help="Shares of the encoder's blocks, such as 0.5,0.6.", show_default=False),
    ],
    model: choices.ModelName = None,
    checkpoint: choices.Checkpoint = None,
    image_size: choices.ImageSize = None,
    device: choices.Device = "auto",
    dtype: choices.DType = "auto",
    split: Annotated[
        str | None,
        typer.Option(help="List of sequences, such as 2017/train.", show_default=False),
    ] = None,
    sequences: Annotated[
        str | None, typer.Option(help="Only these, such as dog,camel.", show_default=False)
    ] = None,
    max_frames: Annotated[
        int | None,
        typer.Option(min=2, help="Frames of every sequence. Default: all.", show_default=False),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on stdout, all else on stderr.")
    ] = False,
) -> None:
    """Find the threshold at which ADAPTER's router runs a share of the blocks, on your videos.

    The paper's fixed threshold of 0.5 does not hold a budget. Use videos like those to be tracked,
    then: tempomask track ... --adapter ADAPTER --budget 0.6 --rule calibrated
    """
    budgets = [_share(word) for word in budget.split(",") if word.strip()]
    with console.waiting("starting") as status:
        from tempomask.api import load
        from tempomask.data.davis import Davis
        from tempomask.evaluation.calibration import calibrate as run
        from tempomask.evaluation.calibration import store

        names = None if sequences is None else [n for n in sequences.split(",") if n]
        dataset = Davis(data, split, names)
        status.update("loading the model")
        loaded = load(model, checkpoint, image_size, device, cast("DTypeName", dtype), adapter)
        found = []
        for share in budgets:
            found.append(run(loaded, dataset, share, max_frames, status.update))
            store(found[-1], adapter)
    if as_json:
        rows = [
            {"budget": c.budget, "threshold": c.threshold, "share": c.share, "frames": c.frames}
            for c in found
        ]
        console.print_json({"adapter": adapter, "calibrated": rows})
        return
    table = console.table(">budget", ">threshold", ">blocks run", ">frames")
    for c in found:
        table.add_row(f"{c.budget:g}", f"{c.threshold:.4f}", f"{c.share:.1%}", str(c.frames))
    console.out.print(table)


def _share(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise InputError(f"--budget {word!r} is not a number; give shares such as 0.6") from None
