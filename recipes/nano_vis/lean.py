"""Write what a checkpoint holds and the one that it was trained from does not.

    python -m recipes.nano_vis.lean WHOLE BASE OUT

TAR is trained on a frozen encoder, and its file need not hold that encoder a second time. The new
file names the base, which has to lie beside it, and knows it by its hash.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tempomask.errors import InputError
from tempomask.weights.files import file_hash, read_checkpoint
from tempomask.weights.own import BASE_KEY, write_safetensors


def write_lean(path: Path, base: Path, out: Path) -> None:
    """Write to `out` the tensors in which the checkpoint at `path` differs from that at `base`.

    Raises:
        InputError: A file cannot be read or written, or the two have nothing in common.
    """
    whole, known = read_checkpoint(path), read_checkpoint(base).state
    own = {
        name: tensor
        for name, tensor in whole.state.items()
        if name not in known or not tensor.equal(known[name].to(tensor.dtype))
    }
    if len(own) == len(whole.state):
        raise InputError(f"{path} has no tensor in common with {base}; was it trained from it?")
    shared = {"file": base.name, "sha256": file_hash(base)}
    write_safetensors(out, own, {**whole.metadata, BASE_KEY: json.dumps(shared)})


if __name__ == "__main__":
    write_lean(*map(Path, sys.argv[1:]))
