"""Training checkpoints: everything a run needs to go on as if it had never stopped."""

from __future__ import annotations

import errno
import os
from collections.abc import Collection
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tempomask.errors import InputError
from tempomask.files import replacing, write_errors

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

# Settings that a resumed run may change: how often it reports, and how long it goes on.
REPORTING = frozenset({"save_every", "validate_every", "track_every"})
MAY_CHANGE = REPORTING | {"steps", "decay_steps"}


def save_checkpoint(
    path: Path, recipe: DataclassInstance, step: int, state: dict[str, Any]
) -> None:
    """Write step, recipe and state (model, average, optimiser); the file appears whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_torch(path, {"step": step, "recipe": _plain(asdict(recipe)), **state})


def write_torch(path: Path, content: dict[str, Any]) -> None:
    """A file of torch's, which appears whole; InputError if it cannot be written."""
    with write_errors(path), replacing(path) as part:
        try:
            torch.save(content, part)
        except RuntimeError as error:
            if "inline_container" not in str(error):
                raise
            # How torch says that a write has failed, without the system's reason.
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error


def load_checkpoint(
    path: Path, recipe: DataclassInstance, may_change: Collection[str] = MAY_CHANGE
) -> dict[str, Any]:
    """Read a checkpoint of the same recipe; InputError names the first setting that differs.

    may_change: settings that need not be the same. InputError as well for a file that is damaged.
    """
    saved = _read(path)
    wanted = {k: v for k, v in _plain(asdict(recipe)).items() if k not in may_change}
    for name, value in wanted.items():
        if saved["recipe"].get(name) != value:
            raise InputError(
                f"{path} was made with {name}={saved['recipe'].get(name)!r}, this run has"
                f" {value!r}; use the same settings or another output folder"
            )
    return saved


def _read(path: Path) -> dict[str, Any]:
    saved: Any = None
    # A file that was cut or is none of ours fails in many ways, as torch unpickles it.
    with suppress(Exception):
        saved = torch.load(path, weights_only=True, map_location="cpu")
    known = isinstance(saved, dict) and isinstance(saved.get("recipe"), dict)
    if not known or type(saved.get("step")) is not int:
        raise InputError(
            f"{path} cannot be read as a checkpoint; delete it to begin anew, or choose another"
            " output folder"
        )
    return saved


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Tuples as lists, so that settings compare equal after reading."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
