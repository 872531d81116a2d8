"""Write the tables of all documents anew: `python -m docs.tables`, `--check` to look only."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from docs.tables import performance, quality, studies
from docs.tables.markdown import ROOT

MARKED = re.compile(r"<!-- table (\w+) -->\n(.*?)<!-- end -->", re.DOTALL)


def documents() -> Iterator[Path]:
    """Every Markdown file of the project that may hold a table."""
    for folder in ("docs", "studies", "examples", "src"):
        yield from sorted((ROOT / folder).rglob("*.md"))
    yield from sorted(ROOT.glob("*.md"))


def made(name: str) -> str:
    """The table of this name."""
    for module in (performance, quality, studies):
        if name in vars(module):
            return vars(module)[name]()
    raise SystemExit(f"no table {name!r}; see the functions of docs/tables")


def renewed(text: str) -> str:
    """A document with its tables made anew."""
    return MARKED.sub(lambda m: f"<!-- table {m[1]} -->\n\n{made(m[1])}\n\n<!-- end -->", text)


def main(arguments: list[str] | None = None) -> int:
    """Write or check; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if needed")
    check = parser.parse_args(arguments).check
    outdated = []
    for path in documents():
        text = path.read_text(encoding="utf-8")
        fresh = renewed(text)
        if fresh != text:
            outdated.append(str(path.relative_to(ROOT)))
            if not check:
                path.write_text(fresh, encoding="utf-8")
    for name in outdated:
        print(f"{'out of date' if check else 'written'}: {name}")
    return int(check and bool(outdated))


if __name__ == "__main__":
    sys.exit(main())
