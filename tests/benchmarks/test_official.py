"""A release's configuration is built by its own rule, and another's is refused by name."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from benchmarks.official import _built, official_predictor


def test_a_configuration_is_built_from_the_inside() -> None:
    node = {"_target_": "builtins.dict", "eps": "1e-6", "sizes": [1, {"_target_": "builtins.int"}]}
    assert _built(node) == {"eps": 1e-6, "sizes": [1, 0]}
    counted = _built({"_target_": "collections.Counter", "name": "relu", "n": None})
    assert counted == Counter(name="relu", n=None)


@pytest.mark.parametrize("model", ["sam2.1-tiny", "efficienttam-ti-512", "nano"])
def test_a_folder_without_the_release_is_named(model: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=model):
        official_predictor(tmp_path, model, {})
