"""Counts where the host waits for an accelerator: each such place costs the time of its queue.

>>> with Synchronisations() as waits:  # doctest: +SKIP
...     session.step(frame)
>>> waits.found
[Synchronisation(operation='copy to the host', where='routing/recurrent.py:108')]

On a machine without an accelerator the device "meta" stands in for one: a network moved there
computes shapes alone, and what its host code asks for is answered with ones.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import tempomask

# Operations whose result, or the shape of it, must be known to the host.
HOST_VALUES = {"item", "_local_scalar_dense", "is_nonzero", "equal", "allclose"}
HOST_SHAPES = {
    "nonzero",
    "masked_select",
    "unique",
    "_unique",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "bincount",
}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
# Functions that build a tensor from Python values, on the host first.
FROM_VALUES = (torch.tensor, torch.as_tensor, torch.asarray)
PACKAGE = str(Path(tempomask.__file__).parent)


class Synchronisation(NamedTuple):
    """operation: what the host waits for. where: file and line of tempomask that asked for it."""

    operation: str
    where: str


class Synchronisations:
    """Finds, while it is entered as a context manager, where this thread waits for the device.

    device: its type. found: in the order in which they came. Counted are values and shapes read by
    the host, copies to it, and copies from its pageable memory, all but those that are not waited
    for (`non_blocking`). Compiled networks do not run inside it.
    """

    def __init__(self, device: str = "meta") -> None:
        self.device = device
        self.found: list[Synchronisation] = []
        self._building = False
        self._modes = ExitStack()

    def __enter__(self) -> Synchronisations:
        self._modes.enter_context(_Functions(self))
        self._modes.enter_context(_Operations(self))
        return self

    def __exit__(self, *_: object) -> None:
        self._modes.close()

    def add(self, operation: str) -> None:
        """Note that the host waits now."""
        self.found.append(Synchronisation(operation, _caller()))

    def is_there(self, value: Any) -> bool:
        """Whether a value is a tensor on the device."""
        return isinstance(value, Tensor) and value.device.type == self.device


class _Functions(TorchFunctionMode):
    """Sees tensors that are built from Python values, which operations alone do not show."""

    def __init__(self, counter: Synchronisations) -> None:
        super().__init__()
        self.counter = counter

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func not in FROM_VALUES or isinstance(args[0], Tensor):
            return func(*args, **(kwargs or {}))
        before = len(self.counter.found)
        built = func(*args, **(kwargs or {}))
        if self.counter.is_there(built) and len(self.counter.found) == before:
            self.counter.add("copy from the host")
        return built


class _Operations(TorchDispatchMode):
    """Sees every operation on tensors."""

    def __init__(self, counter: Synchronisations) -> None:
        super().__init__()
        self.counter = counter

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        counter, name = self.counter, func.overloadpacket.__name__
        there = [counter.is_there(x) for x in args]
        if name in HOST_VALUES and any(there):
            counter.add(f"value for the host ({name})")
            return func(*args, **kwargs) if counter.device != "meta" else _one(args[0])
        if _asks_for_shape(func, args, kwargs) and any(there):
            counter.add(f"shape for the host ({name})")
        elif name == "copy_" and isinstance(args[1], Tensor):
            self._note(args[1], args[0].device, (args[2:] or (kwargs.get("non_blocking"),))[0])
        elif name == "_to_copy":
            target = kwargs.get("device") or args[0].device
            self._note(args[0], target, kwargs.get("non_blocking"))
            if there[0] and target.type == "cpu" and counter.device == "meta":
                dtype = kwargs.get("dtype") or args[0].dtype
                return torch.ones(args[0].shape, dtype=dtype, device="cpu")
        else:
            # Under inference mode composite operations arrive whole.
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        return func(*args, **kwargs)

    def _note(self, source: Tensor, target: torch.device, non_blocking: bool | None) -> None:
        """Count a copy between the host and the device that is waited for."""
        here = self.counter.device
        if source.device.type == here and target.type == "cpu" and not non_blocking:
            self.counter.add("copy to the host")
        elif source.device.type == "cpu" and target.type == here and source.ndim:
            # Nothing can be pinned without a real device.
            pinned = here == "meta" or source.is_pinned()
            if not (non_blocking and pinned):
                self.counter.add("copy from the host")


def _asks_for_shape(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    name = func.overloadpacket.__name__
    if name == "repeat_interleave":
        # By counts that lie on the device, unless their sum is given.
        return func._overloadname != "self_int" and kwargs.get("output_size") is None
    if name in INDEXING:
        indices = [x for x in args[1] if isinstance(x, Tensor)]
        return any(x.dtype in (torch.bool, torch.uint8) for x in indices)
    return name in HOST_SHAPES


def _one(like: Tensor) -> bool | int | float:
    """The stand-in's answer to a question for a value."""
    return torch.ones((), dtype=like.dtype, device="cpu").item()


def _caller() -> str:
    """The innermost line of tempomask outside this file, else of anything outside torch."""
    frame: Any = sys._getframe(1)
    fallback = "?"
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(PACKAGE) and file != __file__:
            return f"{file[len(PACKAGE) + 1 :]}:{frame.f_lineno}"
        if fallback == "?" and file != __file__ and "/torch/" not in file:
            fallback = f"{Path(file).name}:{frame.f_lineno}"
        frame = frame.f_back
    return fallback
