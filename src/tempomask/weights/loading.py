"""The one path from a checkpoint to a network, of whatever kind: read it, tell its layout, load it.

`segmenters.py`, `instances.py` and `dinov3.py` say which layouts and configurations there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from tempomask.errors import InputError
from tempomask.weights.files import Checkpoint, check_weights, read_checkpoint
from tempomask.weights.hub import locate, resolve
from tempomask.weights.layout import Layout, layout_of
from tempomask.weights.own import complete
from tempomask.weights.zoo import ModelInfo

Network = TypeVar("Network", bound=nn.Module)
# How many names an error lists.
LISTED = 3


def read(checkpoint: str | Path | None, info: ModelInfo | None) -> Checkpoint:
    """The checkpoint that is given, else the named model's own.

    Args:
        checkpoint: A file, a folder or a Hub id.
        info: The model that was asked for, None if it was not named.

    Raises:
        InputError: Neither is given, or the file is missing, damaged or cannot be fetched.
    """
    if checkpoint is not None:
        path = resolve(checkpoint, info)
    elif info is not None:
        path = locate(info)
    else:
        raise InputError("name a model, or give a checkpoint")
    return complete(read_checkpoint(path))


def identify(file: Checkpoint, layouts: Iterable[Layout], kinds: str) -> Layout:
    """The layout of a checkpoint; InputError, which says what kinds were expected, if none fits."""
    layout = layout_of(file.state, layouts)
    if layout is None:
        raise InputError(
            f"{file.path} is not a checkpoint of {kinds}; its {len(file.state)} tensors are"
            f" {listed(file.state)}"
        )
    return layout


def load(build: Callable[[], Network], name: str, file: Checkpoint, layout: Layout) -> Network:
    """The network with the checkpoint's weights, on the CPU, in float32, in eval mode.

    Args:
        build: Makes the network, here without memory for its weights.
        name: Of the model, for messages.
        file: The checkpoint.
        layout: Of the checkpoint.

    Raises:
        InputError: Names and shapes are not exactly those that the network needs.
    """
    try:
        with torch.device("meta"):
            network = build()
    except InputError:
        raise
    except Exception as error:  # numbers that do not fit each other fail in many ways
        text = " ".join(str(error).split())[:200]
        raise InputError(
            f"{file.path} describes a network that cannot be made ({text}); fetch it again"
        ) from None
    _check_fit(network, name, file, layout)
    state = layout.to_ours(file.state)
    check_weights(state, f"{file.path} is damaged, or its training has diverged")
    # Copies: tensors that share storage would be a surprise in training.
    copies = {key: tensor.to(torch.float32, copy=True) for key, tensor in state.items()}
    network.load_state_dict(copies, assign=True)
    return network.eval()


def _check_fit(network: nn.Module, name: str, file: Checkpoint, layout: Layout) -> None:
    expected, found = layout.to_theirs(network.state_dict()), file.state
    problems = {
        "missing": [k for k in expected if k not in found and not layout.optional(k)],
        "unexpected": [k for k in found if k not in expected],
        "of another shape": [
            f"{key} {tuple(found[key].shape)} instead of {tuple(tensor.shape)}"
            for key, tensor in expected.items()
            if key in found and found[key].shape != tensor.shape
        ],
    }
    texts = [f"{len(k)} {kind}: {listed(k)}" for kind, k in problems.items() if k]
    if texts:
        raise InputError(
            f"{file.path} looks like {name} ({layout.title} layout) but does not fit it: tensors"
            f" {'; '.join(texts)}"
        )


def other_model(path: Path, found: Sequence[str], wanted: str) -> InputError:
    """The error for a checkpoint of models that are not the one asked for."""
    return InputError(
        f"{path} is a checkpoint of {' or '.join(found)}, not of {wanted}; ask for the model it"
        " holds"
    )


def listed(names: Iterable[str]) -> str:
    """The first few names."""
    names = list(names)
    return ", ".join(names[:LISTED]) + (" ..." if len(names) > LISTED else "")
