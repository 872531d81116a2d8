"""`tempomask pareto`: every method at every ratio, trained and scored, as a table and a figure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tempomask.cli import choices, console, run_choices, training_choices
from tempomask.errors import InputError

if TYPE_CHECKING:
    from tempomask.evaluation.pareto import Point, PointResult

_TRAINING = "Training"


def pareto(
    *,
    data: Annotated[
        Path,
        typer.Option(help="Folder to train on, as for `tempomask adapt`.", show_default=False),
    ],
    evaluation: Annotated[
        Path, typer.Option(help="Folder in the DAVIS layout to score on.", show_default=False)
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="Folder for the points, the table and the figure; a stopped run goes on in it.",
            show_default=False,
        ),
    ],
    model: choices.ModelName = None,
    checkpoint: choices.Checkpoint = None,
    image_size: choices.ImageSize = None,
    device: choices.Device = "auto",
    methods: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help="Of rds, pbd, dyt, adavit, slim, static-a, static-b. Default: all.",
            show_default=False,
        ),
    ] = None,
    budgets: Annotated[
        str, typer.Option(metavar="A,B", help="Ratios.")
    ] = "0.9,0.8,0.7,0.6,0.5,0.4",
    seeds: Annotated[str, typer.Option(metavar="A,B", help="Seeds of training.")] = "1",
    sequences: run_choices.Sequences = None,
    steps: Annotated[
        int, typer.Option(min=2, help="Optimiser steps a point.", rich_help_panel=_TRAINING)
    ] = 1000,
    batch_size: training_choices.BatchSize = 4,
    num_frames: training_choices.NumFrames = 4,
    workers: training_choices.Workers = 1,
    summary: Annotated[
        bool, typer.Option("--summary", help="Train nothing; sum up what is done.")
    ] = False,
    time: Annotated[
        bool,
        typer.Option(
            "--time",
            help="Then time every point in turns with the full model, for speeds that compare.",
        ),
    ] = False,
) -> None:
    """Compare RDS with static plans, PBD, SlimSAM, AdaViT and DyT at every ratio.

    tempomask pareto --data DATA --evaluation DAVIS --out pareto --seeds 1,2,3

    Each point is trained by the same loop, loaded as an adapter, and scored once; run the same
    command again to go on after a stop, or with more methods, ratios and seeds. Let the machine do
    nothing else while it measures with --time.
    """
    for name, folder in (("data", data), ("evaluation", evaluation)):
        if not folder.is_dir():
            raise InputError(f"--{name} {folder} is not a folder")
    with console.waiting("starting") as status:
        from tempomask.evaluation.pareto import METHODS, Comparison, ComparisonConfig
        from tempomask.evaluation.pareto_times import measure_times

        config = ComparisonConfig(
            model=model,
            checkpoint=checkpoint,
            image_size=image_size,
            methods=tuple(run_choices.listed("methods", methods) or METHODS),
            budgets=tuple(run_choices.numbers("budgets", budgets, float)),
            seeds=tuple(run_choices.numbers("seeds", seeds, int)),
            steps=steps,
            batch_size=batch_size,
            num_frames=num_frames,
        )

        def show(point: Point, number: int, count: int, what: str) -> None:
            status.stop()
            console.note(f"[{number}/{count}] {what} {point.name}")

        comparison = Comparison(
            config,
            data,
            evaluation,
            out,
            sequences=run_choices.listed("sequences", sequences),
            device=device,
            workers=workers,
            progress=show,
        )
    results = comparison.finished() if summary else comparison.run()
    if not results:
        raise InputError(f"{out} has no finished point; run without --summary")
    if time:
        measure_times(comparison, say=show)
    write_comparison(out, results)


def write_comparison(out: Path, results: list[PointResult]) -> None:
    """pareto.json, pareto.md and pareto.png, and the table on stdout."""
    from tempomask.evaluation.pareto_summary import (
        markdown_table,
        rows_of,
        speedup_text,
        summarise_comparison,
    )
    from tempomask.evaluation.pareto_times import kept_times
    from tempomask.files import replacing, write_errors, write_json
    from tempomask.reports.pareto_figures import save_pareto_chart

    times = kept_times(out)
    found, rows = summarise_comparison(results, times), rows_of(results, times)
    write_json(out / "pareto.json", found)
    with write_errors(out / "pareto.md"), replacing(out / "pareto.md") as part:
        part.write_text(markdown_table(rows))
    save_pareto_chart(out / "pareto.png", rows)
    table = console.table("method", ">ratio", ">J&F", ">GMACs", ">FPS", ">speed-up", ">trained")
    for row in rows:
        table.add_row(
            row.method,
            f"{row.budget:g}",
            f"{sum(row.seeds) / len(row.seeds):.1f}",
            f"{row.macs / 1e9:.2f}",
            f"{row.fps:.1f}",
            speedup_text(row),
            f"{row.trained_share:.1%}",
        )
    console.out.print(table)
    console.out.print(f"{found['speed']}.")
    for claim in found["claims"]:
        console.out.print(_claim_line(claim))
    console.out.print(f"written: {out / 'pareto.json'}, pareto.md, pareto.png")


def _claim_line(claim: dict[str, Any]) -> str:
    measured = claim["measured"]
    if measured is None:
        return f"RDS {claim['claim']}: not measured"
    value = f"{measured['mean']:+.2f}" if "low" in measured else f"{measured['mean']:.1%}"
    spread = f" ({measured['low']:+.2f} to {measured['high']:+.2f})" if "low" in measured else ""
    return f"RDS {claim['claim']}: {'yes' if claim['seen'] else 'no'}, {value}{spread}"
