"""Tables of the documents are those of the JSON files, and the renderer does what it says."""

from __future__ import annotations

import pytest

from docs.tables import __main__ as tables
from docs.tables.markdown import interval, number, percent, table


def test_no_table_is_out_of_date(capsys: pytest.CaptureFixture[str]) -> None:
    code = tables.main(["--check"])
    assert code == 0, f"{capsys.readouterr().out}run `python -m docs.tables`"


def test_documents_have_their_tables() -> None:
    counts = {
        str(path.relative_to(tables.ROOT)): len(tables.MARKED.findall(path.read_text()))
        for path in tables.documents()
    }
    assert counts["docs/performance.md"] >= 6 and sum(counts.values()) >= 20


def test_a_changed_table_is_made_anew() -> None:
    before = "text\n<!-- table rds_block_worth -->\nwrong\n<!-- end -->\nmore\n"
    after = tables.renewed(before)
    assert after.startswith("text\n<!-- table rds_block_worth -->\n\n| blocks that run |")
    assert after.endswith("\n\n<!-- end -->\nmore\n") and "wrong" not in after
    assert tables.renewed(after) == after


def test_an_unknown_table_is_named() -> None:
    with pytest.raises(SystemExit, match="no table 'nothing'"):
        tables.renewed("<!-- table nothing -->\n<!-- end -->")


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(0.125, 2, "0.13"), (2509.5, 0, "2,510"), (77.15, 1, "77.2"), (None, 1, "-")],
)
def test_numbers_are_rounded_up_from_a_half(value: float | None, digits: int, text: str) -> None:
    assert number(value, digits) == text


def test_cells() -> None:
    assert table(("a", ">b"), [("x", None)]) == "| a | b |\n| --- | ---: |\n| x |  |"
    estimate = {"mean": -0.06, "low": -0.4, "high": 0.1}
    assert interval(estimate) == "-0.1 (-0.4 to +0.1)" and interval(None) == "-"
    assert percent(0.571) == "57%" and percent(None) == "-"
