"""State that outlives the process: what each holder declares is kept, as safetensors and JSON.

Tensors and arrays are in the file's tensors, all else in its metadata; nothing in it is code. What
is read is checked against the declared types before anything is changed.
"""

from __future__ import annotations

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

_VERSION = "1"


class Resumable:
    """Something that goes on where it was, given its state.

    Attributes:
        state_types: Names of the attributes that are its state, with their types: `Resumable`
            (restored in place, None where there is none), or numbers, text, None, tensors, arrays,
            generators of random numbers, and dataclasses, named tuples, tuples, lists, deques and
            dictionaries of these. What is not named is made anew, or given again.
    """

    state_types: ClassVar[Mapping[str, Any]] = {}


def save_state(holder: Resumable, made_for: str) -> bytes:
    """The state of a holder as a safetensors file.

    Args:
        holder: As it is now.
        made_for: What the state is of; must be the same where it is restored.
    """
    from safetensors.torch import save

    packer = _Packer()
    state = json.dumps(packer.value(holder))
    return save(packer.tensors, {"tempomask": _VERSION, "made_for": made_for, "state": state})


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
    changes: list[tuple[Any, str, Any]] = []
    try:
        _Reader(tensors, device, changes).holder(holder, read["state"])
    except (KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise _damaged(error) from None
    for owner, name, value in changes:
        setattr(owner, name, value)


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

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        device: torch.device,
        changes: list[tuple[Any, str, Any]],
    ) -> None:
        self._tensors, self._device, self._changes = tensors, device, changes

    def holder(self, holder: Resumable, plain: dict[str, Any]) -> None:
        """Note how a holder, and those in it, are to change."""
        if plain.keys() != holder.state_types.keys():
            raise ValueError(f"{type(holder).__name__} has {', '.join(plain)}")
        for name, kind in holder.state_types.items():
            present = getattr(holder, name)
            if isinstance(present, Resumable):
                self.holder(present, plain[name])
            elif Resumable in (kind, *get_args(kind)):
                self._same(plain[name] is None, name)
            else:
                value: Any = self._value(kind, plain[name])
                if isinstance(present, deque):
                    value = deque(value, present.maxlen)
                elif isinstance(present, np.ndarray):
                    self._same(value.shape == present.shape, name)
                self._changes.append((holder, name, value))

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
            self._same(array.dtype == get_args(inner[1])[0], f"array {plain}")
            return array
        if origin is dict:
            return {self._value(inner[0], k): self._value(inner[1], v) for k, v in plain}
        if origin is tuple and inner[-1] is not Ellipsis:
            return tuple(self._value(k, v) for k, v in zip(inner, plain, strict=True))
        if origin in (tuple, list, deque):
            return origin(self._value(inner[0], part) for part in plain)
        if isinstance(kind, type) and (is_dataclass(kind) or issubclass(kind, tuple)):
            kinds = get_type_hints(kind)
            self._same(plain.keys() == kinds.keys(), kind.__name__)
            return kind(**{name: self._value(kinds[name], part) for name, part in plain.items()})
        self._same(type(plain) in ((int, float) if kind is float else (kind,)), str(plain))
        return kind(plain) if kind is float else plain

    def _any_of(self, kinds: tuple[Any, ...], plain: Any) -> Any:
        if type(None) in kinds and plain is None:
            return None
        *others, last = (kind for kind in kinds if kind is not type(None))
        for kind in others:
            try:
                return self._value(kind, plain)
            except (KeyError, ValueError, TypeError, AttributeError):
                continue
        return self._value(last, plain)

    @staticmethod
    def _same(holds: bool, what: str) -> None:
        if not holds:
            raise ValueError(f"{what} does not fit")


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
        return tensors, {"made_for": read["made_for"], "state": dict(json.loads(read["state"]))}
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(error) from None


def _is_named_tuple(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, tuple) and kind is not tuple


def _damaged(error: Exception) -> InputError:
    return InputError(
        f"the kept state is damaged ({error}); delete it, and the run starts from its first frame"
    )
