"""Exports of tiny networks, each made once: tracing takes its time, however small a network is."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tempomask.cli.main import main
from tempomask.export.runtime import OnnxSegmenter
from tempomask.export.writer import export_segmenter
from tempomask.models.segmenter import Segmenter
from tempomask.weights import save_segmenter
from tests.engine.conftest import randomise, small, tiny
from tests.tracking.conftest import clip, make_segmenter, source

__all__ = ["clip", "randomise", "small", "source", "tiny"]

CPU = ["CPUExecutionProvider"]
MakeExport = Callable[[str], Path]
MakeTiny = Callable[..., Segmenter]


@pytest.fixture(scope="session")
def network(small: MakeTiny) -> MakeTiny:
    """network(name): "toy", whose encoder is nano's, or as `small` calls it."""
    return cache(lambda name: make_segmenter(image_keys=True) if name == "toy" else small(name))


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, network: MakeTiny) -> MakeExport:
    """exported(name): the folder of a network, with places for twelve memories."""

    @cache
    def make(name: str) -> Path:
        folder = tmp_path_factory.mktemp("exports")
        if name == "toy":
            weights = folder / "toy.safetensors"
            save_segmenter(network(name), weights)
            command = ["export", "--checkpoint", str(weights), "--memories", "12", "--out"]
            assert main([*command, str(folder / name)]) == 0
        else:
            export_segmenter(network(name), folder / name, memories=12)
        return folder / name

    return make


@pytest.fixture(scope="session")
def segmenter(exported: MakeExport) -> Segmenter:
    """The network of the tests of tracking, as graphs."""
    return OnnxSegmenter(exported("toy"), CPU)


@pytest.fixture(scope="session")
def segmenter_with_image_keys(segmenter: Segmenter) -> Segmenter:
    """The same, as the toy's memory keys see the image."""
    return segmenter
