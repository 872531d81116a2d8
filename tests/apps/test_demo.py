"""`tempomask demo` on the bundled clip, with a tracker that knows the exact masks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tempomask.api import Model
from tempomask.apps.demo import CLICK, CLIP
from tempomask.media.masks import read_mask
from tempomask.types import FrameResult

Run = Callable[..., tuple[int, str, str]]


def exact_masks() -> np.ndarray:
    with np.load(CLIP / "masks.npz") as archive:
        masks = np.unpackbits(archive["packed"], axis=-1, count=int(archive["shape"][2]))
    return masks.astype(bool)


def test_the_click_is_on_the_object() -> None:
    x, y = (int(side) for side in CLICK)
    first = read_mask(CLIP / "first_mask.png")
    assert first[y, x] == 1
    assert np.array_equal(first == 1, exact_masks()[0])


def test_the_demo_writes_what_it_says(
    run: Run, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks = exact_masks()

    def fake(self: Model, source: Any, prompts: Any, **_: Any) -> Iterator[FrameResult]:
        for index, _frame in source.frames():
            logits = np.where(masks[index][None], 9, -9).astype(np.float32)
            one = np.ones(1, dtype=np.float32)
            yield FrameResult(index, masks[index].shape, (1,), logits, one, one, np.ones(4, bool))

    monkeypatch.setattr(Model, "track", fake)
    out = tmp_path / "demo"
    code, text, err = run("demo", "--checkpoint", checkpoint, "--out", out, "--json")
    assert code == 0, err
    report = json.loads(text)
    assert report["iou"] == 1.0 and report["frames"] == len(masks)
    assert set(report["files"]) == {"masks", "overlay", "chart", "sheet", "frames"}
    assert all(Path(path).exists() for path in report["files"].values())
    with Image.open(report["files"]["sheet"]) as sheet:
        assert sheet.width > 600 and sheet.height > 300
