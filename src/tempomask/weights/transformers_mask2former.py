"""transformers' config.json of a Mask2Former, as our configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tempomask.errors import InputError
from tempomask.files import read_json
from tempomask.models.instances.config import (
    InstanceConfig,
    PixelDecoderConfig,
    QueryDecoderConfig,
    ResNetConfig,
    SwinConfig,
)
from tempomask.weights.files import Checkpoint


def config_beside(file: Checkpoint) -> InstanceConfig | None:
    """The configuration of transformers' config.json, None if there is none."""
    if file.config_json is None:
        return None
    values: Mapping[str, Any] = read_json(file.config_json, "the configuration")
    try:
        return _transformers_config(values, file.path.name)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise InputError(
            f"{file.config_json} is not a configuration of Mask2Former that is known here ({error})"
        ) from None


def _transformers_config(values: Mapping[str, Any], name: str) -> InstanceConfig:
    backbone = values["backbone_config"]
    labels = values["id2label"]
    return InstanceConfig(
        name=name,
        backbone=_transformers_backbone(backbone),
        classes=tuple(labels[key] for key in sorted(labels, key=int)),
        hidden_dim=values["hidden_dim"],
        pixel_decoder=PixelDecoderConfig(
            layers=values["encoder_layers"],
            num_heads=values["num_attention_heads"],
            feedforward_dim=values["encoder_feedforward_dim"],
        ),
        query_decoder=QueryDecoderConfig(
            layers=values["decoder_layers"] - 1,
            num_heads=values["num_attention_heads"],
            feedforward_dim=values["dim_feedforward"],
            num_queries=values["num_queries"],
        ),
    )


def _transformers_backbone(values: Mapping[str, Any]) -> ResNetConfig | SwinConfig:
    if values["model_type"] == "swin":
        return SwinConfig(
            embed_dim=values["embed_dim"],
            blocks=tuple(values["depths"]),
            num_heads=tuple(values["num_heads"]),
            window_size=values["window_size"],
        )
    if values["model_type"] == "resnet":
        return ResNetConfig(
            stem_channels=values["embedding_size"],
            channels=tuple(values["hidden_sizes"]),
            blocks=tuple(values["depths"]),
        )
    raise ValueError(f"backbone {values['model_type']!r}")
