"""Every model by name, where its weights are looked for, and what happens without them."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tempomask.errors import InputError
from tempomask.models.config import SEGMENTERS
from tempomask.models.segmenter import Segmenter
from tempomask.weights import MODELS, load_segmenter, save_segmenter, to_official
from tempomask.weights.hub import locate, resolve

Make = Callable[[str], Segmenter]


@pytest.fixture(autouse=True)
def empty_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No weights on this machine but nano's, and no network."""
    monkeypatch.setenv("TEMPOMASK_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def no_network(*args: object) -> None:
        raise AssertionError("this test must not reach for the network")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    (tmp_path / "home").mkdir()
    return tmp_path


def put_in_hub_cache(cache: Path, repository: str, file: str, content: bytes) -> Path:
    """A file where huggingface_hub keeps the files it fetched."""
    folder = cache / "hub" / f"models--{repository.replace('/', '--')}"
    path = folder / "snapshots" / "0123abcd" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text("0123abcd")
    return path


def test_every_named_model_is_listed() -> None:
    assert list(MODELS) == list(SEGMENTERS)
    for name, info in MODELS.items():
        assert info.name == name and info.licence
        assert info.file.endswith((".pt", ".safetensors"))
        assert (info.repository is None) == (name == "nano") == (info.url == "")
        if info.url:
            assert info.url.startswith("https://") and info.url.endswith("/" + info.file)


@pytest.mark.parametrize(
    "name", ["nano", *(n for n in MODELS if n.startswith("sam2.1")), "efficienttam-s", "edgetam"]
)
def test_sizes_are_those_of_the_networks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with torch.device("meta"):
        parameters = sum(p.numel() for p in Segmenter(SEGMENTERS[name]).parameters())
    # SAM 2's table, which leaves out what 2.1 added, says 38.9 and 46.
    assert MODELS[name].parameters == pytest.approx(parameters / 1e6, abs=0.07)
    assert MODELS[name].image_size == SEGMENTERS[name].image_size


@pytest.mark.parametrize(
    ("name", "file", "repository"),
    [
        ("sam2-base-plus", "sam2_hiera_base_plus.pt", "facebook/sam2-hiera-base-plus"),
        ("sam2.1-large", "sam2.1_hiera_large.pt", "facebook/sam2.1-hiera-large"),
        ("efficienttam-s", "efficienttam_s.pt", "yunyangx/efficient-track-anything"),
        ("efficienttam-ti-2", "efficienttam_ti_2.pt", "yunyangx/efficient-track-anything"),
        ("efficienttam-s-512", "efficienttam_s_512x512.pt", "yunyangx/efficient-track-anything"),
        ("efficienttam-s-1-512", "efficienttam_s_1.pt", "yunyangx/efficient-track-anything"),
        ("edgetam", "edgetam.pt", "facebook/EdgeTAM"),
    ],
)
def test_files_are_called_as_their_authors_call_them(name: str, file: str, repository: str) -> None:
    assert (MODELS[name].file, MODELS[name].repository) == (file, repository)


def test_nano_is_bundled_and_says_what_its_weights_may_be_used_for() -> None:
    assert MODELS["nano"].path() and MODELS["nano"].source == "bundled"
    assert "CC BY-NC" in MODELS["nano"].licence
    assert {info.licence for name, info in MODELS.items() if name != "nano"} == {"Apache-2.0"}


def test_weights_in_the_home_folder_come_first(make_segmenter: Make, empty_caches: Path) -> None:
    info = MODELS["sam2.1-tiny"]
    assert info.path() is None
    put_in_hub_cache(empty_caches, "facebook/sam2.1-hiera-tiny", info.file, b"other")
    assert info.path() is not None
    expected = make_segmenter("sam2.1-tiny")
    torch.save({"model": to_official(expected.state_dict())}, empty_caches / "home" / info.file)
    loaded = load_segmenter("sam2.1-tiny")
    assert torch.equal(loaded.no_memory, expected.no_memory)


@pytest.mark.parametrize(
    ("name", "repository", "file", "found"),
    [
        ("sam2.1-tiny", "facebook/sam2.1-hiera-tiny", "sam2.1_hiera_tiny.pt", True),
        ("sam2.1-tiny", "facebook/sam2.1-hiera-tiny", "model.safetensors", True),
        ("sam2.1-tiny", "facebook/sam2.1-hiera-tiny", "config.json", False),
        ("sam2.1-tiny", "facebook/sam2-hiera-tiny", "sam2.1_hiera_tiny.pt", False),
        (
            "efficienttam-ti-1",
            "yunyangx/efficient-track-anything",
            "efficienttam_ti_1.pt",
            True,
        ),
        ("efficienttam-ti-1", "yunyangx/efficient-track-anything", "efficienttam_ti.pt", False),
    ],
)
def test_weights_in_the_cache_of_the_hub(
    empty_caches: Path, name: str, repository: str, file: str, found: bool
) -> None:
    path = put_in_hub_cache(empty_caches, repository, file, b"weights")
    assert MODELS[name].path() == (path if found else None)
    if found:
        assert locate(MODELS[name]) == path


def test_a_hub_id_is_its_local_copy(make_segmenter: Make, empty_caches: Path) -> None:
    repository = "someone/finetuned"
    path = put_in_hub_cache(empty_caches, repository, "model.safetensors", b"")
    expected = make_segmenter("sam2.1-tiny")
    save_segmenter(expected, path)
    loaded = load_segmenter(checkpoint=repository)
    assert torch.equal(loaded.no_memory, expected.no_memory)


def test_a_hub_id_with_several_files_gives_the_one_of_the_name(
    make_segmenter: Make, empty_caches: Path
) -> None:
    repository = "yunyangx/efficient-track-anything"
    for name in ("efficienttam-ti", "efficienttam-ti-1", "efficienttam-ti-2"):
        path = put_in_hub_cache(empty_caches, repository, MODELS[name].file, b"")
        torch.save({"model": to_official(make_segmenter(name).state_dict())}, path)
    for name in ("efficienttam-ti-1", "efficienttam-ti-2"):
        loaded = load_segmenter(name, repository)
        assert torch.equal(loaded.no_memory, make_segmenter(name).no_memory)


@pytest.mark.parametrize("name", ["sam2.1-tiny", "efficienttam-ti-2"])
def test_without_weights_the_error_says_where_to_get_them(empty_caches: Path, name: str) -> None:
    with pytest.raises(InputError) as caught:
        load_segmenter(name)
    message, info = str(caught.value), MODELS[name]
    for part in (name, info.url, "as the checkpoint", str(empty_caches / "home")):
        assert part in message
    assert "\n" not in message


def test_a_lost_connection_is_one_error(
    empty_caches: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log = logging.getLogger("huggingface_hub.utils._http")

    def lost(*_: object, **__: object) -> str:
        log.warning("Retrying in 1s [Retry 1/5].")
        raise OSError("no route")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", lost)
    with pytest.raises(InputError, match="sam2.1-tiny"):
        locate(MODELS["sam2.1-tiny"])
    assert not caplog.records
    log.warning("of another download")
    assert [record.message for record in caplog.records] == ["of another download"]


def test_an_unknown_hub_id(empty_caches: Path) -> None:
    with pytest.raises(InputError, match="someone/nothing"):
        load_segmenter(checkpoint="someone/nothing")


def test_a_repository_with_several_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **k: "/nowhere")
    monkeypatch.setattr("huggingface_hub.list_repo_files", lambda name: ["a.pt", "b.pt", "c.md"])
    with pytest.raises(InputError, match="a.pt"):
        resolve("someone/many")


@pytest.mark.parametrize("path", ["weights/best.pt", "a.safetensors", "one/two/three", "../up/x"])
def test_paths_are_not_taken_for_hub_ids(path: str) -> None:
    assert resolve(path) == Path(path)


def test_a_folder_of_the_same_form_as_a_hub_id_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("facebook").mkdir()
    assert resolve("facebook/sam2.1-hiera-tiny") == Path("facebook/sam2.1-hiera-tiny")
