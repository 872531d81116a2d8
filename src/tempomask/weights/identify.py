"""Which model a checkpoint holds, from the names and shapes of its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from tempomask.models.config import SEGMENTERS, HieraConfig, HybridConfig, SegmenterConfig
from tempomask.weights.efficienttam import EFFICIENTTAM
from tempomask.weights.layout import Layout
from tempomask.weights.own import OWN
from tempomask.weights.sam2 import SAM2
from tempomask.weights.transformers_sam2 import TRANSFORMERS_SAM2
from tempomask.weights.zoo import MODELS

LAYOUTS = (SAM2, EFFICIENTTAM, TRANSFORMERS_SAM2, OWN)


class Signature(NamedTuple):
    """What tells models apart.

    encoder: hiera, vit or hybrid; dim: of its first embedding; blocks: their number; version 2.1 of
    SAM 2 has occlusion embeddings and timed pointers.
    """

    encoder: str
    dim: int
    blocks: int
    newer: bool


def layout_of(state: Mapping[str, Tensor]) -> Layout | None:
    """The layout of a checkpoint, None if it is none of those known."""
    return next((layout for layout in LAYOUTS if all(m in state for m in layout.marks)), None)


def signature_of_config(config: SegmenterConfig) -> Signature:
    """The signature that checkpoints of a configuration have."""
    encoder = config.encoder
    if isinstance(encoder, HieraConfig):
        kind, dim, blocks = "hiera", encoder.embed_dim, sum(encoder.stages)
    else:
        kind = "hybrid" if isinstance(encoder, HybridConfig) else "vit"
        dim, blocks = encoder.dim, encoder.depth
    return Signature(kind, dim, blocks, config.occlusion_embedding)


def signature_of_state(state: Mapping[str, Tensor]) -> Signature | None:
    """The signature of a state in our names, None if it lacks an encoder."""
    numbers = [int(key.split(".")[2]) for key in state if key.startswith("encoder.blocks.")]
    kind = "hiera" if "encoder.window_position" in state else "vit"
    embedding = state.get("encoder.patch_embedding.weight")
    if embedding is None:
        kind, embedding = "hybrid", state.get("encoder.embed.weight")
    if embedding is None or not numbers:
        return None
    return Signature(kind, embedding.shape[0], max(numbers) + 1, "occlusion_embedding" in state)


def likely_names(state: Mapping[str, Tensor], path: Path) -> list[str]:
    """Named models with the signature of a state that `Layout.renamed` made.

    EfficientTAM's variants have equal tensors; the name of the file decides where it can.
    """
    signature = signature_of_state(state)
    names = [n for n, config in SEGMENTERS.items() if signature_of_config(config) == signature]
    by_file = [name for name in names if MODELS[name].file == path.name]
    return by_file[:1] or names
