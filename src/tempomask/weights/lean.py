"""Lean checkpoint files: only the tensors in which a model differs from another one's file.

TAR is trained on a frozen encoder; its file need not hold that encoder a second time.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

from tempomask.errors import InputError
from tempomask.weights.files import Checkpoint, read_checkpoint
from tempomask.weights.stored import write_checkpoint

BASE_KEY = "tempomask_base"


def write_lean(path: str | Path, base: str | Path, out: str | Path) -> None:
    """Write to `out` what the checkpoint at `path` holds and the one at `base` does not.

    The new file names the base, which has to lie beside it, and knows it by its hash. Raises
    InputError if a file cannot be read or written, or if the two have nothing in common.
    """
    whole, known = read_checkpoint(Path(path)), read_checkpoint(Path(base)).state
    own = {
        name: tensor
        for name, tensor in whole.state.items()
        if name not in known or not tensor.equal(known[name].to(tensor.dtype))
    }
    if len(own) == len(whole.state):
        raise InputError(f"{path} has no tensor in common with {base}; was it trained from it?")
    shared = {"file": Path(base).name, "sha256": _hash(Path(base))}
    metadata = {**whole.metadata, BASE_KEY: json.dumps(shared)}
    write_checkpoint(Path(out), own, metadata)


def complete(file: Checkpoint) -> Checkpoint:
    """The checkpoint with its base's tensors, if it is a lean one.

    Raises InputError if the base is not beside it, or is another file than the one it was made for.
    """
    if BASE_KEY not in file.metadata:
        return file
    shared = json.loads(file.metadata[BASE_KEY])
    path = file.path.with_name(shared["file"])
    if not path.is_file():
        raise InputError(f"{file.path} rests on {path.name}, which is not beside it; put it there")
    if _hash(path) != shared["sha256"]:
        raise InputError(
            f"{file.path} rests on another {path.name} than the one beside it; fetch both anew"
        )
    return replace(file, state={**read_checkpoint(path).state, **file.state})


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
