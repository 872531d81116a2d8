"""Pickles of arrays: those of detectron2 are read, forged ones are refused without a crash."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tempomask.errors import InputError
from tempomask.weights.pickles import read_pickle

STATE = b"(K\x01K\x02\x85cnumpy\ndtype\n(X\x02\x00\x00\x00%b\x89\x88tR\x89C%b%btb"
EMPTY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR"


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f2", "f8", "u1", "i8", "?"])
def test_arrays_come_back(tmp_path: Path, protocol: int, order: Any, dtype: str) -> None:
    array = np.asarray(np.arange(6).reshape(2, 3), dtype=dtype, order=order)
    content = {"model": {"a": array, "b": array[0, 0], "c": [array, {"d": 1.5}]}, "names": ("x",)}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, protocol))
    found = read_pickle(tmp_path / "a.pkl")
    model = found["model"]
    for read in (model["a"], model["c"][0]):
        np.testing.assert_array_equal(read, array)
        assert read.dtype.kind == array.dtype.kind and read.dtype.itemsize == array.dtype.itemsize
    assert model["b"] == array[0, 0] and model["c"][1]["d"] == 1.5


def forged(code: bytes, size: int) -> bytes:
    """A pickle of one array of two values: a type's code, and that many bytes."""
    return b"\x80\x03" + EMPTY + STATE % (code, bytes([size]), b"A" * size) + b"."


def test_the_forger_forges(tmp_path: Path) -> None:
    """A harmless one is read, so that the others are refused for what they hold."""
    (tmp_path / "a.pkl").write_bytes(forged(b"f4", 8))
    assert read_pickle(tmp_path / "a.pkl").shape == (2,)


def test_what_is_named_in_many_places_is_read_once(tmp_path: Path) -> None:
    """A few hundred bytes would fill any memory."""
    nested: Any = [np.zeros(2)]
    for _ in range(60):
        nested = [nested, nested]
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"a": nested, "b": (1, 2)}))
    found = read_pickle(tmp_path / "a.pkl")
    assert found["b"] == [1, 2] and found["a"][0] is found["a"][1]
    around: list[Any] = []
    around.append(around)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(around))
    with pytest.raises(InputError, match="nested too deep"):
        read_pickle(tmp_path / "a.pkl")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (forged(b"O8", 16), "values of type"),
        (forged(b"V4", 8), "values of type"),
        (forged(b"f8", 8), "8 bytes for the shape"),
        (forged(b"f4", 9), "9 bytes for the shape"),
        (
            b"\x80\x03cnumpy\nndarray\n(K\x01\x85X\x01\x00\x00\x00OC\x08AAAAAAAAtR.",
            "without values",
        ),
        (b"\x80\x03" + EMPTY + b".", "without values"),
        (b"\x80\x03cos\nsystem\nX\x04\x00\x00\x00true\x85R.", "os.system"),
        (b"\x80\x03}r\xff\xff\xff\x7f.", "LONG_BINPUT"),
        (b"(cos\nsystem\nS'true'\no.", "OBJ"),
        (b"(S'true'\nios\nsystem\n.", "INST"),
        (b"\x80\x05\x96\x00\x00\x00\x00\x00\x00\x00\x7f.", "damaged"),
        (b"\x80\x03" + b"(" * 100_000, "damaged"),
        (pickle.dumps({"a": np.array([len], dtype=object)}), "values of type|builtins"),
        (pickle.dumps(np.zeros(2, dtype=[("x", "f4"), ("y", "O")])), "values of type"),
        (pickle.dumps({"a": np.arange(3).astype("datetime64[s]")}), "values of type"),
    ],
)
def test_what_is_no_plain_array_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.pkl").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_pickle(tmp_path / "a.pkl")
