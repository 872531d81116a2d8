"""Checkpoint files that are missing, damaged or something else: one line, with the remedy."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tempomask.errors import InputError
from tempomask.models.segmenter import Segmenter
from tempomask.weights import load_segmenter, save_segmenter, to_official
from tempomask.weights.files import read_checkpoint

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
    (other_network, "no checkpoint of SAM 2, EfficientTAM or tempomask; its 2 tensors are weight"),
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
    with pytest.raises(InputError, match="there is no checkpoint at"):
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
        ('{"weight_map": {"a": "../b"}}', "no plain name of a file"),
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
