"""Checkpoint files into named tensors.

PyTorch (weights only), safetensors, folders of either, and detectron2's pickles of arrays.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tempomask.errors import InputError
from tempomask.files import read_json
from tempomask.schema import plain_name, shown
from tempomask.weights.layout import State

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
# The first bytes of a zip archive (torch.save since 2020) and of a pickle (before).
ZIP_MAGIC, PICKLE_MAGIC = b"PK", b"\x80"
# safetensors begin with the length of their JSON header, eight bytes, at most this.
LONGEST_HEADER = 100_000_000


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a checkpoint holds.

    Attributes:
        path: As given.
        state: Its tensors by name, on the CPU.
        metadata: Of a safetensors file.
        config_json: The file of that name beside the weights, None if there is none.
    """

    path: Path
    state: State
    metadata: Mapping[str, str]
    config_json: Path | None


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a file or a folder.

    Raises:
        InputError: It is not there, empty, truncated, or no checkpoint.
    """
    if not path.exists():
        raise InputError(f"there is no checkpoint at {path}; check the path, or give a Hub id")
    weights = _weights_in(path) if path.is_dir() else path
    if weights.name == INDEX:
        state, metadata = _read_shards(weights), {}
    else:
        state, metadata = _read_file(weights)
    config = weights.with_name("config.json")
    known = weights.name in (INDEX, SINGLE) and config.is_file()
    return Checkpoint(path, state, metadata, config if known else None)


def _weights_in(folder: Path) -> Path:
    """The one file of weights in a folder."""
    for name in (SINGLE, INDEX):
        if (folder / name).is_file():
            return folder / name
    found = sorted(p for p in folder.iterdir() if p.suffix in SUFFIXES)
    if len(found) != 1:
        names = ", ".join(p.name for p in found[:4]) or "none"
        raise InputError(
            f"the folder {folder} must hold {SINGLE} or exactly one checkpoint; found: {names}"
        )
    return found[0]


def _read_shards(index: Path) -> State:
    content = read_json(index, "the index", {"weight_map": {str: plain_name}})
    names = set(content["weight_map"].values())
    state: State = {}
    for name in sorted(names):
        shard = index.with_name(name)
        if not shard.is_file():
            raise InputError(f"{index} names {name}, which is not beside it; fetch it as well")
        state |= _read_file(shard)[0]
    return state


def _read_file(path: Path) -> tuple[State, Mapping[str, str]]:
    """Tensors and metadata, by what the file holds, not by how it is called."""
    if not path.is_file():  # reading a pipe would wait for ever
        raise InputError(f"the checkpoint {path} is no file; give a file or a folder")
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise InputError(f"cannot read the checkpoint {path}: {error.strerror}") from None
    if not start:
        raise InputError(f"the checkpoint {path} is empty; fetch it again")
    if start[8:] == b"{" and int.from_bytes(start[:8], "little") <= LONGEST_HEADER:
        return _read_safetensors(path)
    if start.startswith(PICKLE_MAGIC) and path.suffix == ".pkl":
        return _read_arrays(path), {}
    if start.startswith((ZIP_MAGIC, PICKLE_MAGIC)):
        return _read_pytorch(path), {}
    raise InputError(f"{path} is neither a PyTorch nor a safetensors checkpoint")


def _read_pytorch(path: Path) -> State:
    try:
        if zipfile.is_zipfile(path):
            _check_stored(path)
        with path.open("rb") as file:
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes fail in many ways
        raise InputError(
            f"{path} cannot be read as a PyTorch checkpoint of weights; it is truncated, damaged or"
            f" holds other objects ({_first_line(error)})"
        ) from None
    content = _inner(content, "model", "state_dict")
    if not isinstance(content, Mapping) or not all(isinstance(k, str) for k in content):
        raise InputError(f"{path} holds no named tensors; a checkpoint has them under 'model'")
    state = {key: x for key, x in content.items() if isinstance(x, Tensor)}
    if not state:
        names = ", ".join(list(content)[:3]) or "nothing"
        raise InputError(f"{path} holds no tensors, but {names}; a checkpoint has them in 'model'")
    return state


def _check_stored(path: Path) -> None:
    """ValueError for compressed entries: torch writes none, and a small one can fill the memory."""
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > entry.compress_size:
                raise ValueError(f"{shown(entry.filename)} is compressed")


def _read_arrays(path: Path) -> State:
    """The arrays of detectron2's format, as tensors."""
    from tempomask.weights.pickles import read_pickle

    content = _inner(read_pickle(path), "model")
    items = content.items() if isinstance(content, Mapping) else ()
    arrays = {str(key): np.array(x) for key, x in items if isinstance(x, np.ndarray)}
    if not arrays:
        raise InputError(f"{path} holds no named arrays; a detectron2 checkpoint has them")
    native = {key: x.astype(x.dtype.newbyteorder("="), copy=False) for key, x in arrays.items()}
    return {key: torch.from_numpy(array) for key, array in native.items()}


def _inner(content: Any, *keys: str) -> Any:
    """What lies under these keys, one inside the other, where they are there."""
    for key in keys:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    return content


def _read_safetensors(path: Path) -> tuple[State, Mapping[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(
            f"{path} is a truncated or damaged safetensors file ({_first_line(error)}); fetch it"
            " again"
        ) from None


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
