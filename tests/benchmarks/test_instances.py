"""The profile of instance segmenters at a tiny size: its variants, and that plain parts agree."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.speed.instances import forced_router, without
from tempomask.models.instances.segmenter import InstanceSegmenter


def test_the_profile(run_script: Callable[..., Any], tmp_path: Path) -> None:
    arguments = [
        "--models", "nano-vis-dvis", "--dtypes", "float32", "--short-side", "64",
        "--timed", "1", "--rounds", "1", "--device", "cpu",
    ]  # fmt: skip
    (model,) = run_script("benchmarks/speed/instances.py", *arguments)["models"]
    names = [row["name"] for row in model["rows"]]
    assert names == [
        "all 9 layers", "first 3 layers", "TAR, 3 layers", "nothing fused",
        "fused attention alone", "fused masks alone", "fused points alone",
        "folded and packed alone", "TAR alone",
    ]  # fmt: skip
    for row in model["rows"]:
        assert sum(row["network_share"].values()) == pytest.approx(1, abs=0.001)
        assert row["frame_ms"] > sum(row[f"{part}_ms"] for part in row["network_share"])
    assert "| all 9 layers |" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize("swin", [False, True])
@pytest.mark.parametrize("part", ["attention", "masks", "points"])
def test_plain_parts_compute_the_same(
    instance_config: Callable[..., Any], part: str, swin: bool
) -> None:
    torch.manual_seed(0)
    segmenter = InstanceSegmenter(instance_config(swin=swin)).eval()
    image = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        fused = segmenter.step(image, None)[0].predictions
        with without([part]):
            plain = segmenter.step(image, None)[0].predictions
    for own, wanted in zip(fused, plain, strict=True):
        torch.testing.assert_close(own, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_forced_routers_run_so_many_layers(instance_config: Callable[..., Any], count: int) -> None:
    config = instance_config()
    router = forced_router(config, count)
    segmenter = InstanceSegmenter(config).eval()
    with torch.inference_mode():
        _, state = segmenter.step(torch.randn(1, 3, 64, 64), None, router)
        tracked, _ = segmenter.step(torch.randn(1, 3, 64, 64), state, router)
    assert tracked.ran[0].tolist() == [1.0] * count + [0.0] * (4 - count)
