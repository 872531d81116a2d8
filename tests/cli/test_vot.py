"""`tempomask vot` in a process of its own, asked by the TraX client that the VOT toolkit uses."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tempomask.cli import main as cli
from tempomask.cli.vot import _placed
from tempomask.model import load
from tempomask.prompts import Prompt

trax = pytest.importorskip("trax")
client_of = pytest.importorskip("trax.client").Client


@contextmanager
def tracker(*words: object) -> Iterator[Any]:
    command = [sys.executable, "-m", "tempomask", "vot", *map(str, words)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin and process.stdout
    try:
        yield (
            client_of((process.stdin.fileno(), process.stdout.fileno()), log=lambda _: None),
            process,
        )
    finally:
        process.kill()
        process.wait()


def image(path: Path) -> dict[str, Any]:
    return {"color": trax.FileImage.create(str(path))}


def whole(region: Any, size: tuple[int, int]) -> np.ndarray:
    if isinstance(region, trax.Special):
        return np.zeros(size, dtype=bool)
    return _placed(region.array(), region.offset(), size)


def test_masks_are_those_of_the_model(video: Path, checkpoint: Path) -> None:
    frames = sorted(video.glob("*.png"))
    first, second = np.zeros((2, 32, 48), dtype=np.uint8)
    first[8:24, 4:20], second[0:6, 30:40] = 1, 1
    part = np.ascontiguousarray(second[:, 30:40])
    prompts = [Prompt(0, 1, mask=first > 0), Prompt(0, 2, mask=second > 0)]
    expected = list(load(None, str(checkpoint)).track(str(video), prompts))
    with tracker("--checkpoint", checkpoint) as (client, process):
        assert client.get("multiobject") and client.region_formats == ["mask"]
        for _ in range(2):  # the toolkit begins anew in the same process
            objects = [(trax.Mask.create(first), {}), (trax.Mask.create(part, 30), {})]
            answers, _ = client.initialize(image(frames[0]), objects, {})
            for result, path in zip(expected, [*frames[1:], None], strict=True):
                assert len(answers) == 2
                for (region, told), mask, iou in zip(
                    answers, result.masks, result.predicted_iou, strict=True
                ):
                    assert np.array_equal(whole(region, (32, 48)), mask)
                    wanted = float(iou) if mask.any() else 0.0
                    assert float(told["confidence"]) == pytest.approx(wanted, abs=1e-3)
                if path is not None:
                    answers, _ = client.frame(image(path), objects=[])
        client.quit()
        assert process.wait(60) == 0


def test_boxes_and_objects_that_come_later(video: Path, checkpoint: Path, tmp_path: Path) -> None:
    frames = sorted(video.glob("*.png"))
    prompts = [Prompt(0, 1, box=(4, 8, 20, 24)), Prompt(2, 2, box=(0, 0, 10, 10))]
    expected = list(load(None, str(checkpoint)).track(str(video), prompts))
    with tracker("--checkpoint", checkpoint, "--region", "rectangle") as (client, process):
        given = [(trax.Rectangle.create(4, 8, 16, 16), {})]
        answers, _ = client.initialize(image(frames[0]), given, {})
        for index, path in enumerate(frames):
            if index:
                late = [(trax.Rectangle.create(-5, 0, 15, 10), {})] if index == 2 else []
                answers, _ = client.frame(image(path), objects=late)
            assert len(answers) == 1 + (index >= 2)
            for (region, _), box in zip(answers, expected[index].boxes.tolist(), strict=True):
                x0, y0, x1, y1 = box
                if isinstance(region, trax.Special):
                    assert x0 == x1  # not to be seen
                else:
                    assert region.bounds() == (x0, y0, x1 - x0, y1 - y0)
        (tmp_path / "bad.png").write_bytes(b"not an image")
        with pytest.raises(trax.TraxException, match="bad.png"):
            client.frame(image(tmp_path / "bad.png"), objects=[])
        assert process.wait(60) == 2


def test_masks_beyond_the_edges_are_cut() -> None:
    part = np.ones((3, 4), dtype=np.uint8)
    assert np.argwhere(_placed(part, (-3, -1), (5, 6))).tolist() == [[0, 0], [1, 0]]
    assert np.argwhere(_placed(part, (5, 4), (5, 6))).tolist() == [[4, 5]]
    assert not _placed(part, (9, 9), (5, 6)).any()


def test_without_the_protocol(monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    monkeypatch.setitem(sys.modules, "trax", None)
    assert cli.main(["vot"]) == 2
    assert "pip install 'tempomask[vot]'" in capfd.readouterr().err
