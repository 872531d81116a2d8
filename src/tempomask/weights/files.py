"""Checkpoint files into named tensors.

PyTorch (weights only), safetensors, folders of either, and detectron2's pickles of arrays.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tempomask.errors import InputError, warn
from tempomask.files import read_json, read_text
from tempomask.schema import plain_name, shown
from tempomask.weights.layout import State

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
# The first bytes of a zip archive (torch.save since 2020) and of a pickle (before).
ZIP_MAGIC, PICKLE_MAGIC = b"PK", b"\x80"
# safetensors begin with the length of their JSON header, eight bytes, at most this.
LONGEST_HEADER = 100_000_000
# Of a file's tensors in its metadata, and of files in a list beside them, as sha256sum writes it.
CHECKSUM, CHECKSUMS = "tempomask_sha256", "SHA256SUMS"
# Where checkpoints keep their tensors, the first that is there; and what wrappers of networks put
# before every name (or inside it, the second).
PLACES = ("model", "state_dict", "model_state_dict", "module", "network", "model_ema", "ema")
PREFIXES = ("module.", "_orig_mod.", "model.")
# What weights are stored in; all else is refused, as it would be made into floats unseen.
FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


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
    state = _plain_names(state, path)
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
        raise InputError(f"the checkpoint {path} is not a file; give a file or a folder")
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise InputError(f"cannot read the checkpoint {path}: {error.strerror}") from None
    if not start:
        raise InputError(f"the checkpoint {path} is empty; fetch it again")
    _check_listed(path)
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
    content = _inner(content, path)
    if not isinstance(content, Mapping) or not all(isinstance(k, str) for k in content):
        raise InputError(f"{path} holds no named tensors; a checkpoint has them under 'model'")
    state = {key: x for key, x in content.items() if isinstance(x, Tensor)}
    if not state:
        names = ", ".join(list(content)[:3]) or "nothing"
        raise InputError(f"{path} holds no tensors, but {names}; a checkpoint has them in 'model'")
    for name, x in state.items():
        if x.layout != torch.strided or x.is_meta or x.is_quantized or x.is_nested:
            raise InputError(f"{path} has {name} as a tensor without plain values; save it dense")
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

    content = _inner(read_pickle(path), path)
    items = content.items() if isinstance(content, Mapping) else ()
    arrays = {str(key): np.array(x) for key, x in items if isinstance(x, np.ndarray)}
    if not arrays:
        raise InputError(f"{path} holds no named arrays; a detectron2 checkpoint has them")
    native = {key: x.astype(x.dtype.newbyteorder("="), copy=False) for key, x in arrays.items()}
    return {key: torch.from_numpy(array) for key, array in native.items()}


def _inner(content: Any, path: Path) -> Any:
    """What lies in one of PLACES, and there again; with a warning if others could be meant."""
    for _ in PLACES:  # no more often: one may lie in itself
        places = PLACES if isinstance(content, Mapping) else ()
        places = [key for key in places if isinstance(content.get(key), Mapping)]
        if not places:
            break
        if len(places) > 1 or places[0] not in PLACES[:2]:
            others = f"; it also holds {', '.join(places[1:])}" if places[1:] else ""
            warn(f"{path}: weights are taken from {places[0]!r}{others}")
        content = content[places[0]]
    return content


def _plain_names(state: State, path: Path) -> State:
    """The state without what DataParallel, torch.compile and trainers put before all names."""
    # How many states an average is of, beside its tensors.
    state = {name: x for name, x in state.items() if name != "n_averaged"}
    cut: list[str] = []
    while prefix := next((p for p in PREFIXES if all(k.startswith(p) for k in state)), None):
        if not state:
            break
        state = {name.removeprefix(prefix): x for name, x in state.items()}
        cut.append(prefix)
    if any("._orig_mod." in name for name in state):
        state = {name.replace("._orig_mod.", "."): x for name, x in state.items()}
        cut.append("_orig_mod.")
    if cut:
        warn(f"{path}: names of tensors are read without {' '.join(cut)}")
    return state


def check_weights(state: Mapping[str, Tensor], remedy: str) -> None:
    """InputError for a tensor that cannot be weights: not of floats, or not finite."""
    for name, x in state.items():
        if x.dtype not in FLOATS:
            kind = str(x.dtype).removeprefix("torch.")
            raise InputError(f"{name} is of {kind}, and weights are floats: {remedy}")
        if x.numel() and not torch.stack(torch.aminmax(x.detach())).isfinite().all():
            raise InputError(f"{name} is not finite: {remedy}")


def checksum(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and values of tensors."""
    digest = hashlib.sha256()
    for name, x in sorted(state.items()):
        digest.update(f"{name} {x.dtype} {tuple(x.shape)}\n".encode())
        digest.update(x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_listed(path: Path) -> None:
    """InputError if the list of checksums beside a file names it with another one."""
    listing = path.with_name(CHECKSUMS)
    if listing.is_file():
        lines = [line.split() for line in read_text(listing, "the list").splitlines()]
        wanted = next((line[0] for line in lines if line[1:] == [path.name]), None)
        if wanted not in (None, file_hash(path)):
            raise InputError(f"{path} is damaged: its checksum is not that in {listing.name}")


def _read_safetensors(path: Path) -> tuple[State, Mapping[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in list(file.keys())}
            metadata = file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(
            f"{path} is a truncated or damaged safetensors file ({_first_line(error)}); fetch it"
            " again"
        ) from None
    if metadata.get(CHECKSUM) not in (None, checksum(state)):
        raise InputError(f"{path} is damaged: its tensors have another checksum; fetch it again")
    return state, metadata


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
