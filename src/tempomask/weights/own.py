"""Our own checkpoint files: safetensors with the configuration as JSON in the metadata."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tempomask.models.config import (
    HieraConfig,
    HybridConfig,
    MaskDecoderConfig,
    MemoryAttentionConfig,
    SegmenterConfig,
    ViTConfig,
)
from tempomask.models.segmenter import Segmenter
from tempomask.weights.layout import Layout
from tempomask.weights.stored import build_config, read_config, write_checkpoint

METADATA_KEY = "tempomask"
ENCODERS = {"hiera": HieraConfig, "vit": ViTConfig, "hybrid": HybridConfig}
PARTS: dict[str, type[Any]] = {
    "memory_attention": MemoryAttentionConfig,
    "mask_decoder": MaskDecoderConfig,
}

OWN = Layout(title="tempomask", marks=("no_memory", "prompt_encoder.frequencies"))


def config_to_json(config: SegmenterConfig) -> str:
    """The configuration as JSON; `config_from_json` undoes it."""
    kinds = {config_type: kind for kind, config_type in ENCODERS.items()}
    values = asdict(config)
    values["encoder"] = {"kind": kinds[type(config.encoder)], **values["encoder"]}
    return json.dumps(values)


def config_from_json(text: str) -> SegmenterConfig:
    """InputError if the text is none of ours, or of a version that knows more than this one."""
    return read_config(_config, text)


def _config(text: str) -> SegmenterConfig:
    values: dict[str, Any] = json.loads(text)
    encoder = dict(values["encoder"])
    values["encoder"] = build_config(ENCODERS[encoder.pop("kind")], encoder)
    for name, part in PARTS.items():
        values[name] = build_config(part, values[name])
    return build_config(SegmenterConfig, values)


def save_segmenter(
    segmenter: Segmenter, path: str | Path, dtype: torch.dtype = torch.float32
) -> None:
    """Write the weights and the configuration of a segmenter to a safetensors file.

    dtype: of the matrices, torch.bfloat16 for files of half the size; norms, biases and buffers
    stay float32. The file appears whole or not at all. InputError if it cannot be written.
    """
    buffers = dict(segmenter.named_buffers())

    def stored(name: str, x: Tensor) -> Tensor:
        keep = name in buffers or x.ndim < 2
        return x.detach().to("cpu", torch.float32 if keep else dtype).contiguous()

    state = {name: stored(name, tensor) for name, tensor in segmenter.state_dict().items()}
    write_checkpoint(Path(path), state, {METADATA_KEY: config_to_json(segmenter.config)})
