"""The one exception for input that a person can mend: one line: what, which value, what to do.

And the one warning, for what is done all the same but is probably not what was meant.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import get_args

_LONGEST = 2000


class InputError(ValueError):
    """Raised for bad input: files, prompts, sizes, names, checkpoints. The message is one line."""

    def __str__(self) -> str:
        return one_line(super().__str__())


class InputWarning(UserWarning):
    """Of input or results that are probably wrong. Commands print each as one line on stderr."""


def warn(message: str) -> None:
    """Warn of input in one line."""
    warnings.warn(one_line(message), InputWarning, stacklevel=3)


def one_line(message: str) -> str:
    """A message as one line of bounded length, without control characters of names in it."""
    line = "".join(c if c.isprintable() else "?" for c in " ".join(message.split()))
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 300]} ... {line[-290:]}"


class Flaws(dict[str, str]):
    """What is wrong with some of many sequences, by name: the others go on."""

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Note an InputError of the block instead of raising it."""
        try:
            yield
        except InputError as error:
            self[name] = str(error)

    def check(self, rest: Collection[object]) -> None:
        """Raise the first flaw as an InputError if nothing is left."""
        if self and not rest:
            raise InputError(next(iter(self.values())))

    def tell(self) -> None:
        """Warn of the first flaw, in one line, before work on the rest begins."""
        if self:
            others = f", and {len(self) - 1} others" if len(self) > 1 else ""
            warn(f"{next(iter(self.values()))}; {next(iter(self))}{others} will be left out")


@contextmanager
def place(name: str) -> Iterator[None]:
    """Put the place before the message of every InputError of the block.

    >>> with place("line 3"):  # doctest: +SKIP
    ...     raise InputError("no number")  # line 3: no number
    """
    try:
        yield
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def check_share(name: str, share: float) -> None:
    """InputError unless a share is more than 0 and at most 1.

    >>> check_share("budget", 0.6)
    """
    if not 0 < share <= 1:  # also refuses NaN
        raise InputError(f"{name} {share:g} must be more than 0 and at most 1")


def check_choice(name: str, value: object, kind: object) -> None:
    """InputError for a value that is none of a Literal's.

    >>> from typing import Literal
    >>> check_choice("engine", "fast", Literal["fast", "plain"])
    """
    *others, last = get_args(kind)
    if value not in (*others, last):
        raise InputError(f"{name} must be {', '.join(map(str, others))} or {last}, got {value!r}")


def check_least(options: object, **least: int) -> None:
    """InputError for a field below its least value; None is none."""
    for name, bound in least.items():
        value = getattr(options, name)
        if value is not None and value < bound:
            raise InputError(f"{name} must be {bound} or more, got {value}")


def unknown_name(text: str, name: str, known: Iterable[str]) -> InputError:
    """The error for a name that is not among those known; text says so, this adds the remedy.

    >>> str(unknown_name("unknown model 'nanno'", "nanno", ["nano", "sam2.1-tiny"]))
    "unknown model 'nanno'; did you mean nano?"
    >>> str(unknown_name("unknown model 'x'", "x", ["nano", "sam2.1-tiny"]))
    "unknown model 'x'; there are nano, sam2.1-tiny"
    """
    import difflib

    listed = list(known)
    near = difflib.get_close_matches(name, listed, n=3)
    if near:
        return InputError(f"{text}; did you mean {', '.join(near)}?")
    more = ", ..." if len(listed) > 8 else ""
    return InputError(f"{text}; there are {', '.join(listed[:8])}{more}")
