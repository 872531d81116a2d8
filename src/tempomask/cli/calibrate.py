"""`tempomask calibrate`: a threshold at which a router keeps its budget on given videos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from tempomask.cli import console
from tempomask.cli.options import OUTPUT, Json, ModelOptions, Names, Numbers, at_least
from tempomask.errors import InputError


def calibrate(
    *,
    adapter: str,
    data: Path,
    budget: Numbers,
    model: ModelOptions = ModelOptions(),
    split: str | None = None,
    sequences: Names | None = None,
    max_frames: Annotated[int | None, at_least(2)] = None,
    out: Annotated[Path | None, Parameter(group=OUTPUT)] = None,
    as_json: Json = False,
) -> None:
    """Find the threshold at which ADAPTER's router runs a share of the blocks, on your videos.

    The paper's fixed threshold of 0.5 does not hold a budget. Use videos like those to be tracked,
    then: tempomask track ... --adapter ADAPTER --budget 0.6 --rule calibrated

    Args:
        adapter: Folder that tempomask adapt wrote, or a bundled one's name.
        data: Videos with the objects of their first frame, in the DAVIS layout.
        budget: Shares of the encoder's blocks, such as 0.5,0.6.
        split: List of sequences, such as 2017/train.
        sequences: Only these sequences, with commas between.
        max_frames: Frames of every sequence. Default: all.
        out: Folder for a copy with the thresholds. Default: ADAPTER itself.
    """
    with console.waiting("starting"):
        from tempomask.adaptation.adapter_file import BUNDLED, copy_adapter, find_adapter
        from tempomask.data.davis import Davis
        from tempomask.evaluation.calibration import calibrate as run
        from tempomask.evaluation.calibration import calibrated_policy, store

        dataset = Davis(data, split, sequences)
    if out is None and find_adapter(adapter).parent == BUNDLED:
        raise InputError(
            f"the adapter {adapter} comes with the package and is not changed; give --out FOLDER"
            " for a copy of it with the thresholds"
        )
    loaded = model.load(adapter)
    for share in budget:
        calibrated_policy(loaded, share)  # refuses a budget before anything is copied or tracked
    folder = adapter if out is None else copy_adapter(adapter, out)
    found = []
    with console.waiting("tracking") as status:
        for share in budget:
            found.append(run(loaded, dataset, share, max_frames, status.update))
            store(found[-1], folder)
    if as_json:
        rows = [
            {"budget": c.budget, "threshold": c.threshold, "share": c.share, "frames": c.frames}
            for c in found
        ]
        console.print_json({"adapter": str(folder), "calibrated": rows})
        return
    table = console.table(">budget", ">threshold", ">blocks run", ">frames")
    for c in found:
        table.add_row(f"{c.budget:g}", f"{c.threshold:.4f}", f"{c.share:.1%}", str(c.frames))
    console.out.print(table)
    for c in found:
        if not c.held:
            console.note(
                f"budget {c.budget:g} is not held: {c.share:.1%} of the blocks ran with the best"
                " threshold; use the rule top-k, or more videos"
            )
