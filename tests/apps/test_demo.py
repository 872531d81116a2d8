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
from tempomask.apps.demo import BOX, CLICK, CLIP, first_prompt
from tempomask.media.masks import read_mask
from tempomask.types import FrameResult

Run = Callable[..., tuple[int, str, str]]


def exact_masks() -> np.ndarray:
    with np.load(CLIP / "masks.npz") as archive:
        masks = np.unpackbits(archive["packed"], axis=-1, count=int(archive["shape"][2]))
    return masks.astype(bool)


def test_the_prompts_show_the_object() -> None:
    first = exact_masks()[0]
    x, y = (int(side) for side in CLICK)
    assert first[y, x]
    rows, columns = first.any(axis=1).nonzero()[0], first.any(axis=0).nonzero()[0]
    assert (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) == BOX
    assert np.array_equal(read_mask(CLIP / "first_mask.png") == 1, first)
    for kind in ("click", "box", "mask"):
        first_prompt(kind).check_inside(first.shape)


def test_another_prompt_is_refused(run: Run, tmp_path: Path) -> None:
    code, _, err = run("demo", "--prompt", "wish", "--out", tmp_path / "out")
    assert code == 2 and "--prompt must be click, box or mask, got 'wish'" in err


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
