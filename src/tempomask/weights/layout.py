"""Checkpoint layouts: literal, reversible tables from our parameter names to those of other files.

A row is a pair (ours, theirs). It stands for a whole module or one tensor: what follows the matched
part of a name is kept. `*` is any number, the same on both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

# How the names of a batch norm's tensors end: of one that is used, and of the count of batches.
STATISTIC, COUNTER = ".running_var", ".num_batches_tracked"

State = dict[str, Tensor]
Rules = tuple[tuple[str, str], ...]
# Our name, and their names of its equal parts along the first axis.
Stacks = tuple[tuple[str, tuple[str, ...]], ...]


class Conversion(NamedTuple):
    """How a tensor that is not merely renamed changes its shape, in both directions."""

    to_ours: Callable[[Tensor], Tensor]
    to_theirs: Callable[[Tensor], Tensor]


def extra_axes(*axes: int) -> Conversion:
    """Their tensor has axes of length 1 at these places, ascending, that ours lacks."""
    return Conversion(lambda x: x.squeeze(axes), lambda x: reduce(torch.unsqueeze, axes, x))


def rules(table: str) -> Rules:
    r"""The rows of a table of two columns, ours and theirs.

    Braces stand for several rows, as in a shell. A row whose names end in a dot says what comes
    before the names of the rows after it; a dot alone stands for nothing.

    >>> rules("head. model.\n  {a,b}.norm n.{0,1}")
    (('head.a.norm', 'model.n.0'), ('head.b.norm', 'model.n.1'))
    """
    pairs: list[tuple[str, str]] = []
    before, their_before = "", ""
    for line in table.strip().splitlines():
        ours, theirs = line.split()
        if ours.endswith("."):
            before, their_before = ours.lstrip("."), theirs.lstrip(".")
        else:
            pairs += zip(_expand(before + ours), _expand(their_before + theirs), strict=True)
    return tuple(pairs)


def _expand(pattern: str) -> list[str]:
    head, brace, rest = pattern.partition("{")
    if not brace:
        return [pattern]
    choices, _, tail = rest.partition("}")
    return [f"{head}{choice}{end}" for choice in choices.split(",") for end in _expand(tail)]


def rename(key: str, table: Iterable[tuple[str, str]]) -> str | None:
    """The name that the first matching row gives, None if none matches."""
    parts = key.split(".")
    for source, target in table:
        pattern = source.split(".")
        head = parts[: len(pattern)]
        if len(head) == len(pattern) and all(map(_matches, pattern, head)):
            numbers = iter(part for p, part in zip(pattern, head, strict=True) if p == "*")
            renamed = [next(numbers) if p == "*" else p for p in target.split(".")]
            return ".".join(renamed + parts[len(pattern) :])
    return None


def _matches(pattern: str, part: str) -> bool:
    return part.isdigit() if pattern == "*" else part == pattern


@dataclass(frozen=True)
class Layout:
    """How the tensors of one kind of checkpoint correspond to ours.

    Attributes:
        title: The kind, for messages.
        marks: Names that all files of this kind have.
        rules: Pairs of names; without any, the names are ours.
        stacks: Tensors of ours that are several of theirs.
        conversions: By our name, where shapes differ.
        copies: A second name of theirs for a tensor, and its first name; files may lack them.
        unread: Their tensors that no network reads, and one of the same shape; files may lack them.
        counters: Their batch norms count the batches of their training; files may lack the counts.
    """

    title: str
    marks: tuple[str, ...]
    rules: Rules = ()
    stacks: Stacks = ()
    conversions: Mapping[str, Conversion] = field(default_factory=dict)
    copies: Rules = ()
    unread: Rules = ()
    counters: bool = False

    def optional(self, name: str) -> bool:
        """Whether a name of theirs is one that files may lack."""
        if self.counters and name.endswith(COUNTER):
            return True
        return any(name == other for other, _ in (*self.copies, *self.unread))

    def renamed(self, state: Mapping[str, Tensor]) -> State:
        """Those of their tensors that have one counterpart, as they are, under our names."""
        reverse = [(theirs, ours) for ours, theirs in self.rules]
        names = {
            key: rename(key, reverse) if reverse else key for key in state if not self.optional(key)
        }
        return {name: state[key] for key, name in names.items() if name is not None}

    def to_ours(self, state: Mapping[str, Tensor]) -> State:
        """Their complete state in our names and shapes."""
        converted = self.renamed(state)
        for name, change in self.conversions.items():
            if name in converted:
                converted[name] = change.to_ours(converted[name])
        for ours, parts in self.stacks:
            for key in state:
                name = rename(key, [(parts[0], ours)])
                if name is not None:
                    converted[name] = torch.cat([state[part] for part in self._parts(name)])
        return converted

    def to_theirs(self, state: Mapping[str, Tensor]) -> State:
        """Our state in their names and shapes; tensors that no network reads are zeros.

        Raises:
            KeyError: A tensor has no counterpart, with a text that says so.
        """
        converted: State = {}
        for key, tensor in state.items():
            parts = list(self._parts(key))
            if parts:
                converted.update(zip(parts, tensor.chunk(len(parts)), strict=True))
                continue
            name = rename(key, self.rules) if self.rules else key
            if name is None:
                raise KeyError(f"{key} has no counterpart in the {self.title} layout")
            change = self.conversions.get(key)
            converted[name] = tensor if change is None else change.to_theirs(tensor)
        converted |= {name: converted[first].clone() for name, first in self.copies}
        converted |= {name: torch.zeros_like(converted[like]) for name, like in self.unread}
        if self.counters:
            norms = [name.removesuffix(STATISTIC) for name in converted if name.endswith(STATISTIC)]
            converted |= {f"{norm}{COUNTER}": torch.zeros((), dtype=torch.long) for norm in norms}
        return converted

    def _parts(self, key: str) -> Iterator[str]:
        """Their names of the parts of our tensor `key`; none unless it is a stack."""
        for ours, parts in self.stacks:
            for part in parts:
                name = rename(key, [(ours, part)])
                if name is not None:
                    yield name


def layout_of(state: Mapping[str, Tensor], layouts: Iterable[Layout]) -> Layout | None:
    """The first layout whose marks a state has, None if there is none."""
    return next((layout for layout in layouts if all(m in state for m in layout.marks)), None)
