"""Configurations of XMem and Cutie, as published."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from tempomask.errors import unknown_name
from tempomask.models.instances.config import ResNetConfig

R50 = ResNetConfig(channels=(256, 512, 1024), blocks=(3, 4, 6))
R18 = ResNetConfig(channels=(64, 128, 256), blocks=(2, 2, 2), basic=True)


@dataclass(frozen=True)
class MatchingConfig:
    """A network that tracks masks by matching pixels.

    Attributes:
        name: As users type it.
        kind: Whose network it is.
        encoder: Of images.
        key_dim: Of the keys that are matched.
        value_dim: Of what is remembered of an object at a pixel.
        sensory_dim: Of an object's recurrent memory.
        num_queries: Of the object transformer (Cutie).
        blocks: Of the object transformer.
        num_heads: Of its attention.
        feedforward_dim: Of its queries.
        up_dims: Channels of the decoder at strides 16, 8 and 4.
    """

    name: str
    kind: Literal["xmem", "cutie"]
    encoder: ResNetConfig = R50
    key_dim: int = 64
    value_dim: int = 256
    sensory_dim: int = 256
    num_queries: int = 16
    blocks: int = 3
    num_heads: int = 8
    feedforward_dim: int = 2048
    up_dims: tuple[int, int, int] = (256, 128, 128)

    @property
    def mask_encoder(self) -> ResNetConfig:
        """R18 of an image, a mask, and the other objects' masks."""
        return replace(R18, inputs=5)


XMEM = MatchingConfig("xmem", "xmem", value_dim=512, sensory_dim=64, up_dims=(512, 256, 256))
CUTIE = MatchingConfig("cutie-base", "cutie")
MATCHERS = {
    config.name: config for config in (CUTIE, replace(CUTIE, name="cutie-small", encoder=R18), XMEM)
}


def matching_config(name: str) -> MatchingConfig:
    """The configuration of a named model; InputError with near names if there is none."""
    if name not in MATCHERS:
        raise unknown_name(f"unknown model {name!r}", name, MATCHERS)
    return MATCHERS[name]
