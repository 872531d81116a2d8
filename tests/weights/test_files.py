"""Checkpoint files that are missing, damaged or something else: one line, with the remedy."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tempomask.errors import InputError, InputWarning
from tempomask.models.segmenter import Segmenter
from tempomask.weights import load_segmenter, save_segmenter, to_official
from tempomask.weights.files import file_hash, read_checkpoint
from tempomask.weights.own import SEGMENTER_KEY, config_to_json
from tempomask.weights.zoo import ASSETS

Make = Callable[[str], Segmenter]


class Payload:
    """Anything but weights: reading it must not run it."""

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return Path.touch, (Path("ran"),)  # type: ignore[return-value]


def empty(path: Path) -> None:
    path.write_bytes(b"")


def text(path: Path) -> None:
    path.write_text("these are not the weights you are looking for\n")


def web_page(path: Path) -> None:
    path.write_text("<!DOCTYPE html><html><body>Not found</body></html>")


def other_objects(path: Path) -> None:
    torch.save({"model": Payload()}, path)


def a_list(path: Path) -> None:
    torch.save([torch.zeros(1)], path)


def no_tensors(path: Path) -> None:
    torch.save({"epoch": 3, "optimizer": {}}, path)


def other_network(path: Path) -> None:
    torch.save({"model": torch.nn.Linear(2, 2).state_dict()}, path)


def other_safetensors(path: Path) -> None:
    save_file({"classifier.weight": torch.zeros(2, 2)}, path)


def truncated_pickle(path: Path) -> None:
    path.write_bytes(b"\x80\x02}q\x00X\x05")


def truncated_header(path: Path) -> None:
    path.write_bytes((1000).to_bytes(8, "little") + b'{"a": {"dtype"')


BAD: list[tuple[Callable[[Path], None], str]] = [
    (empty, "is empty; fetch it again"),
    (text, "is neither a PyTorch nor a safetensors checkpoint"),
    (web_page, "is neither a PyTorch nor a safetensors checkpoint"),
    (other_objects, "truncated, damaged or holds other objects"),
    (a_list, "holds no named tensors"),
    (no_tensors, "holds no tensors, but epoch, optimizer"),
    (
        other_network,
        "not a checkpoint of SAM 2, EfficientTAM, EdgeTAM or tempomask; its 2 tensors are weight",
    ),
    (other_safetensors, "its 1 tensors are classifier.weight"),
    (truncated_pickle, "truncated, damaged or holds other objects"),
    (truncated_header, "truncated or damaged safetensors file"),
]


@pytest.mark.parametrize(("write", "message"), BAD, ids=[write.__name__ for write, _ in BAD])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_bad_files(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write: Callable[[Path], None],
    message: str,
    suffix: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"weights{suffix}"
    write(path)
    with pytest.raises(InputError, match=message) as caught:
        load_segmenter("sam2.1-tiny", path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert not Path("ran").exists()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_truncated_files(make_segmenter: Make, tmp_path: Path, share: float, suffix: str) -> None:
    segmenter, path = make_segmenter("sam2.1-tiny"), tmp_path / f"weights{suffix}"
    if suffix == ".pt":
        torch.save({"model": to_official(segmenter.state_dict())}, path)
    else:
        save_segmenter(segmenter, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(InputError, match="truncated") as caught:
        load_segmenter("sam2.1-tiny", path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("missing", ["no.pt", "no/such/folder/no.safetensors", "deep/er/no"])
def test_missing_files(tmp_path: Path, missing: str) -> None:
    with pytest.raises(InputError, match="no checkpoint"):
        load_segmenter("sam2.1-tiny", tmp_path / missing)


def test_a_folder_with_one_checkpoint_is_that_checkpoint(
    make_segmenter: Make, tmp_path: Path
) -> None:
    save_segmenter(make_segmenter("sam2.1-tiny"), tmp_path / "a.safetensors")
    (tmp_path / "notes.txt").write_text("hello")
    assert load_segmenter(checkpoint=tmp_path).config.name == "sam2.1-tiny"


@pytest.mark.parametrize(
    ("files", "message"),
    [([], "found: none"), (["a.txt"], "found: none"), (["b.pt", "a.pt"], "found: a.pt, b.pt")],
)
def test_folders_without_one_checkpoint(tmp_path: Path, files: list[str], message: str) -> None:
    for file in files:
        (tmp_path / file).write_bytes(b"PK")
    with pytest.raises(InputError, match=message):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "is a list of 0, not an object"),
        ("{}", "has no weight_map"),
        ('{"weight_map": {"a": "../b"}}', "not a plain name of a file"),
        (json.dumps({"weight_map": {"a": "gone.safetensors"}}), "names gone.safetensors"),
    ],
)
def test_bad_indices(tmp_path: Path, index: str, message: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(InputError, match=message):
        read_checkpoint(tmp_path)


def test_safetensors_of_our_names_without_configuration(
    make_segmenter: Make, tmp_path: Path
) -> None:
    path = tmp_path / "bare.safetensors"
    save_file(make_segmenter("sam2.1-tiny").state_dict(), path)
    with pytest.raises(InputError, match="lacks its configuration"):
        load_segmenter("sam2.1-tiny", path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: torch.full_like(x, float("nan")), "is not finite"),
        (lambda x: torch.where(x == x.max(), float("inf"), x), "is not finite"),
        (lambda x: torch.where(x == x.min(), float("-inf"), x), "is not finite"),
        (lambda x: x.to(torch.complex64), "is of complex64, and weights are floats"),
        (lambda x: x > 0, "is of bool"),
        (lambda x: x.to(torch.int8), "is of int8"),
    ],
)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_values_that_are_no_weights_are_refused_by_name(
    make_segmenter: Make, tmp_path: Path, change: Any, message: str, suffix: str
) -> None:
    segmenter, path = make_segmenter("sam2.1-tiny"), tmp_path / f"weights{suffix}"
    name = "encoder.blocks.0.qkv.weight"
    state = segmenter.state_dict()
    state[name] = change(state[name])
    if suffix == ".pt":
        torch.save({"model": to_official(state)}, path)
    else:
        save_file(state, path, {SEGMENTER_KEY: config_to_json(segmenter.config)})
    with pytest.raises(InputError, match=f"{name} {message}") as caught:
        load_segmenter("sam2.1-tiny", path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        torch.Tensor.to_sparse,
        lambda x: x.to("meta"),
        lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8),
        lambda x: torch.nested.nested_tensor([x]),
    ],
)
def test_tensors_without_plain_values_are_refused(tmp_path: Path, change: Any) -> None:
    torch.save({"model": {"a": change(torch.ones(2, 3))}}, tmp_path / "a.pt")
    with pytest.raises(InputError, match="has a as a tensor without plain values"):
        read_checkpoint(tmp_path / "a.pt")


def test_a_checkpoint_that_lies_in_itself(tmp_path: Path) -> None:
    around: dict[str, Any] = {}
    around["model"] = around
    torch.save(around, tmp_path / "a.pt")
    with pytest.raises(InputError, match="holds no tensors, but model"):
        read_checkpoint(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("wrap", "told"),
    [
        (lambda state: {"state_dict": state}, None),
        (lambda state: {"model_state_dict": state, "epoch": 3}, "taken from 'model_state_dict'"),
        (lambda state: {"ema": {"module": state}}, "taken from 'ema'"),
        (lambda state: {"model_ema": state, "optimizer": {}}, "taken from 'model_ema'"),
        (lambda state: {"model": state, "ema": {}}, "taken from 'model'; it also holds ema"),
        (lambda state: {f"module.{k}": x for k, x in state.items()}, "read without module."),
        (
            lambda state: {"model": {f"module._orig_mod.{k}": x for k, x in state.items()}},
            "read without module. _orig_mod.",
        ),
        (lambda state: {f"model.{k}": x for k, x in state.items()}, "read without model."),
        (
            lambda state: {
                "n_averaged": torch.tensor(3),
                **{f"module.{k}": x for k, x in state.items()},
            },
            "read without module.",
        ),
        (
            lambda state: {
                k.replace("image_encoder.", "image_encoder._orig_mod."): x for k, x in state.items()
            },
            "read without _orig_mod.",
        ),
    ],
)
def test_wrapped_checkpoints_load_with_a_note(
    make_segmenter: Make, tmp_path: Path, wrap: Any, told: str | None
) -> None:
    segmenter, path = make_segmenter("sam2.1-tiny"), tmp_path / "weights.pt"
    torch.save(wrap(to_official(segmenter.state_dict())), path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loaded = load_segmenter("sam2.1-tiny", path)
    said = [str(w.message) for w in caught if w.category is InputWarning]
    assert (told in said[0] and str(path) in said[0]) if told else not said
    for name, x in segmenter.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], x)


def test_a_written_file_knows_its_checksum(make_segmenter: Make, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_segmenter(make_segmenter("sam2.1-tiny"), path, torch.bfloat16)
    load_segmenter(checkpoint=path)
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="tensors .*checksum"):
        load_segmenter(checkpoint=path)


def test_a_list_of_checksums_beside_a_file_counts(make_segmenter: Make, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(make_segmenter("sam2.1-tiny").state_dict(), path)
    (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  weights.safetensors\n")
    with pytest.raises(InputError, match="SHA256SUMS"):
        read_checkpoint(path)
    (tmp_path / "SHA256SUMS").write_text(f"{file_hash(path)}  weights.safetensors\n")
    read_checkpoint(path)
    (tmp_path / "SHA256SUMS").write_bytes(b"\xff\xfe\n")
    with pytest.raises(InputError, match="SHA256SUMS is not text"):
        read_checkpoint(path)


def test_every_shipped_file_of_weights_has_its_checksum() -> None:
    files = sorted(ASSETS.rglob("*.safetensors"))
    assert len(files) >= 4
    for path in files:
        assert f"{file_hash(path)}  {path.name}\n" in (path.parent / "SHA256SUMS").read_text()
