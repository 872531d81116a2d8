"""Our own files of instance segmenters: safetensors with the configuration in the metadata."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch

from tempomask.models.instances.config import (
    InstanceConfig,
    PixelDecoderConfig,
    QueryDecoderConfig,
    ReferringTrackerConfig,
    ResNetConfig,
    StemConfig,
    SwinConfig,
)
from tempomask.models.instances.segmenter import InstanceSegmenter
from tempomask.weights.layout import State
from tempomask.weights.stored import build_config, read_config, write_checkpoint

METADATA_KEY, ROUTER_KEY, ROUTER_PREFIX = "tempomask_instances", "tempomask_router", "router."
BACKBONES = {"resnet": ResNetConfig, "swin": SwinConfig, "stem": StemConfig}
PARTS: dict[str, type[Any]] = {
    "pixel_decoder": PixelDecoderConfig,
    "query_decoder": QueryDecoderConfig,
    "referring_tracker": ReferringTrackerConfig,
}


class RouterWeights(NamedTuple):
    """A router as stored: its configuration as JSON, and its tensors."""

    config: str
    state: State


def config_to_json(config: InstanceConfig) -> str:
    """The configuration as JSON; `config_from_json` undoes it."""
    kinds = {config_type: kind for kind, config_type in BACKBONES.items()}
    values = asdict(config)
    values["backbone"] = {"kind": kinds[type(config.backbone)], **values["backbone"]}
    return json.dumps(values)


def config_from_json(text: str) -> InstanceConfig:
    """InputError if the text is none of ours, or of a version that knows more than this one."""
    return read_config(_config, text)


def _config(text: str) -> InstanceConfig:
    values: dict[str, Any] = json.loads(text)
    backbone = dict(values["backbone"])
    values["backbone"] = build_config(BACKBONES[backbone.pop("kind")], backbone)
    for name, part in PARTS.items():
        if values[name] is not None:
            values[name] = build_config(part, values[name])
    return build_config(InstanceConfig, values)


def save_instance_segmenter(
    segmenter: InstanceSegmenter,
    path: str | Path,
    router: RouterWeights | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write weights and configuration, and a router if there is one, to a safetensors file.

    dtype: of the matrices, torch.bfloat16 for files of half the size; norms, biases and buffers
    stay float32. The file appears whole or not at all. InputError if it cannot be written.
    """
    tensors = dict(segmenter.state_dict())
    metadata = {METADATA_KEY: config_to_json(segmenter.config)}
    if router is not None:
        tensors |= {f"{ROUTER_PREFIX}{name}": tensor for name, tensor in router.state.items()}
        metadata[ROUTER_KEY] = router.config
    state = {
        name: x.detach().to("cpu", torch.float32 if x.ndim < 2 else dtype).contiguous()
        for name, x in tensors.items()
    }
    write_checkpoint(Path(path), state, metadata)
