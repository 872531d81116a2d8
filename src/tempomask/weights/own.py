"""Our own checkpoint files: safetensors with the configuration as JSON in the metadata.

A lean file holds only the tensors in which a model differs from another one's file: TAR is trained
on a frozen encoder, and its file need not hold that encoder a second time.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from tempomask.errors import InputError
from tempomask.files import replacing, write_errors
from tempomask.models.config import (
    HieraConfig,
    HybridConfig,
    RepViTConfig,
    SegmenterConfig,
    ViTConfig,
)
from tempomask.models.instances.config import (
    InstanceConfig,
    ResNetConfig,
    StemConfig,
    SwinConfig,
)
from tempomask.models.instances.segmenter import InstanceSegmenter
from tempomask.models.segmenter import Segmenter
from tempomask.schema import check, number, parse_json, plain_name, shown, whole
from tempomask.weights.files import (
    CHECKSUM,
    Checkpoint,
    checksum,
    file_hash,
    read_checkpoint,
)
from tempomask.weights.layout import Layout, State

# The metadata of a segmenter, of an instance segmenter, of TAR's router and of a lean file.
SEGMENTER_KEY, INSTANCES_KEY = "tempomask", "tempomask_instances"
ROUTER_KEY, ROUTER_PREFIX = "tempomask_router", "router."
BASE_KEY = "tempomask_base"
# Which of several networks a part of a configuration is of.
KINDS: dict[str, type[Any]] = {
    "hiera": HieraConfig,
    "vit": ViTConfig,
    "hybrid": HybridConfig,
    "repvit": RepViTConfig,
    "resnet": ResNetConfig,
    "swin": SwinConfig,
    "stem": StemConfig,
}
# What a value of a configuration may be; a size beyond any network is none.
LEAVES = {int: whole(0, 2**13), float: number(-1e9, 1e9), str: str, bool: bool, NoneType: None}
# What a few bytes could make endless work of, in all in a network at most so many.
COUNTS = {"layers", "depth", "stages", "stem", "blocks", "last_blocks", "window_size"}
COUNTS |= {"window_sizes", "patch_size", "memory_frames", "max_pointers", "grid", "slots", "kept"}
MOST = 500
# Earlier versions wrote the widths of pruned encoders, which `pruned.py` reads from the weights.
RETIRED = {"head_dims", "mlp_dims"}
Config = TypeVar("Config", SegmenterConfig, InstanceConfig)

OWN = Layout(title="tempomask", marks=("no_memory", "prompt_encoder.frequencies"))
OWN_INSTANCES = Layout(title="tempomask", marks=("network.query_decoder.query_features",))


def config_to_json(config: SegmenterConfig | InstanceConfig) -> str:
    """The configuration as JSON; `config_from_json` undoes it."""
    kinds = {part: kind for kind, part in KINDS.items()}
    values = asdict(config)
    for name, value in values.items():
        kind = kinds.get(type(getattr(config, name)))
        if kind is not None:
            values[name] = {"kind": kind, **value}
    return json.dumps(values)


def config_from_json(config_type: type[Config], text: str) -> Config:
    """The configuration that a text holds.

    Raises:
        InputError: The text is none of ours, or of a version that knows more than this one.
    """
    try:
        return _build(config_type, parse_json(text, "it", {}))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"the checkpoint's configuration cannot be read ({error}); it may come from a newer"
            " version of tempomask, which can then load it"
        ) from None


def _build(config_type: type[Any], values: Mapping[str, Any]) -> Any:
    """A configuration from its JSON values, in which tuples have become lists."""
    hints = get_type_hints(config_type)
    values = {name: value for name, value in values.items() if name not in RETIRED}
    unknown = values.keys() - hints.keys()
    if unknown:
        raise ValueError(f"unknown {', '.join(sorted(unknown))}")
    parts = {name: _part(hints[name], value) for name, value in values.items()}
    for name in COUNTS & parts.keys():
        check(
            sum(parts[name]) if isinstance(parts[name], tuple) else parts[name],
            whole(0, MOST),
            name,
        )
    return config_type(**parts)


def _part(hint: Any, value: Any) -> Any:
    choices: tuple[Any, ...] = get_args(hint) or (hint,)
    parts = [choice for choice in choices if is_dataclass(choice)]
    if not parts or (value is None and NoneType in choices):
        if isinstance(value, list) and not any(get_origin(c) is tuple for c in (hint, *choices)):
            raise TypeError(f"{shown(value)} stands where one value does")
        for each in value if isinstance(value, list) else [value]:
            check(each, tuple(LEAVES[kind] for kind in choices if kind in LEAVES) or object, "it")
        return tuple(value) if isinstance(value, list) else value
    if not isinstance(value, Mapping):
        raise TypeError(f"{shown(value)} is not a configuration of a part")
    values = dict(value)
    part: Any = KINDS[values.pop("kind")] if len(parts) > 1 else parts[0]
    return _build(part, values)


class RouterWeights(NamedTuple):
    """A router of decoder layers as stored: its configuration as JSON, and its tensors."""

    config: str
    state: State


def save_segmenter(
    segmenter: Segmenter, path: str | Path, dtype: torch.dtype = torch.float32
) -> None:
    """Write the weights and the configuration of a segmenter to a safetensors file.

    Args:
        segmenter: On any device.
        path: Appears whole or not at all.
        dtype: Of the matrices, torch.bfloat16 for files of half the size; norms, biases and buffers
            stay float32.

    Raises:
        InputError: The file cannot be written.
    """
    buffers = dict(segmenter.named_buffers())
    state = _stored(segmenter.state_dict(), buffers, dtype)
    write_safetensors(Path(path), state, {SEGMENTER_KEY: config_to_json(segmenter.config)})


def save_instance_segmenter(
    segmenter: InstanceSegmenter,
    path: str | Path,
    router: RouterWeights | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """`save_segmenter` for an instance segmenter, and a router if there is one."""
    tensors = dict(segmenter.state_dict())
    metadata = {INSTANCES_KEY: config_to_json(segmenter.config)}
    if router is not None:
        tensors |= {f"{ROUTER_PREFIX}{name}": tensor for name, tensor in router.state.items()}
        metadata[ROUTER_KEY] = router.config
    write_safetensors(Path(path), _stored(tensors, (), dtype), metadata)


def complete(file: Checkpoint) -> Checkpoint:
    """The checkpoint with its base's tensors, if it is a lean one.

    Raises:
        InputError: The base is not beside it, or is another file than the one it was made for.
    """
    if BASE_KEY not in file.metadata:
        return file
    wanted = {"file": plain_name, "sha256": str}
    shared = parse_json(file.metadata[BASE_KEY], f"{file.path}: its base", wanted)
    path = file.path.with_name(shared["file"])
    if not path.is_file():
        raise InputError(f"{file.path} rests on {path.name}, which is not beside it; put it there")
    if file_hash(path) != shared["sha256"]:
        raise InputError(
            f"{file.path} rests on another {path.name} than the one beside it; fetch both anew"
        )
    return replace(file, state={**read_checkpoint(path).state, **file.state})


def _stored(state: Mapping[str, Tensor], exact: Collection[str], dtype: torch.dtype) -> State:
    """The tensors as they are written: vectors and those named in `exact` as float32."""
    return {
        name: x.detach()
        .to("cpu", torch.float32 if name in exact or x.ndim < 2 else dtype)
        .contiguous()
        for name, x in state.items()
    }


def write_safetensors(path: Path, state: State, metadata: dict[str, str]) -> None:
    """Write a file that appears whole or not at all; InputError if it cannot be written."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        with write_errors(path), replacing(path) as part:
            # safetensors makes files that nobody else may read; a plain file has the user's mode.
            part.touch()
            mode = part.stat().st_mode
            save_file(state, part, metadata={**metadata, CHECKSUM: checksum(state)})
            part.chmod(mode)
    except SafetensorError as error:
        raise InputError(f"cannot write {path}: {error}") from None
