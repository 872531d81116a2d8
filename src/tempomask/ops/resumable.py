"""State that outlives the process: what each holder declares is kept, as safetensors and JSON.

Tensors and arrays are in the file's tensors, all else in its metadata; nothing in it is code. What
is read is checked against the declared types before anything is changed, and against what each
holder asks of it in `check_state` before it is kept. A checksum finds flipped bits.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, ClassVar, Union, get_args, get_origin, get_type_hints

import numpy as np
import torch
from torch import Tensor

from tempomask.errors import InputError

_VERSION = "2"
# Stands for the checksum of a file in the file of which it is the checksum.
_BLANK = b"sha256 of this file, in which this text stands for the checksum "
# Beyond any frame number, and any size of an image or of a score.
_GREATEST = 2**40
# What comes of values of other kinds than declared.
_UNFIT = (LookupError, ValueError, TypeError, AttributeError, RuntimeError)


class Resumable:
    """Something that goes on where it was, given its state.

    Attributes:
        state_types: Names of the attributes that are its state, with their types: `Resumable`
            (restored in place, None where there is none), or numbers, text, None, tensors, arrays,
            generators of random numbers, and dataclasses, named tuples, tuples, lists, deques and
            dictionaries of these. What is not named is made anew, or given again.
    """

    state_types: ClassVar[Mapping[str, Any]] = {}

    def check_state(self) -> None:
        """ValueError, as by `agree`, if what was read does not fit together; undone then."""


def agree(holds: bool, what: str) -> None:
    """ValueError, which names what was read, unless a condition on it holds."""
    if not holds:
        raise ValueError(f"{what} does not fit")


def agree_shape(what: str, tensor: Tensor | None, *shape: int) -> None:
    """ValueError unless a tensor is of real numbers and of a shape, or there is none."""
    agree(tensor is None or (tensor.is_floating_point() and tensor.shape == shape), what)


def save_state(holder: Resumable, made_for: str) -> bytes:
    """The state of a holder as a safetensors file.

    Args:
        holder: As it is now.
        made_for: What the state is of; must be the same where it is restored.
    """
    packer = _Packer()
    state = json.dumps(packer.value(holder))
    return sealed(packer.tensors, {"tempomask": _VERSION, "made_for": made_for, "state": state})


def sealed(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """A safetensors file whose metadata has a checksum of the whole; of equal ones, equal bytes."""
    from safetensors.torch import save

    loose = save(tensors, {**metadata, "sha256": _BLANK.decode()})
    # The library orders metadata by chance. Places of tensors count from the header's end.
    end = 8 + int.from_bytes(loose[:8], "little")
    header = json.dumps(json.loads(loose[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    blank = len(header).to_bytes(8, "little") + header + loose[end:]
    return blank.replace(_BLANK, hashlib.sha256(blank).hexdigest().encode(), 1)


def read_values(state: bytes, *names: str) -> list[Any]:
    """Some plain values of a holder's state; InputError if the state is damaged."""
    _, read = _loaded(state)
    return [read["state"].get(name) for name in names]


def load_state(holder: Resumable, made_for: str, state: bytes, device: torch.device) -> None:
    """Put a holder where another one was.

    Args:
        holder: New, made in the same way. Not changed if the state does not fit it.
        made_for: As in `save_state`.
        state: From there.
        device: Where its tensors are to be.

    Raises:
        InputError: For a damaged state, and one of something else.
    """
    tensors, read = _loaded(state)
    if read["made_for"] != made_for:
        raise InputError(
            "the kept state is of another model or of other options; give the same ones, or start"
            " again without resuming"
        )
    reader, before = _Reader(tensors, device), list[tuple[Any, str, Any]]()
    try:
        reader.holder(holder, read["state"])
        for owner, name, value in reader.changes:
            before.append((owner, name, getattr(owner, name)))
            setattr(owner, name, value)
        for each in reader.holders:
            each.check_state()
    except _UNFIT as error:
        for owner, name, value in before:
            setattr(owner, name, value)
        raise _damaged(error) from None


