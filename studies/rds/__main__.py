"""Every method at every ratio, trained and scored, as a table and a figure.

    python -m studies.rds --data DATA --evaluation DAVIS --out comparison --seeds 1,2,3

Each point is trained by the same loop, loaded as an adapter, and scored once; run the same command
again to go on after a stop, or with more methods, ratios and seeds. Let the machine do nothing else
while it measures with --time. Writes pareto.json, pareto.md and pareto.png into --out.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from studies.rds.chart import save_pareto_chart
from studies.rds.comparison import (
    BUDGETS,
    METHODS,
    Comparison,
    ComparisonConfig,
    Point,
    PointResult,
)
from studies.rds.summary import markdown_table, rows_of, summarise_comparison
from studies.rds.times import kept_times, measure_times
from tempomask.errors import InputError
from tempomask.files import replacing, write_errors, write_json


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="as for `tempomask adapt`")
    parser.add_argument("--evaluation", type=Path, required=True, help="in DAVIS layout")
    parser.add_argument("--out", type=Path, required=True, help="folder of the points")
    parser.add_argument("--model", default=None)
    parser.add_argument("--checkpoint", default=None)
    parser.add_argument("--image-size", type=int, default=None)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--budgets", default=",".join(map(str, BUDGETS)))
    parser.add_argument("--seeds", default="1")
    parser.add_argument("--sequences", default=None, help="names with commas; all by default")
    parser.add_argument("--steps", type=int, default=1000, help="optimiser steps a point")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--num-frames", type=int, default=4)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--summary", action="store_true", help="train nothing; sum up what is done")
    parser.add_argument(
        "--time", action="store_true", help="then time every point in turns with the full model"
    )
    return parser.parse_args(arguments)


def write_comparison(out: Path, results: list[PointResult]) -> None:
    """pareto.json, pareto.md and pareto.png; the table and the claims on stdout."""
    times = kept_times(out)
    found, rows = summarise_comparison(results, times), rows_of(results, times)
    write_json(out / "pareto.json", found)
    with write_errors(out / "pareto.md"), replacing(out / "pareto.md") as part:
        part.write_text(markdown_table(rows))
    save_pareto_chart(out / "pareto.png", rows)
    print(markdown_table(rows))
    for claim in found["claims"]:
        print(claim_line(claim))


def claim_line(claim: dict[str, Any]) -> str:
    """A claim of the paper, whether it is seen here, and by how much."""
    measured = claim["measured"]
    if measured is None:
        return f"RDS {claim['claim']}: not measured"
    value = f"{measured['mean']:+.2f}" if "low" in measured else f"{measured['mean']:.1%}"
    spread = f" ({measured['low']:+.2f} to {measured['high']:+.2f})" if "low" in measured else ""
    return f"RDS {claim['claim']}: {'yes' if claim['seen'] else 'no'}, {value}{spread}"


def say(point: Point, number: int, count: int, what: str) -> None:
    """One line of progress."""
    print(f"[{number}/{count}] {what} {point.name}", file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Run what the command line asks for."""
    given = options(arguments)
    config = ComparisonConfig(
        model=given.model,
        checkpoint=given.checkpoint,
        image_size=given.image_size,
        methods=tuple(given.methods.split(",")),
        budgets=tuple(map(float, given.budgets.split(","))),
        seeds=tuple(map(int, given.seeds.split(","))),
        steps=given.steps,
        batch_size=given.batch_size,
        num_frames=given.num_frames,
    )
    comparison = Comparison(
        config,
        given.data,
        given.evaluation,
        given.out,
        sequences=given.sequences and given.sequences.split(","),
        device=given.device,
        workers=given.workers,
        progress=say,
    )
    results = comparison.finished() if given.summary else comparison.run()
    if not results:
        raise InputError(f"{given.out} has no finished point; run without --summary")
    if given.time:
        measure_times(comparison, say=say)
    write_comparison(given.out, results)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
