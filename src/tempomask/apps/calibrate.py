"""`tempomask calibrate`: a threshold at which a router keeps its budget on given videos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tempomask.apps import choices, console, run_choices


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
    sequences: run_choices.Sequences = None,
    max_frames: Annotated[
        int | None,
        typer.Option(min=2, help="Frames of every sequence. Default: all.", show_default=False),
    ] = None,
    as_json: run_choices.Json = False,
) -> None:
    """Find the threshold at which ADAPTER's router runs a share of the blocks, on your videos.

    The paper's fixed threshold of 0.5 does not hold a budget. Use videos like those to be tracked,
    then: tempomask track ... --adapter ADAPTER --budget 0.6 --rule calibrated
    """
    budgets = run_choices.numbers("budget", budget, float)
    with console.waiting("starting"):
        from tempomask.data.davis import Davis
        from tempomask.evaluation.calibration import calibrate as run
        from tempomask.evaluation.calibration import store

        dataset = Davis(data, split, run_choices.listed("sequences", sequences))
    loaded = choices.load_model(model, checkpoint, image_size, device, dtype, adapter)
    found = []
    with console.waiting("tracking") as status:
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
