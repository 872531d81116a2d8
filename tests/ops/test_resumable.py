"""Declared state: what comes back is what was kept, and what does not fit is refused."""

from __future__ import annotations

import json
import math
import random
import sys
from collections import deque
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load
from torch import Tensor

from tempomask.errors import InputError
from tempomask.ops.resumable import Resumable, load_state, read_values, save_state, sealed

CPU = torch.device("cpu")


class Pair(NamedTuple):
    left: Tensor
    right: float


@dataclass(frozen=True)
class Note:
    name: str
    mask: NDArray[np.bool_] | None
    pair: Pair | None = None


class Inner(Resumable):
    state_types: ClassVar = {"count": int}

    def __init__(self, count: int) -> None:
        self.count = count


class Holder(Resumable):
    state_types: ClassVar = {
        "inner": Resumable,
        "nothing": Resumable | None,
        "notes": dict[int, Note],
        "size": tuple[int, int] | None,
        "recent": deque[NDArray[np.float32]],
        "mean": float,
        "draws": torch.Generator,
    }

    def __init__(self, count: int = 0) -> None:
        self.inner, self.nothing = Inner(count), None
        self.notes: dict[int, Note] = {}
        self.size: tuple[int, int] | None = None
        self.recent: deque[NDArray[np.float32]] = deque(maxlen=2)
        self.mean, self.draws, self.scratch = 0.0, torch.Generator().manual_seed(count), count


def filled() -> Holder:
    holder = Holder(7)
    shared = torch.randn(3, 4).to(torch.bfloat16)
    holder.notes = {
        5: Note("a", np.eye(3, dtype=bool), Pair(shared, math.nan)),
        2: Note("b", None, Pair(shared.T, -0.1)),
    }
    holder.size, holder.mean = (480, 854), 1 / 3
    holder.recent.extend(np.float32([[i, i / 3]]) for i in range(3))
    torch.rand(5, generator=holder.draws)
    return holder


def test_everything_comes_back_as_it_was() -> None:
    kept, back = filled(), Holder()
    load_state(back, "x", save_state(kept, "x"), CPU)
    assert list(back.notes) == [5, 2] and back.size == (480, 854) and back.mean == kept.mean
    assert back.inner.count == 7 and back.scratch == 0
    for index, note in kept.notes.items():
        other = back.notes[index]
        assert note.pair is not None and other.pair is not None
        assert torch.equal(note.pair.left, other.pair.left)
        assert note.pair.left.dtype == other.pair.left.dtype
        assert note.name == other.name and np.array_equal(note.mask, other.mask)  # type: ignore[arg-type]
    assert math.isnan(back.notes[5].pair.right)  # type: ignore[union-attr]
    assert back.recent.maxlen == 2 and np.array_equal(np.stack(kept.recent), np.stack(back.recent))
    assert torch.equal(torch.rand(9, generator=kept.draws), torch.rand(9, generator=back.draws))
    assert read_values(save_state(kept, "x"), "mean", "absent") == [kept.mean, None]


def edited(state: bytes, change: Any) -> bytes:
    """The state with its JSON changed."""
    length = int.from_bytes(state[:8], "little")
    header = json.loads(state[8 : 8 + length])
    described = json.loads(header["__metadata__"]["state"])
    change(described)
    metadata = {**header["__metadata__"], "state": json.dumps(described)}
    del metadata["sha256"]
    return sealed(load(state), metadata)


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.pop("mean"),
        lambda s: s.update(more=1),
        lambda s: s.update(mean="0.5"),
        lambda s: s.update(mean=None),
        lambda s: s.update(nothing={}),
        lambda s: s.update(inner=None),
        lambda s: s["inner"].update(count=True),
        lambda s: s["inner"].update(count=1.5),
        lambda s: s.update(size=[1, 2, 3]),
        lambda s: s.update(size=[1, "2"]),
        lambda s: s.update(notes=[[1]]),
        lambda s: s.update(notes=[["5", s["notes"][0][1]]]),
        lambda s: s["notes"][0][1].update(mask="99"),
        lambda s: s["notes"][0][1].update(mask=s["notes"][0][1]["pair"]["left"]),
        lambda s: s["notes"][0][1].update(pair=[]),
        lambda s: s["notes"][0][1].update(name=3),
        lambda s: s.update(recent={"a": 1}),
        lambda s: s.update(draws=s["notes"][0][1]["mask"]),
    ],
)
def test_what_is_not_of_the_declared_types_is_refused_and_changes_nothing(change: Any) -> None:
    state, holder = save_state(filled(), "x"), Holder(3)
    with pytest.raises(InputError, match="the kept state is damaged"):
        load_state(holder, "x", edited(state, change), CPU)
    assert holder.inner.count == 3 and not holder.notes and holder.mean == 0


def test_any_damage_is_one_line() -> None:
    state, rng = save_state(filled(), "x"), random.Random(0)
    for _ in range(100):
        damaged = bytearray(state)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(state))] = rng.randrange(256)
        if damaged == state:
            continue
        with pytest.raises(InputError) as error:
            load_state(Holder(), "x", bytes(damaged[: rng.choice([len(state), 200, 9, 0])]), CPU)
        assert "\n" not in str(error.value)


def test_a_deep_state_is_refused() -> None:
    state = save_state(filled(), "x")
    deep: Any = 0
    for _ in range(200):
        deep = [deep]
    with pytest.raises(InputError):
        load_state(Holder(), "x", edited(state, lambda s: s.update(notes=deep)), CPU)
    bomb = b'{"__metadata__":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    with pytest.raises(InputError):
        load_state(Holder(), "x", len(bomb).to_bytes(8, "little") + bomb, CPU)
    assert sys.getrecursionlimit() < 100_000


def test_a_state_of_something_else_is_refused() -> None:
    with pytest.raises(InputError, match="another model"):
        load_state(Holder(), "y", save_state(filled(), "x"), CPU)
    with pytest.raises(TypeError, match="cannot hold a set"):
        holder = Holder()
        holder.mean = {1}  # type: ignore[assignment]
        save_state(holder, "x")


def test_equal_states_are_equal_bytes() -> None:
    """safetensors orders metadata by chance, anew for each file."""
    tensors = {"b": torch.ones(2, 3), "a": torch.zeros(5, dtype=torch.int8)}
    metadata = {name: f"{name} é" for name in ("state", "made_for", "tempomask", "x", "y")}
    (one,) = {sealed(tensors, metadata) for _ in range(20)}
    assert {name: each.tolist() for name, each in load(one).items()} == {
        name: each.tolist() for name, each in tensors.items()
    }
