"""detectron2's `.pkl` checkpoints: a pickle of numpy arrays, read without running what is in it."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tempomask.errors import InputError
from tempomask.weights.files import UNREADABLE, Checkpoint
from tempomask.weights.layout import State


def _encode(text: str, encoding: str) -> bytes:
    """What old pickles of arrays keep their bytes with."""
    return text.encode(encoding)


def _array() -> Callable[..., Any]:
    # numpy's own way to build an array from a pickle; its module has moved between versions.
    return np.zeros(0).__reduce__()[0]  # type: ignore[return-value]


def _scalar() -> Callable[..., Any]:
    return np.float32(0).__reduce__()[0]  # type: ignore[return-value]


class _ArraysOnly(pickle.Unpickler):
    """Builds arrays and containers, and refuses every other name."""

    def find_class(self, module: str, name: str) -> Any:
        allowed: dict[tuple[str, str], Any] = {
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("collections", "OrderedDict"): OrderedDict,
            ("_codecs", "encode"): _encode,
        }
        for package in ("numpy.core.multiarray", "numpy._core.multiarray"):
            allowed[package, "_reconstruct"] = _array()
            allowed[package, "scalar"] = _scalar()
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"it holds {module}.{name}")
        return allowed[module, name]


def read_pickle(path: Path) -> Checkpoint:
    """The arrays under `model`, or at the top; InputError for anything that is not arrays."""
    if not path.is_file():
        raise InputError(f"there is no checkpoint at {path}; check the path, or give a Hub id")
    try:
        with path.open("rb") as file:
            content = _ArraysOnly(file, encoding="latin1").load()
    except UNREADABLE as error:
        raise InputError(
            f"{path} cannot be read as a pickle of arrays ({error}); it is damaged or of another"
            " kind"
        ) from None
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        content = content["model"]
    state: State = {}
    if isinstance(content, Mapping):
        arrays = {key: x for key, x in content.items() if isinstance(x, np.ndarray)}
        state = {str(key): torch.from_numpy(np.array(x)) for key, x in arrays.items()}
    if not state:
        raise InputError(f"{path} holds no named arrays; a detectron2 checkpoint has them")
    return Checkpoint(path, state, {}, None)
