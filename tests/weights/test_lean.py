"""Lean files: what they leave out, and that they come back whole or are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from recipes.nano_vis.lean import write_lean
from tempomask.errors import InputError
from tempomask.models.instances.config import InstanceConfig
from tempomask.models.instances.segmenter import InstanceSegmenter
from tempomask.weights.files import read_checkpoint
from tempomask.weights.instances import load_instance_segmenter
from tempomask.weights.own import RouterWeights, save_instance_segmenter

MakeConfig = Callable[..., InstanceConfig]


@pytest.fixture
def trained(instance_config: MakeConfig, tmp_path: Path) -> tuple[Path, Path]:
    """A base's file, and that of the model with another decoder and a router; both in bfloat16."""
    torch.manual_seed(0)
    segmenter = InstanceSegmenter(instance_config())
    router = RouterWeights("{}", {"routers.0.weight": torch.ones(2, 2)})
    base, whole = tmp_path / "base.safetensors", tmp_path / "whole.safetensors"
    save_instance_segmenter(segmenter, base, dtype=torch.bfloat16)
    with torch.no_grad():
        for parameter in segmenter.network.query_decoder.parameters():
            parameter.add_(torch.randn_like(parameter))
    save_instance_segmenter(segmenter, whole, router, torch.bfloat16)
    return base, whole


def test_a_lean_file_holds_what_differs_and_loads_as_the_whole_one(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    base, whole = trained
    lean = tmp_path / "lean.safetensors"
    write_lean(whole, base, lean)
    kept = read_checkpoint(lean).state
    assert all(name.startswith(("network.query_decoder.", "router.")) for name in kept)
    expected, found = load_instance_segmenter(None, whole), load_instance_segmenter(None, lean)
    state = found.segmenter.state_dict()
    for name, tensor in expected.segmenter.state_dict().items():
        assert torch.equal(state[name], tensor), name
    assert found.router is not None and expected.router is not None
    assert found.router.config == expected.router.config
    for name, tensor in expected.router.state.items():
        assert torch.equal(found.router.state[name], tensor), name


def test_a_lean_file_needs_its_base_beside_it(trained: tuple[Path, Path], tmp_path: Path) -> None:
    base, whole = trained
    lean = tmp_path / "lean.safetensors"
    write_lean(whole, base, lean)
    base.write_bytes(whole.read_bytes())
    with pytest.raises(InputError, match="base.safetensors"):
        load_instance_segmenter(None, lean)
    base.unlink()
    with pytest.raises(InputError, match="base.safetensors"):
        load_instance_segmenter(None, lean)


def test_models_without_anything_in_common(
    trained: tuple[Path, Path], instance_config: MakeConfig, tmp_path: Path
) -> None:
    other = tmp_path / "other.safetensors"
    segmenter = InstanceSegmenter(instance_config())
    with torch.no_grad():
        for tensor in segmenter.state_dict().values():
            tensor.add_(1)
    save_instance_segmenter(segmenter, other)
    with pytest.raises(InputError, match="no tensor in common"):
        write_lean(trained[1], other, tmp_path / "lean.safetensors")
    assert not (tmp_path / "lean.safetensors").exists()
