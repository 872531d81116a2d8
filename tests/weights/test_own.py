"""Our own files: the configuration travels with the weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tempomask.errors import InputError
from tempomask.models.config import SEGMENTERS, SegmenterConfig
from tempomask.models.segmenter import Segmenter
from tempomask.weights import load_segmenter, save_segmenter
from tempomask.weights.own import config_from_json, config_to_json

Make = Callable[[str], Segmenter]


@pytest.mark.parametrize("name", SEGMENTERS)
def test_configurations_survive_json(name: str) -> None:
    config = SEGMENTERS[name]
    again = config_from_json(SegmenterConfig, config_to_json(config))
    assert again == config and type(again.encoder) is type(config.encoder)
    assert hash(again) == hash(config)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-1],
        lambda text: text.replace("memory_frames", "memory_images"),
        lambda text: text.replace('"hiera"', '"swin"'),
        lambda text: json.dumps({**json.loads(text), "mask_decoder": 3}),
        lambda text: json.dumps({**json.loads(text), "encoder": None}),
        lambda text: json.dumps({**json.loads(text), "name": []}),
        lambda text: text.replace('"rope_theta": 10000.0', f'"rope_theta": {10**400}'),
        lambda text: text.replace('"rope_theta": 10000.0', '"rope_theta": [1]'),
        lambda text: "[]",
        lambda text: "{}",
    ],
)
def test_unreadable_configurations(damage: Callable[[str], str]) -> None:
    with pytest.raises(InputError, match="newer version"):
        config_from_json(SegmenterConfig, damage(config_to_json(SEGMENTERS["sam2.1-tiny"])))


def test_half_size_files(make_segmenter: Make, tmp_path: Path) -> None:
    segmenter = make_segmenter("sam2.1-tiny")
    whole, half = tmp_path / "whole.safetensors", tmp_path / "half.safetensors"
    save_segmenter(segmenter, whole)
    save_segmenter(segmenter, half, torch.bfloat16)
    assert half.stat().st_size < 0.65 * whole.stat().st_size
    stored, exact = load_file(half), segmenter.state_dict()
    for key in ("prompt_encoder.frequencies", "encoder.blocks.0.qkv.bias", "no_memory"):
        assert torch.equal(stored[key], exact[key]), key
    assert stored["encoder.blocks.0.qkv.weight"].dtype == torch.bfloat16
    for key, tensor in load_segmenter(checkpoint=half).state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.allclose(tensor, exact[key], rtol=2**-8, atol=0)


def test_weights_on_a_shared_storage_or_in_strides_are_saved(
    make_segmenter: Make, tmp_path: Path
) -> None:
    segmenter = make_segmenter("sam2.1-tiny")
    block = segmenter.encoder.blocks[0]
    block.expand.weight.data = block.contract.weight.data.T
    save_segmenter(segmenter, tmp_path / "a.safetensors")
    loaded = load_segmenter(checkpoint=tmp_path / "a.safetensors").encoder.blocks[0]
    assert torch.equal(loaded.expand.weight, block.contract.weight.T)


def test_a_file_is_replaced_whole_or_not_at_all(
    make_segmenter: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.safetensors"
    save_segmenter(make_segmenter("sam2.1-tiny"), path)
    before = path.read_bytes()

    def full_disk(state: object, file: Path, metadata: object) -> None:
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full_disk)
    with pytest.raises(InputError, match=r"a\.safetensors"):
        save_segmenter(make_segmenter("sam2-tiny"), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize("target", ["no/such/folder/a.safetensors", "file/a.safetensors", "folder"])
def test_places_that_cannot_be_written(make_segmenter: Make, tmp_path: Path, target: str) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "content").write_text("x")
    with pytest.raises(InputError, match="cannot write "):
        save_segmenter(make_segmenter("sam2.1-tiny"), tmp_path / target)
    assert not list(tmp_path.rglob("*.part"))


def test_weights_can_be_read_by_whoever_reads_other_files(
    make_segmenter: Make, tmp_path: Path
) -> None:
    (tmp_path / "plain").touch()
    save_segmenter(make_segmenter("sam2.1-tiny"), tmp_path / "a.safetensors")
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1
