"""Build the documentation site: `python -m docs.site`, as `make docs` does.

The site is staged in build/docs in the repository's own layout, so that links between docs/,
studies/ and the files at the root work in the repository and on the site alike. The build is
strict: a broken link, a page that the navigation lacks, or an unknown name in the reference fails.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
STAGE = ROOT / "build" / "docs"
CONFIG = ROOT / "zensical.toml"
SHOWN = {".md", ".png", ".jpg", ".webp", ".gif", ".json", ".jsonl", ".csv", ".css"}
FOLDERS = ("docs", "studies", "examples")
AT_ROOT = ("PAPERS.md", "CHANGELOG.md", "SECURITY.md")
CARDS = "src/tempomask/assets"


def sources() -> Iterator[Path]:
    """Every file of the site, by its path in the repository."""
    for folder in (*FOLDERS, CARDS):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in SHOWN and (folder != CARDS or path.suffix == ".md"):
                yield path.relative_to(ROOT)
    yield from map(Path, AT_ROOT)


def stage() -> list[Path]:
    """Copy what the site shows; returns the pages."""
    shutil.rmtree(STAGE, ignore_errors=True)
    pages = []
    for path in sources():
        target = STAGE / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, target)
        if path.suffix == ".md":
            pages.append(path)
    home = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    (STAGE / "docs" / "index.md").unlink()
    # Home is the root of the site, one folder up from where its text lies.
    (STAGE / "index.md").write_text(_moved_up(home), encoding="utf-8")
    return [Path("index.md"), *(page for page in pages if page != Path("docs/index.md"))]


def _moved_up(text: str) -> str:
    """Links of a page in docs/, for the same page at the root."""

    def link(found: re.Match[str]) -> str:
        target = found[2]
        if target.startswith(("http://", "https://", "#")):
            return found[0]
        return f"{found[1]}{target[3:] if target.startswith('../') else f'docs/{target}'}"

    return re.sub(r"(\]\(|src=\")([^)\"\s]+)", link, text)


def unlisted(pages: list[Path]) -> list[str]:
    """Pages that the navigation does not lead to."""
    listed = set(re.findall(r'"([^"]+\.md)"', CONFIG.read_text(encoding="utf-8")))
    return sorted({str(page) for page in pages} - listed)


def main(arguments: list[str] | None = None) -> int:
    """Stage and build; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", action="store_true", help="show it at localhost:8000 instead")
    serve = parser.parse_args(arguments).serve
    missing = unlisted(stage())
    if missing:
        print(f"pages that zensical.toml does not list: {', '.join(missing)}", file=sys.stderr)
        return 1
    command = [sys.executable, "-m", "zensical", *(["serve"] if serve else ["build", "--strict"])]
    return subprocess.run([*command, "--config-file", str(CONFIG)], cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