class _Packer:
    """Makes JSON of values, and collects their tensors."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._known: dict[tuple[Any, ...], str] = {}

    def value(self, value: Any) -> Any:
        if isinstance(value, Resumable):
            return {name: self.value(getattr(value, name)) for name in value.state_types}
        if isinstance(value, torch.Generator):
            return self._add(value.get_state())
        if isinstance(value, Tensor | np.ndarray):
            tensor = torch.as_tensor(value)
            key = tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype
            # Masks that are shown as they were found are one tensor.
            return self._known.get(key) or self._known.setdefault(key, self._add(tensor))
        if is_dataclass(value):
            return {field.name: self.value(getattr(value, field.name)) for field in fields(value)}
        if _is_named_tuple(type(value)):
            return {name: self.value(part) for name, part in value._asdict().items()}
        if isinstance(value, dict):
            return [[self.value(key), self.value(part)] for key, part in value.items()]
        if isinstance(value, list | tuple | deque):
            return [self.value(part) for part in value]
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise TypeError(f"a state cannot hold a {type(value).__name__}")

    def _add(self, tensor: Tensor) -> str:
        name = str(len(self.tensors))
        # A copy, as the format refuses tensors that share memory.
        self.tensors[name] = tensor.detach().to("cpu", copy=True).contiguous()
        return name


class _Reader:
    """Makes values of declared types from JSON and tensors; errors for whatever does not fit."""

    def __init__(self, tensors: Mapping[str, Tensor], device: torch.device) -> None:
        self._tensors, self._device = tensors, device
        self.holders: list[Resumable] = []
        self.changes: list[tuple[Any, str, Any]] = []

    def holder(self, holder: Resumable, plain: dict[str, Any]) -> None:
        """Note how a holder, and those in it, are to change."""
        self.holders.append(holder)
        if plain.keys() != holder.state_types.keys():
            raise ValueError(f"{type(holder).__name__} has {', '.join(plain)}")
        for name, kind in holder.state_types.items():
            present = getattr(holder, name)
            if isinstance(present, Resumable):
                self.holder(present, plain[name])
            elif Resumable in (kind, *get_args(kind)):
                agree(plain[name] is None, name)
            else:
                value: Any = self._value(kind, plain[name])
                if isinstance(present, deque):
                    value = deque(value, present.maxlen)
                elif isinstance(present, np.ndarray):
                    agree(value.shape == present.shape, name)
                self.changes.append((holder, name, value))

    def _value(self, kind: Any, plain: Any) -> Any:
        origin, inner = get_origin(kind), get_args(kind)
        if origin in (Union, UnionType):
            return self._any_of(inner, plain)
        if kind is Tensor:
            return self._tensors[plain].clone().to(self._device)
        if kind is torch.Generator:
            generator = torch.Generator()
            generator.set_state(self._tensors[plain])
            return generator
        if origin is np.ndarray:
            array = self._tensors[plain].numpy().copy()
            agree(array.dtype == get_args(inner[1])[0], f"array {plain}")
            return array
        if origin is dict:
            return {self._value(inner[0], k): self._value(inner[1], v) for k, v in plain}
        if origin is tuple and inner[-1] is not Ellipsis:
            return tuple(self._value(k, v) for k, v in zip(inner, plain, strict=True))
        if origin in (tuple, list, deque):
            return origin(self._value(inner[0], part) for part in plain)
        if isinstance(kind, type) and (is_dataclass(kind) or issubclass(kind, tuple)):
            kinds = get_type_hints(kind)
            agree(plain.keys() == kinds.keys(), kind.__name__)
            return kind(**{name: self._value(kinds[name], part) for name, part in plain.items()})
        agree(type(plain) in ((int, float) if kind is float else (kind,)), str(plain))
        agree(kind not in (int, float) or not abs(plain) > _GREATEST, "a huge number")
        return kind(plain) if kind is float else plain

    def _any_of(self, kinds: tuple[Any, ...], plain: Any) -> Any:
        if type(None) in kinds and plain is None:
            return None
        *others, last = (kind for kind in kinds if kind is not type(None))
        for kind in others:
            try:
                return self._value(kind, plain)
            except _UNFIT:
                continue
        return self._value(last, plain)


def _loaded(state: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a state, and its metadata with the JSON read."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(state)
        length = int.from_bytes(state[:8], "little")
        read = dict(json.loads(state[8 : 8 + length])["__metadata__"])
        if read["tempomask"] != _VERSION:
            raise ValueError(f"format {read['tempomask']}")
        blank = state.replace(read["sha256"].encode(), _BLANK, 1)
        if hashlib.sha256(blank).hexdigest() != read["sha256"]:
            raise ValueError("its checksum is another one")
        return tensors, {"made_for": read["made_for"], "state": dict(json.loads(read["state"]))}
    except (SafetensorError, *_UNFIT) as error:
        raise _damaged(error) from None


def _is_named_tuple(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, tuple) and kind is not tuple


def _damaged(error: Exception) -> InputError:
    return InputError(
        f"the kept state is damaged ({error}); delete it, and the run starts from its first frame"
    )
