"""The steps of a segmenter as modules with fixed shapes: tensors in, tensors out, one object.

What a video keeps stays with the caller, as do its choices: which memories are attended to, and
which of the masks is taken. What `tempomask.models` computes is left as it is; this file only says
where each step begins and ends.

S image side, h = w = S / 16, C hidden_dim, D memory_dim, T places for memories, P for object
pointers, K for points, M masks that compete.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from tempomask.models.config import SegmenterConfig
from tempomask.models.encoder import Encoder, Plan, Policy, RoutedBlock
from tempomask.models.hiera import Hiera
from tempomask.models.hybrid import TransformerBlock
from tempomask.models.mask_decoder import MaskProposals
from tempomask.models.prompt_encoder import NOT_A_POINT, PromptEncoder
from tempomask.models.segmenter import MemoryInputs, Segmenter
from tempomask.models.vit import ViT

# The label of a place that holds no point.
EMPTY = -2
# Places for points: a box takes two.
POINTS = 16
MASKS = ("logits", "iou", "pointers", "object_score")
# What depends on the weights and on the size alone.
TABLES = {
    Hiera: "position_encoding",
    ViT: "position_encoding",
    TransformerBlock: "rotations",
    PromptEncoder: "grid_position",
}


@dataclass(frozen=True)
class Graph:
    """A step, an example of its inputs by name, in their order, and the names of its outputs."""

    name: str
    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]


def num_pointers(config: SegmenterConfig, memories: int) -> int:
    """Places for object pointers, P: each conditioning frame more has one more."""
    return config.max_pointers + max(0, memories - config.memory_frames)


def graphs(segmenter: Segmenter, policy: Policy | None, memories: int) -> Iterator[Graph]:
    """The graphs of a segmenter, one after the other.

    Args:
        segmenter: As `tempomask.models` has it, in evaluation mode.
        policy: Which encoder blocks run; None for all. Of a router the encoder comes in pieces.
        memories: T.
    """
    config = segmenter.config
    side, grid, dim = config.image_size, config.image_size // 16, config.hidden_dim
    features = torch.randn(1, dim, grid, grid)
    fine = {}
    if config.high_resolution:
        fine["stride_4"] = torch.randn(1, dim // 8, 4 * grid, 4 * grid)
        fine["stride_8"] = torch.randn(1, dim // 4, 2 * grid, 2 * grid)
    image = {"image": torch.randn(1, 3, side, side)}
    if policy is not None and policy.fixed_keep is None:
        yield from routed_graphs(segmenter, image, tuple(fine))
    else:
        yield Graph("encode", Encode(segmenter, policy), image, ("features", *fine))
    yield attention("attend", segmenter, features, memories)
    if config.memory_attention.pooling != "none":
        yield attention("attend_lone", segmenter, features, 1)
    yield Graph("decode", Decode(segmenter), {"features": features, **fine}, MASKS)
    prompts = {
        "points": torch.rand(1, POINTS, 2) * side,
        "labels": torch.arange(POINTS)[None].remainder(2).float(),
        "mask": torch.randn(1, 1, 4 * grid, 4 * grid),
        "has_mask": torch.ones(1),
    }
    yield Graph("segment", Segment(segmenter), {"features": features, **prompts, **fine}, MASKS)
    mask, score = torch.rand(1, 1, side, side), torch.ones(1)
    seen = {"features": features, "mask": mask, "object_score": score}
    yield Graph("encode_memory", EncodeMemory(segmenter), seen, ("memory",))


def routed_graphs(
    segmenter: Segmenter, image: dict[str, Tensor], fine: tuple[str, ...]
) -> Iterator[Graph]:
    """The encoder in pieces, of which the host runs those blocks that a router chose."""
    encoder = segmenter.encoder
    # Finer maps come from a stem before all blocks, or from blocks as all others do.
    early, late = (fine, ()) if len(encoder.feature_blocks) < len(encoder.channels) else ((), fine)
    embed = Embed(segmenter, len(early))
    yield Graph("embed", embed, image, ("embedding", *early))
    maps: dict[str, Tensor] = {}
    with torch.no_grad():
        x = embed(image["image"])[0]
        for index, block in enumerate(encoder.blocks):
            yield Graph(block_name(index), block, {"x": x}, ("y",))
            x = block(x)
            if index in encoder.feature_blocks:
                maps[f"map_{len(maps)}"] = x
    yield Graph("finish", Finish(segmenter, len(late)), maps, ("features", *late))


def block_name(index: int) -> str:
    """Of the graph of an encoder block."""
    return f"block_{index:02d}"


@contextmanager
def constant_tables(segmenter: Segmenter) -> Iterator[None]:
    """Inside the block tables are made once, so that a graph holds their values."""
    found = [(m, TABLES[type(m)]) for m in segmenter.modules() if type(m) in TABLES]
    for module, name in found:
        object.__setattr__(module, name, cache(getattr(module, name)))
    try:
        yield
    finally:
        for module, name in found:
            object.__delattr__(module, name)


def attention(name: str, segmenter: Segmenter, features: Tensor, memories: int) -> Graph:
    """Memory attention with places for so many memories; a lone one is not pooled."""
    config, grid = segmenter.config, features.shape[2:]
    pointers = num_pointers(config, memories)
    inputs = {
        "features": features,
        "spatial": torch.randn(1, memories, *config.memory_shape),
        "temporal_index": torch.arange(memories).remainder(config.memory_frames),
        "pointers": torch.randn(1, pointers, config.hidden_dim),
        "pointer_distance": torch.rand(1, pointers),
        "present": torch.ones(1, memories + pointers),
    }
    if config.memory_attention.image_keys:
        inputs["images"] = torch.randn(1, memories, config.hidden_dim, *grid)
    return Graph(name, Attend(segmenter), inputs, ("conditioned",))


class Step(nn.Module):
    """A step of a segmenter, and the parts of it that this needs: tracing visits all of them."""

    parts: tuple[str, ...]

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        self.segmenter = copy(segmenter)
        self.segmenter._modules = {
            name: part for name, part in segmenter._modules.items() if name in self.parts
        }


class Encode(Step):
    """An image (1, 3, S, S), normalised, to features (1, C, h, w) and the finer maps, if any."""

    parts = ("encoder", "neck", "mask_decoder")

    def __init__(self, segmenter: Segmenter, policy: Policy | None) -> None:
        super().__init__(segmenter)
        self.policy = policy

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        encoded = self.segmenter.encode(image, self.policy)
        return encoded.features, *encoded.high_resolution


class Embed(Step):
    """An image to the embedding (1, h', w', C') of the first block, and early finer maps."""

    parts = Encode.parts

    def __init__(self, segmenter: Segmenter, early: int) -> None:
        super().__init__(segmenter)
        self.pieces, self.early = _Pieces(segmenter.encoder), early

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        fine = self.segmenter.encode(image, self.pieces).high_resolution
        return self.pieces.embedding, *fine[: self.early]


class Finish(Step):
    """The maps after `Encoder.feature_blocks` to features and late finer maps."""

    parts = Encode.parts

    def __init__(self, segmenter: Segmenter, late: int) -> None:
        super().__init__(segmenter)
        self.pieces, self.late = _Pieces(segmenter.encoder), late

    def forward(self, *maps: Tensor) -> tuple[Tensor, ...]:
        self.pieces.maps = maps
        side = self.segmenter.config.image_size
        encoded = self.segmenter.encode(torch.zeros(1, 3, side, side), self.pieces)
        return encoded.features, *encoded.high_resolution[: self.late]


class _Pieces(Policy):
    """Keeps what comes before the blocks, and puts `maps`, if any, in place of what they give."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder, self.maps = encoder, tuple[Tensor, ...]()
        self.blocks = torch.zeros(encoder.num_blocks, dtype=torch.bool)

    def plan(self, embedding: Tensor, previous_masks: Tensor | None) -> Plan:
        self.embedding = embedding
        return self

    def apply(self, index: int, block: RoutedBlock, x: Tensor) -> Tensor:
        if self.maps and index in self.encoder.feature_blocks:
            return self.maps[self.encoder.feature_blocks.index(index)]
        return block(x) if not self.maps and index in self.encoder.required_blocks else x


class Attend(Step):
    """Features (1, C, h, w) conditioned on memories, the same shape; see `MemoryInputs`.

    present (1, T + P): 1 where there is a memory or a pointer, 0 where there is none.
    """

    parts = ("memory_attention", "pointer_time_projection")

    def forward(
        self,
        features: Tensor,
        spatial: Tensor,
        temporal_index: Tensor,
        pointers: Tensor,
        pointer_distance: Tensor,
        present: Tensor,
        images: Tensor | None = None,
    ) -> Tensor:
        memory = MemoryInputs(
            spatial, images, temporal_index, pointers, pointer_distance, absent=present < 0.5
        )
        return self.segmenter.attend(features, memory)


class Decode(Step):
    """All masks of a frame without prompts, from its conditioned features."""

    parts = ("prompt_encoder", "prompt_maps", "mask_decoder", "object_pointer_projection")

    def forward(self, features: Tensor, *fine: Tensor) -> tuple[Tensor, ...]:
        return _masks(self.segmenter, self.segmenter.propose(features, fine))


def _masks(segmenter: Segmenter, proposals: MaskProposals) -> tuple[Tensor, ...]:
    """Logits (1, M, 4h, 4w), predicted IoU (1, M), pointers (1, M, C) and object score (1,)."""
    pointers = segmenter.object_pointer_projection(proposals.tokens)
    return proposals.logits, proposals.iou, pointers, proposals.object_score


class Segment(Step):
    """All masks of an image or a frame with prompts, from its conditioned features.

    points (1, K, 2) in pixels of the network's input, labels (1, K) as in `PromptEncoder`, EMPTY
    where there is none; mask (1, 1, 4h, 4w) logits, which count where has_mask (1,) is 1.
    """

    parts = Decode.parts

    def forward(
        self,
        features: Tensor,
        points: Tensor,
        labels: Tensor,
        mask: Tensor,
        has_mask: Tensor,
        *fine: Tensor,
    ) -> tuple[Tensor, ...]:
        segmenter, side = self.segmenter, self.segmenter.config.image_size
        encoder = segmenter.prompt_encoder
        # The pad of the official code, which is not there without a point.
        pad = torch.where((labels > EMPTY).any(dim=1, keepdim=True), NOT_A_POINT, EMPTY)
        places = torch.cat([labels, pad.to(labels.dtype)], dim=1)
        sparse = encoder.embed_points(torch.cat([points, points[:, :1]], dim=1), places, side)
        dense = torch.where(
            has_mask[:, None, None, None] > 0,
            encoder.mask_embedding(mask),
            encoder.no_mask[None, :, None, None],
        )
        if segmenter.config.prompt_maps:
            dense = dense + segmenter.prompt_maps(features, points, labels, side)
        position = encoder.grid_position(*features.shape[2:])
        proposals = segmenter.mask_decoder(
            features + dense, position, sparse, fine, places <= EMPTY
        )
        return _masks(segmenter, proposals)


class EncodeMemory(Step):
    """The memory (1, D, h, w) of a mask (1, 1, S, S) in [0, 1] on a frame's raw features."""

    parts = ("memory_encoder", "perceiver")

    def forward(self, features: Tensor, mask: Tensor, object_score: Tensor) -> Tensor:
        return self.segmenter.memorise(features, mask, object_score)
