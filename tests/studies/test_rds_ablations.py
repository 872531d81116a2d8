"""A folder of ablations belongs to one meaning of its variants."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from studies.rds import ablations
from studies.rds.ablations import Ablation, routing_latency
from studies.rds.comparison import ComparisonConfig
from tempomask.errors import InputError
from tempomask.models.config import HybridConfig, SegmenterConfig
from tempomask.models.segmenter import Segmenter


def test_the_folder_remembers_what_the_variants_vary_from(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for part in ("JPEGImages", "Annotations"):
        (data / part / "one").mkdir(parents=True)
        Image.fromarray(np.ones((32, 32), np.uint8)).save(data / part / "one" / "00000.png")
    config = ComparisonConfig(methods=(), costs=(0.6,))
    folders = (config, data, data, tmp_path / "out")
    names = [point.method for point in Ablation(0.6, ["rds", "paper"], *folders).points]
    assert names == ["rds", "paper"]
    with pytest.raises(InputError, match="other rds"):
        Ablation(0.5, ["rds"], *folders)


def test_every_kind_of_routing_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ablations, "CALLS", 2)
    monkeypatch.setattr(ablations, "WARM_UP", 0)
    encoder = HybridConfig(dim=32, num_heads=2, depth=4)
    segmenter = Segmenter(SegmenterConfig(name="nano", encoder=encoder, image_size=64)).eval()
    times = routing_latency(segmenter)
    assert set(times) == {"rds", "adavit", "dyt"} and min(times.values()) > 0
