"""A Markdown table, and reading the JSON behind it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent


def read(name: str) -> Any:
    """A JSON file, by its path from the repository's root without the ending."""
    return json.loads((ROOT / f"{name}.json").read_text(encoding="utf-8"))


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Rows of cells under their titles; a title that begins with ">" is of numbers."""
    lines = [
        f"| {' | '.join(title.removeprefix('>') for title in head)} |",
        f"| {' | '.join('---:' if title.startswith('>') else '---' for title in head)} |",
    ]
    lines += [f"| {' | '.join('' if c is None else str(c) for c in row)} |" for row in rows]
    return "\n".join(lines)


def number(value: float | None, digits: int = 1) -> str:
    """Rounded up from a half, as a reader rounds the digits of the JSON; "-" for None."""
    if value is None:
        return "-"
    return f"{Decimal(str(value)).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP):,}"


def percent(share: float | None, digits: int = 0) -> str:
    """A share in percent; "-" for None."""
    return "-" if share is None else f"{share:.{digits}%}"


def interval(estimate: dict[str, Any] | None, digits: int = 1) -> str:
    """A difference with its interval: "-0.1 (-0.4 to +0.1)"; "-" for None."""
    if estimate is None:
        return "-"
    mean, low, high = (estimate[name] for name in ("mean", "low", "high"))
    return f"{mean:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})"
