"""The site shows every page, and its home works one folder above where its text lies."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs import site


@pytest.fixture
def staged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    monkeypatch.setattr(site, "STAGE", tmp_path / "stage")
    return site.stage()


def test_the_navigation_leads_to_every_page(staged: list[Path]) -> None:
    assert site.unlisted(staged) == []
    assert site.unlisted([*staged, Path("docs/new.md")]) == ["docs/new.md"]


def test_the_navigation_has_no_page_too_many(staged: list[Path]) -> None:
    listed = re.findall(r'"([^"]+\.md)"', site.CONFIG.read_text(encoding="utf-8"))
    assert sorted(listed) == sorted(map(str, staged))


def test_links_of_every_staged_page_lead_somewhere(staged: list[Path]) -> None:
    """Images and files too, which the site's own check leaves out."""
    for page in staged:
        text = (site.STAGE / page).read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)\s#]+)", text):
            if not target.startswith(("http://", "https://")):
                path = (site.STAGE / page).parent / target
                assert path.exists(), f"{page} links to {target}"
