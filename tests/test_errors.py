"""The wording of errors, of all of them at once: one line that names a thing and is not a sentence.

What a single error says is asserted by the value it names, in the test of what raises it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tempomask.errors import InputError

SOURCE = Path(__file__).parent.parent / "src" / "tempomask"
WORDS_TO_AVOID = re.compile(r"\b(please|invalid|illegal|oops|sorry|failed to|picture)\b", re.I)


def text_of(node: ast.expr) -> str | None:
    """A message as it is written, with {} for what is filled in; None if it is made elsewhere."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(
            str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values
        )
    return None


def messages() -> Iterator[tuple[str, str]]:
    """Where each InputError is raised, and its text."""
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id == "InputError"
                and node.args
                and (text := text_of(node.args[0])) is not None
            ):
                yield f"{path.relative_to(SOURCE)}:{node.lineno}", text


def faults(text: str) -> list[str]:
    """What is wrong with the wording of a message."""
    found = []
    if "\n" in text:
        found.append("has more than one line")
    if text.endswith((".", "!")) and not text.endswith("..."):
        found.append("ends like a sentence")
    if re.match(r"[A-Z][a-z]+ [a-z]", text):
        found.append("begins like a sentence")
    if WORDS_TO_AVOID.search(text):
        found.append("says a word that helps nobody")
    if len(text.split()) < 3 and "{}" not in text:
        found.append("names nothing")
    return found


def test_every_message_is_one_plain_line() -> None:
    found = list(messages())
    assert len(found) > 250
    wrong = [f"{where}: {fault}: {text}" for where, text in found for fault in faults(text)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("two\nlines of text", "has more than one line"),
        ("the budget is too small.", "ends like a sentence"),
        ("The budget is too small", "begins like a sentence"),
        ("please give a budget", "says a word that helps nobody"),
        ("bad input", "names nothing"),
    ],
)
def test_faults_are_found(text: str, fault: str) -> None:
    assert faults(text) == [fault]


def test_names_do_not_break_the_line() -> None:
    message = str(InputError("no such file: a\nb\x1b[31m.mp4" + "x" * 5000))
    assert message.startswith("no such file: a b?[31m.mp4xx") and len(message) <= 2000
