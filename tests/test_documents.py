"""What the documents say: paths exist, commands parse, scores are those in the results."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from tempomask.cli.main import app
from tempomask.weights.zoo import MODELS

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results"
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = sorted(
    path
    for path in (
        *ROOT.glob("*.md"),
        *(path for name in ("docs", "studies", "src") for path in (ROOT / name).rglob("*.md")),
    )
)


def score(name: str) -> float:
    summary = json.loads((RESULTS / f"nano-davis16-val-dev-{name}" / "summary.json").read_text())
    return summary["J&F"]


def baseline(name: str) -> float:
    return json.loads((RESULTS / "davis_baselines.json").read_text())[name]["mean"]


@pytest.mark.parametrize(
    "row, found",
    [
        ("repeating the first mask", lambda: baseline("repeat")),
        ("warping the first mask by optical flow", lambda: baseline("flow")),
        ("nano, from the first mask", lambda: score("mask")),
        ("nano, from a box", lambda: score("box")),
        ("nano, from one click", lambda: score("click")),
    ],
)
def test_scores_in_the_readme_are_those_of_the_results(row: str, found: object) -> None:
    assert callable(found)
    assert f"| {row} | {found():.1f} |" in README


def test_other_numbers_in_the_readme_are_those_of_the_results() -> None:
    text = " ".join(README.split())
    summary = json.loads((RESULTS / "nano-davis16-val-dev-mask" / "summary.json").read_text())
    assert f"nano ran at {summary['FPS']:.1f} FPS on two CPU cores" in text
    memory = json.loads((RESULTS / "flat_memory.json").read_text())
    assert f"resident memory grew by {memory['growth']:.1%}" in text
    clips = json.loads((RESULTS / "region_boundary.json").read_text())["clips"]
    least = min(min(clip["ratio"], clip["ratio_one_thread"]) for clip in clips.values())
    claimed = re.search(r"is ([0-9.]+) times as fast or more", text)
    assert claimed and least - 0.1 < float(claimed[1]) <= least


def test_models_in_the_readme_are_those_of_the_zoo() -> None:
    checked = 0
    rows = re.findall(r"^\| `.*$", README, flags=re.MULTILINE)
    for row in rows:
        names, parameters = (cell.strip() for cell in row.split("|")[1:3])
        for name in re.findall(r"`((?:nano|sam2|efficienttam)[^`]*)`", names):
            assert name in MODELS
            assert f"{MODELS[name].parameters:.1f} M" in parameters or parameters == "as above"
            checked += 1
    assert checked >= 12


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
