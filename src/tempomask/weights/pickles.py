"""Pickles of arrays (detectron2's `.pkl`), read without running what is in them.

Only plain opcodes are let through, and every array is built here, from its bytes: NumPy itself
would take a forged dtype or shape, and eight bytes of a file for the address of an object.
"""

from __future__ import annotations

import math
import mmap
import pickle
import pickletools
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tempomask.errors import InputError
from tempomask.limits import check_limit
from tempomask.schema import shown

# Of the values that are read: real numbers, in either order of bytes.
_KINDS = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"}
# What of pickle's language is left out: objects by other means, and memory by number.
_REFUSED = {"INST", "OBJ", "EXT1", "EXT2", "EXT4", "PERSID", "BINPERSID", "NEXT_BUFFER"}
_MEMO = {"PUT", "BINPUT", "LONG_BINPUT"}


def read_pickle(path: Path) -> Any:
    """The content of a pickle that holds arrays, numbers, texts and containers of them.

    Raises:
        InputError: It holds anything else, which is named, or it is damaged.
    """
    check_limit("file_bytes", path.stat().st_size, str(path))
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _check_opcodes(data)
            data.seek(0)
            return _plain(_ArraysOnly(data, encoding="latin1").load(), {})  # type: ignore[arg-type]
    except RecursionError:
        reason = "it is nested too deep"
    except Exception as error:  # damage shows in many ways
        reason = shown(str(error))
    raise InputError(
        f"{path} cannot be read as a pickle of arrays ({reason}); it is damaged or of another kind"
    )


def _check_opcodes(data: Any) -> None:
    """UnpicklingError for an opcode that no array needs, or a memory far beyond what is used."""
    for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        if opcode.name in _REFUSED or (opcode.name in _MEMO and int(argument or 0) > count):
            raise pickle.UnpicklingError(f"it has the opcode {opcode.name} {argument or ''}")


class _Dtype:
    """Stands for numpy.dtype: the code of a real number, in either order of bytes."""

    def __init__(self, code: str, *_: Any) -> None:
        code = str(code)
        self.code = code.lstrip("<>=|")
        self.order = code[:1] if code[:1] in "<>" else "<"
        if self.code not in _KINDS:
            raise pickle.UnpicklingError(f"it holds values of type {code!r}")

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">"):
            self.order = state[1]

    def read(self, data: Any, shape: Any, fortran: bool) -> NDArray[Any]:
        if isinstance(data, str | bytearray):  # as Python 2 and protocol 5 have it
            data = data.encode("latin1") if isinstance(data, str) else bytes(data)
        sides = shape if isinstance(shape, tuple) else (shape,)
        if not isinstance(data, bytes) or not all(type(n) is int and n >= 0 for n in sides):
            raise pickle.UnpicklingError("it holds an array of no plain bytes or shape")
        dtype = np.dtype(self.order + self.code)
        if len(sides) > 16 or math.prod(sides) * dtype.itemsize != len(data):
            raise pickle.UnpicklingError(f"it holds {len(data)} bytes for the shape {sides[:16]}")
        return np.frombuffer(data, dtype).reshape(sides, order="F" if fortran else "C")


class _Array:
    """Stands for numpy.ndarray, made empty and then given its state."""

    values: NDArray[Any] | None = None

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        if not isinstance(dtype, _Dtype):
            raise pickle.UnpicklingError("it holds an array without a type")
        self.values = dtype.read(data, shape, bool(fortran))


class _Scalar(_Array):
    """Stands for a number of NumPy."""

    def __init__(self, dtype: Any, data: Any = b"", *_: Any) -> None:
        self.__setstate__((1, (), dtype, False, data))


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    """Stands for how protocol 5 keeps an array."""
    array = _Array()
    array.__setstate__((1, shape, dtype, order == "F", data))
    return array


class _ArraysOnly(pickle.Unpickler):
    """Builds the above and containers, and refuses every other name."""

    def find_class(self, module: str, name: str) -> Any:
        allowed: dict[tuple[str, str], Any] = {
            ("numpy", "ndarray"): _Array,
            ("numpy", "dtype"): _Dtype,
            ("collections", "OrderedDict"): OrderedDict,
            ("_codecs", "encode"): _encode,
        }
        # numpy's own ways to build an array and a number; their module has moved between versions.
        for package in ("numpy.core", "numpy._core"):
            allowed[f"{package}.multiarray", "_reconstruct"] = _Array
            allowed[f"{package}.multiarray", "scalar"] = _Scalar
            allowed[f"{package}.numeric", "_frombuffer"] = _from_buffer
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"it holds {module}.{name}")
        return allowed[module, name]


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """How old pickles of arrays keep their bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it encodes text as {encoding}")
    return text.encode("latin1")


def _plain(value: Any, known: dict[int, Any]) -> Any:
    """The value with arrays in place of what stands for them.

    known: by the id of a container what became of it, as a small file can name one in many places.
    """
    if isinstance(value, _Array):
        if value.values is None:
            raise pickle.UnpicklingError("it holds an array without values")
        return value.values
    if id(value) in known:
        return known[id(value)]
    if isinstance(value, Mapping):
        known[id(value)] = {key: _plain(item, known) for key, item in value.items()}
    elif isinstance(value, list | tuple):
        known[id(value)] = [_plain(item, known) for item in value]
    return known.get(id(value), value)
