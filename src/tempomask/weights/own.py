"""Our own checkpoint files: safetensors with the configuration as JSON in the metadata."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tempomask.errors import InputError
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
    try:
        values: dict[str, Any] = json.loads(text)
        encoder = dict(values["encoder"])
        values["encoder"] = _build(ENCODERS[encoder.pop("kind")], encoder)
        for name, part in PARTS.items():
            values[name] = _build(part, values[name])
        return _build(SegmenterConfig, values)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"the checkpoint's configuration cannot be read ({error!r}); it may come from a newer"
            " version of tempomask, which can then load it"
        ) from None


def _build(config_type: type[Any], values: Mapping[str, Any]) -> Any:
    """A configuration from its JSON values, in which tuples have become lists."""
    unknown = values.keys() - {field.name for field in fields(config_type)}
    if unknown:
        raise ValueError(f"unknown {', '.join(sorted(unknown))}")
    return config_type(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def save_segmenter(
    segmenter: Segmenter, path: str | Path, dtype: torch.dtype = torch.float32
) -> None:
    """Write the weights and the configuration of a segmenter to a safetensors file.

    dtype: of the matrices, torch.bfloat16 for files of half the size; norms, biases and buffers
    stay float32. The file appears whole or not at all. InputError if it cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path = Path(path)
    buffers = dict(segmenter.named_buffers())

    def stored(name: str, x: Tensor) -> Tensor:
        keep = name in buffers or x.ndim < 2
        return x.detach().to("cpu", torch.float32 if keep else dtype).contiguous()

    state = {name: stored(name, tensor) for name, tensor in segmenter.state_dict().items()}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        save_file(state, temporary, metadata={METADATA_KEY: config_to_json(segmenter.config)})
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"cannot write the checkpoint {path}: {reason}") from None
    finally:
        with suppress(OSError):
            temporary.unlink()
