"""Checkpoint layouts: literal, reversible tables from our parameter names to those of other files.

A table row is a pair (ours, theirs). It stands for a whole module or one tensor: what follows the
matched part of a name is kept. `*` is any number, the same on both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

State = dict[str, Tensor]
Rules = tuple[tuple[str, str], ...]


class Conversion(NamedTuple):
    """How a tensor that is not merely renamed changes its shape, in both directions."""

    to_ours: Callable[[Tensor], Tensor]
    to_theirs: Callable[[Tensor], Tensor]


def extra_axes(*axes: int) -> Conversion:
    """Their tensor has axes of length 1 at these places, ascending, that ours lacks."""

    def to_theirs(x: Tensor) -> Tensor:
        for axis in axes:
            x = x.unsqueeze(axis)
        return x

    def to_ours(x: Tensor) -> Tensor:
        for axis in reversed(axes):
            x = x.squeeze(axis)
        return x

    return Conversion(to_ours, to_theirs)


def attention_rules(ours: str, theirs: str, output: str = "out_proj") -> Rules:
    """The four projections of an attention module."""
    names = (
        ("query", "q_proj"),
        ("key", "k_proj"),
        ("value", "v_proj"),
        ("output", output),
    )
    return tuple((f"{ours}.{a}", f"{theirs}.{b}") for a, b in names)


def rename(key: str, rules: Sequence[tuple[str, str]]) -> str | None:
    """The name that the first matching rule gives, None if none matches."""
    parts = key.split(".")
    for source, target in rules:
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

    title: the kind, for messages. marks: names that all files of this kind have.
    rules: pairs of names; none at all means that names are ours.
    stacks: our name, and their names of its equal parts along the first axis.
    conversions: by our name, where shapes differ.
    copies: their further name of a tensor, and its first name; files may leave them out.
    unread: their tensors that no network reads, and a tensor of the same shape; likewise.
    """

    title: str
    marks: tuple[str, ...]
    rules: Rules = ()
    stacks: tuple[tuple[str, tuple[str, ...]], ...] = ()
    conversions: Mapping[str, Conversion] = field(default_factory=dict)
    copies: Rules = ()
    unread: Rules = ()

    @property
    def optional(self) -> frozenset[str]:
        """Their names that files may lack."""
        return frozenset(name for name, _ in (*self.copies, *self.unread))

    def renamed(self, state: Mapping[str, Tensor]) -> State:
        """Those tensors of their state that have one counterpart, as they are, in our names."""
        rules = [(theirs, ours) for ours, theirs in self.rules]
        stacked = {name for _, names in self.stacks for name in names}
        names = {
            key: rename(key, rules) if rules else key
            for key in state
            if key not in self.optional and key not in stacked
        }
        return {name: state[key] for key, name in names.items() if name is not None}

    def to_ours(self, state: Mapping[str, Tensor]) -> State:
        """Their complete state in our names and shapes."""
        converted = self.renamed(state)
        for name, change in self.conversions.items():
            if name in converted:
                converted[name] = change.to_ours(converted[name])
        for name, rows in self.stacks:
            converted[name] = torch.cat([state[row] for row in rows])
        return converted

    def to_theirs(self, state: Mapping[str, Tensor]) -> State:
        """Our state in their names and shapes. Tensors that nothing reads are zeros."""
        stacks = dict(self.stacks)
        converted: State = {}
        for key, tensor in state.items():
            if key in stacks:
                rows = stacks[key]
                converted.update(zip(rows, tensor.chunk(len(rows)), strict=True))
                continue
            name = rename(key, self.rules) if self.rules else key
            if name is None:
                raise KeyError(f"{key} has no counterpart in the {self.title} layout")
            change = self.conversions.get(key)
            converted[name] = tensor if change is None else change.to_theirs(tensor)
        converted |= {name: converted[first].clone() for name, first in self.copies}
        converted |= {name: torch.zeros_like(converted[like]) for name, like in self.unread}
        return converted
