"""What the documents say: paths exist, commands parse, scores are those in the results."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from tempomask.cli.main import app

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results"
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = sorted(
    path
    for path in (
        *ROOT.glob("*.md"),
        *(
            path
            for name in ("docs", "studies", "examples", "src")
            for path in (ROOT / name).rglob("*.md")
        ),
    )
)


def result(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text())


def test_numbers_in_the_readme_are_those_of_the_results() -> None:
    """Those outside its table; each is looked up in the JSON that it comes from."""
    text = " ".join(README.split())
    seconds = [row["seconds"] for row in result("performance/against_tiny")["rows"]]
    full, half, _, ours = seconds
    assert f"takes {ours:.2f} s a frame" in text
    assert f"takes {full:.2f} s in float32 and {half:.2f} s in bfloat16" in text
    memory = result("flat_memory")
    assert f"rose by {memory['growth']:.1%} over {memory['frames']:,} frames" in text
    whole, routed = (result(f"nano{name}-davis16-val-dev-mask/summary") for name in ("", "-rds"))
    assert f"keeps {routed['J&F']:.1f} of {whole['J&F']:.1f} J&F" in text
    assert f"with {routed['blocks_run']:.0%} of them" in text


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        path, _, _ = target.partition("#")
        if not target.startswith(("https://", "http://")):
            assert (document.parent / path).exists(), target


def test_links_are_looked_for_in_every_document() -> None:
    names = {path.name for path in DOCUMENTS}
    assert {"README.md", "PAPERS.md", "rds.md", "performance.md", "NANO.md"} <= names
    assert sum(path.read_text(encoding="utf-8").count("](") for path in DOCUMENTS) >= 40


def test_paths_in_the_paper_list_exist() -> None:
    checked = 0
    for row in (ROOT / "PAPERS.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in row.split("|")]
        if len(cells) != 6 or cells[2] in ("file", "---"):
            continue
        for folder, cell in (("src/tempomask", cells[2]), ("tests", cells[3])):
            paths = re.findall(r"`([^`]+)`", cell)
            assert paths, row
            for path in paths:
                assert (ROOT / folder / path).exists() or (ROOT / path).exists(), path
        for path in re.findall(r"`([^`]+\.json)`", cells[4]):
            assert (RESULTS / path).exists() or (ROOT / path).exists(), path
        checked += 1
    assert checked >= 30


def test_folders_in_the_architecture_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `([^`]+)` \|", text, flags=re.MULTILINE)
    source = ROOT / "src" / "tempomask"
    assert all((source / name).exists() for name in listed)
    folders = {f"{path.parent.name}/" for path in source.glob("*/__init__.py")}
    assert folders <= set(listed)


def test_commands_in_the_readme_parse() -> None:
    commands = re.findall(r"^\$ (?:\.venv/bin/)?tempomask ([^|#\n]+)", README, flags=re.MULTILINE)
    assert len(commands) >= 8
    for command in commands:
        words = shlex.split(command)
        app.parse_args(words, exit_on_error=False, print_error=False)
