"""A named model or a checkpoint of any known layout into a `Segmenter`; everything has to fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from tempomask.errors import InputError
from tempomask.models.config import SEGMENTERS, SegmenterConfig, segmenter_config
from tempomask.models.segmenter import Segmenter
from tempomask.weights.files import Checkpoint, read_checkpoint, read_json
from tempomask.weights.hub import locate, resolve
from tempomask.weights.identify import layout_of, likely_names
from tempomask.weights.layout import Layout
from tempomask.weights.own import METADATA_KEY, OWN, config_from_json
from tempomask.weights.transformers_sam2 import TRANSFORMERS_SAM2, segmenter_config_of

# How many names an error lists.
LISTED = 3


def load_segmenter(
    name: str | None = None,
    checkpoint: str | Path | None = None,
    image_size: int | None = None,
    pooled_memory: bool = False,
) -> Segmenter:
    """A segmenter with its weights, on the CPU, in float32, in eval mode.

    name: such as "sam2.1-tiny"; None takes what the checkpoint holds, or nano without one.
    checkpoint: a file, a folder or a Hub id; official `.pt` files of SAM 2 and EfficientTAM,
    transformers' safetensors of SAM 2, and our own. None is the model's own, from this machine or
    the Hub.
    image_size: side of the square input; None is that of the model.
    pooled_memory: memory keys and values are pooled 2x2 (EfficientTAM, Eq. 5), also in models that
        were not trained so.

    Raises InputError for an unknown name, a checkpoint that is missing, damaged or of another
    model, and a size that the strides do not allow.
    """
    if name is not None:
        _check_name(name)
    path = locate(name or "nano") if checkpoint is None else resolve(checkpoint, name)
    file = read_checkpoint(path)
    layout = layout_of(file.state)
    if layout is None:
        _refuse_instances(file)
        raise InputError(
            f"{path} is no checkpoint of SAM 2, EfficientTAM or tempomask; its"
            f" {len(file.state)} tensors are {_listed(file.state)}"
        )
    config = _config_of(name if checkpoint is not None else name or "nano", file, layout)
    if image_size is not None:
        config = config.with_image_size(image_size)
    if pooled_memory and config.memory_attention.pooling == "none":
        config = config.with_pooling("eq5")
    with torch.device("meta"):
        segmenter = Segmenter(config)
    _check_fit(file, layout, segmenter, config.name)
    # Copies: tensors that share storage would be a surprise in training.
    state = layout.to_ours(file.state)
    state = {key: tensor.to(torch.float32, copy=True) for key, tensor in state.items()}
    segmenter.load_state_dict(state, assign=True)
    return segmenter.eval()


def _refuse_instances(file: Checkpoint) -> None:
    """InputError for a checkpoint that `load_instances` takes."""
    from tempomask.weights.instances.loading import is_instances

    if is_instances(file):
        raise InputError(
            f"{file.path} holds a model that finds the objects of known classes by itself: run"
            " `tempomask instances`, or load_instances in Python"
        )


def _check_name(name: str) -> None:
    """InputError for a name that is no segmenter's."""
    if name not in SEGMENTERS:
        from tempomask.weights.aliases import no_model

        raise no_model(name, SEGMENTERS)


def _config_of(name: str | None, file: Checkpoint, layout: Layout) -> SegmenterConfig:
    """The configuration to load a checkpoint with: as stored beside the weights, or by name."""
    stored = _stored_config(file, layout)
    if stored is not None:
        if name is not None and stored.name != name:
            raise _other_model(file.path, name, [stored.name])
        return stored
    state = layout.renamed(file.state)
    names = likely_names(state, file.path)
    if name is None:
        if len(names) == 1:
            return segmenter_config(names[0])
        choice = f"; say which of {', '.join(names)} it is" if names else ""
        raise InputError(f"cannot tell which model {file.path} holds{choice}")
    if names and name not in likely_names(state, Path()):
        raise _other_model(file.path, name, names)
    return segmenter_config(name)


def _stored_config(file: Checkpoint, layout: Layout) -> SegmenterConfig | None:
    if layout is OWN:
        if METADATA_KEY not in file.metadata:
            raise InputError(f"{file.path} lacks its configuration; save it with save_segmenter")
        return config_from_json(file.metadata[METADATA_KEY])
    if layout is TRANSFORMERS_SAM2 and file.config_json is not None:
        return segmenter_config_of(read_json(file.config_json))
    return None


def _other_model(path: Path, name: str, names: list[str]) -> InputError:
    return InputError(
        f"{path} is a checkpoint of {' or '.join(names)}, not of {name}; ask for the model it holds"
    )


def _check_fit(file: Checkpoint, layout: Layout, segmenter: Segmenter, name: str) -> None:
    """InputError unless names and shapes are exactly those that the segmenter needs."""
    expected = layout.to_theirs(segmenter.state_dict())
    missing = [key for key in expected if key not in file.state and key not in layout.optional]
    unexpected = [key for key in file.state if key not in expected]
    reshaped = [
        f"{key} {tuple(file.state[key].shape)} instead of {tuple(tensor.shape)}"
        for key, tensor in expected.items()
        if key in file.state and file.state[key].shape != tensor.shape
    ]
    problems = [
        f"{len(keys)} {kind}: {_listed(keys)}"
        for kind, keys in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", reshaped),
        )
        if keys
    ]
    if problems:
        raise InputError(
            f"{file.path} looks like {name} ({layout.title} layout) but does not fit it:"
            f" tensors {'; '.join(problems)}"
        )


def _listed(names: Iterable[str] | Mapping[str, Tensor]) -> str:
    """The first few names."""
    names = list(names)
    return ", ".join(names[:LISTED]) + (" ..." if len(names) > LISTED else "")
