"""Pickles of arrays (detectron2's `.pkl`), read without running what is in them."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from typing import IO, Any

import numpy as np


def unpickle_arrays(file: IO[bytes]) -> Any:
    """The content of a pickle that holds arrays, numbers, texts and containers of them.

    Raises:
        pickle.UnpicklingError: It holds anything else, which is named.
        Exception: It is damaged, which can show in many ways.
    """
    return _ArraysOnly(file, encoding="latin1").load()


class _ArraysOnly(pickle.Unpickler):
    """Builds arrays and containers, and refuses every other name."""

    def find_class(self, module: str, name: str) -> Any:
        allowed: dict[tuple[str, str], Any] = {
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("collections", "OrderedDict"): OrderedDict,
            ("_codecs", "encode"): _encode,
        }
        # numpy's own ways to build an array and a number; their module has moved between versions.
        for package in ("numpy.core.multiarray", "numpy._core.multiarray"):
            allowed[package, "_reconstruct"] = np.zeros(0).__reduce__()[0]
            allowed[package, "scalar"] = np.float32(0).__reduce__()[0]
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"it holds {module}.{name}")
        return allowed[module, name]


def _encode(text: str, encoding: str) -> bytes:
    """How old pickles of arrays keep their bytes."""
    return text.encode(encoding)
