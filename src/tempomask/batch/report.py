"""What became of many jobs, as JSON and as a page with an image of each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any
from urllib.parse import quote

from tempomask.batch.jobs import Job
from tempomask.batch.places import Place

THUMBNAIL = "thumbnail.jpg"
# A page with more rows is of no use to anyone; the JSON has all.
_ROWS = 2000
_PAGE = """<!doctype html>
<meta charset="utf-8"><title>Batch</title>
<style>
body {{ font: 14px system-ui, sans-serif; margin: 2em; }}
td, th {{ padding: 4px 12px 4px 0; text-align: left; vertical-align: top; }}
img {{ width: 160px; display: block; }}
.failed {{ color: #b00020; }}
</style>
<h1>{title}</h1>
<table><tr><th></th><th>job</th><th>state</th><th>frames</th><th>FPS</th><th>objects</th></tr>
{rows}
</table>
"""


@dataclass(frozen=True)
class Row:
    """A job and how it stands. state: done, skipped (it was done before), failed or stopped."""

    job: Job
    state: str
    report: Mapping[str, Any] | None = None
    error: str | None = None

    def told(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "name": self.job.name,
            "source": self.job.words[0],
            "state": self.state,
            "error": self.error,
            "report": self.report,
        }


def write_report(
    place: Place, rows: Sequence[Row], totals: Mapping[str, Any], suffix: str = ""
) -> None:
    """report.json and report.html in a place; failed jobs first on the page."""
    place.write(f"report{suffix}.json", _told(rows, totals))
    listed = sorted(rows, key=lambda row: row.state != "failed")[:_ROWS]
    title = ", ".join(f"{totals[name]} {name}" for name in ("done", "skipped", "failed", "stopped"))
    if len(rows) > len(listed):
        title += f" (the first {len(listed)} of {len(rows)} jobs; all are in report{suffix}.json)"
    page = _PAGE.format(title=title, rows="\n".join(map(_row, listed)))
    place.write(f"report{suffix}.html", [page.encode(errors="backslashreplace")])


def _told(rows: Sequence[Row], totals: Mapping[str, Any]) -> Iterator[bytes]:
    """All as JSON, row by row, as a million of them would fill the memory."""
    yield json.dumps({**totals, "jobs": []})[:-2].encode()
    for number, row in enumerate(rows):
        yield f"{',' * (number > 0)}\n{json.dumps(row.told())}".encode()
    yield b"\n]}\n"


def _row(row: Row) -> str:
    report, image = row.report or {}, ""
    if row.report:  # without a text in its place, a thumbnail that is not there shows as nothing
        image = f'<img loading="lazy" alt="" src="{quote(f"{row.job.name}/{THUMBNAIL}")}">'
    said = row.error or "; ".join(report.get("warnings", ()))
    state = f"{row.state}: {said}" if said else row.state
    count = len(report.get("objects") or ()) if report else ""
    cells = [report.get("frames", ""), report.get("fps") or "", count]
    return (
        f"<tr><td>{image}</td><td>{escape(row.job.name)}</td>"
        f'<td class="{row.state}">{escape(state)}</td>'
        + "".join(f"<td>{cell}</td>" for cell in cells)
        + "</tr>"
    )
