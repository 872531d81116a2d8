"""Every method at every cost, trained and scored, as a table and a figure.

    python -m studies.rds --data DATA --evaluation DAVIS --out comparison --seeds 1,2,3

Each point is trained by the same loop, loaded as an adapter, and scored once; run the same command
again to go on after a stop, or with more methods, ratios and seeds. Let the machine do nothing else
while it measures with --time. Writes pareto.json, pareto.md and pareto.png into --out.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Parameter

from studies.rds.chart import save_pareto_chart
from studies.rds.comparison import Comparison, ComparisonConfig, Point, PointResult
from studies.rds.summary import markdown_table, rows_of, summarise_comparison
from studies.rds.times import kept_times, measure_times
from tempomask.cli.options import Names
from tempomask.errors import InputError
from tempomask.files import replacing, write_errors, write_json

app = App(
    name="python -m studies.rds",
    help=__doc__,
    version_flags=(),
    default_parameter=Parameter(negative=(), allow_repeating=True),
)

DEFAULTS = ComparisonConfig()


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


@app.default
def compare(
    *,
    config: Annotated[ComparisonConfig, Parameter(name="*")] = DEFAULTS,
    data: Path,
    evaluation: Path,
    out: Path,
    sequences: Names | None = None,
    device: str = "auto",
    workers: int = 1,
    summary: bool = False,
    time: bool = False,
) -> None:
    """Train and score every point that is not done yet, and write the comparison.

    Args:
        config: What is compared.
        data: To train on, as for `tempomask adapt`.
        evaluation: To score on, in the DAVIS layout.
        out: Folder of the points.
        sequences: To score on. Default: all.
        device: auto, cpu, cuda ...
        workers: Processes that prepare clips.
        summary: Train nothing; sum up what is done.
        time: Then time every point in turns with the full model.
    """
    comparison = Comparison(
        config,
        data,
        evaluation,
        out,
        sequences=sequences,
        device=device,
        workers=workers,
        progress=say,
    )
    for point in comparison.unreachable:
        print(
            f"{point.method} cannot cost {point.cost:g} of the encoder, it costs more",
            file=sys.stderr,
        )
    results = comparison.finished() if summary else comparison.run()
    if not results:
        raise InputError(f"{out} has no finished point; run without --summary")
    if time:
        measure_times(comparison, say=say)
    write_comparison(out, results)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    try:
        app(arguments, result_action="return_value", exit_on_error=False, print_error=False)
    except (InputError, CycloptsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
