"""A folder of ablations belongs to one meaning of its variants."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from studies.rds.ablations import Ablation
from studies.rds.comparison import ComparisonConfig
from tempomask.errors import InputError


def test_the_folder_remembers_what_the_variants_vary_from(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for part in ("JPEGImages", "Annotations"):
        (data / part / "one").mkdir(parents=True)
        Image.fromarray(np.ones((32, 32), np.uint8)).save(data / part / "one" / "00000.png")
    config = ComparisonConfig(methods=(), costs=(0.6,))
    folders = (config, data, data, tmp_path / "out")
    names = [point.method for point in Ablation(0.6, ["rds", "paper"], *folders).points]
    assert names == ["rds", "paper"]
    with pytest.raises(InputError, match="with other rds"):
        Ablation(0.5, ["rds"], *folders)
