"""The ablations of memory attention: a row and an error for each form."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from studies.efficienttam.__main__ import COMPARED, FORMS, Compared
from tempomask.files import read_json
from tempomask.models.config import MemoryAttentionConfig, TokenGrid
from tempomask.models.memory_attention import MemoryTokens, RotaryAttention


def test_every_form_has_a_row(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, save_pair: Any
) -> None:
    for t in range(3):
        labels = np.zeros((48, 64), np.uint8)
        labels[10:30, 5 + t : 25 + t] = 1
        save_pair(tmp_path / "DAVIS", f"slow/{t:05d}", labels)
    arguments = [str(tmp_path / "DAVIS"), "--image-size", "128", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["efficienttam", *arguments])
    runpy.run_module("studies.efficienttam", run_name="__main__")
    report = read_json(tmp_path / "out" / "ablations.json", "the report")
    assert [row["form"] for row in report["rows"]] == list(FORMS)
    assert [row["form"] for row in report["figure_3"]] == COMPARED
    assert all(len(row["by_layer"]) == 2 for row in report["figure_3"])
    cost = {row["form"]: row["giga_multiply_adds"] for row in report["rows"]}
    assert cost["Eq. 5, 4x4"] < cost["Eq. 5, 2x2"] == cost["Eq. 6, 2x2"] < cost["full"]


def test_the_error_is_relative_to_full_attention() -> None:
    """Memories that are alike within each window lose nothing by pooling; others do."""
    torch.manual_seed(0)
    attention = RotaryAttention(16, 8, 1e30)
    config, grid = MemoryAttentionConfig(), TokenGrid(4, 4)
    blocks = torch.randn(2, 2, 2, 8).repeat_interleave(2, 1).repeat_interleave(2, 2)
    errors: dict[str, list[float]] = {name: [] for name in COMPARED}
    compared, x = Compared(attention, errors), torch.randn(1, 16, 16)
    for values in (blocks.flatten(0, 2)[None], torch.randn(1, 32, 8)):
        memory = MemoryTokens(values, torch.zeros(1, 1, 8), 32, grid, None)
        with torch.no_grad():
            got = compared.attend_memory(x, memory, (4, 4), config)
            assert torch.equal(got, attention.attend_memory(x, memory, (4, 4), config))
    assert errors["Eq. 5, 2x2"][1] > errors["Eq. 5, 2x2"][0]
    assert errors["Eq. 5, 4x4"][1] > 0.05
