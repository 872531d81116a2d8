"""The assembled segmenter in four steps: encode, attend, decode, encode_memory.

The segmenter keeps nothing of a video; `tempomask.tracking` owns all state.

B images, N objects, S image side, h = w = S / 16, C hidden_dim.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tempomask.errors import InputError
from tempomask.models.config import HieraConfig, RepViTConfig, SegmenterConfig, ViTConfig
from tempomask.models.encoder import Encoder, Policy, RoutedNetwork
from tempomask.models.hiera import Hiera
from tempomask.models.hybrid import HybridEncoder
from tempomask.models.mask_decoder import MaskDecoder, MaskProposals
from tempomask.models.memory_attention import MemoryAttention, MemoryTokens, TokenChoice
from tempomask.models.memory_encoder import MemoryEncoder
from tempomask.models.neck import FeaturePyramidNeck, SingleLevelNeck
from tempomask.models.perceiver import SpatialPerceiver
from tempomask.models.prompt_encoder import NOT_A_POINT, PromptEncoder
from tempomask.models.prompt_maps import PromptMaps
from tempomask.models.repvit import RepViT
from tempomask.models.vit import ViT
from tempomask.ops.layers import MLP, learned
from tempomask.ops.position import grid_sine, time_sine

# Official constants: the logit of an absent object, and the logits of a mask given as prompt.
ABSENT_LOGIT = -1024.0
MASK_PROMPT_SCALE, MASK_PROMPT_BIAS = 20.0, -10.0
# Dynamic multimask: stability is measured between logits +-DELTA, and trusted above THRESHOLD.
STABILITY_DELTA, STABILITY_THRESHOLD = 0.05, 0.98


class Encoded(NamedTuple):
    """features (B, C, h, w); high_resolution: () or stride-4 and -8 maps; blocks: which ran."""

    features: Tensor
    high_resolution: tuple[Tensor, ...]
    blocks: Tensor


class MemoryInputs(NamedTuple):
    """What N objects of one memory layout attend to.

    spatial (N, T, *config.memory_shape): conditioning frames first, then oldest to newest.
    images (1 or N, T, C, h, w): the raw features of those frames; None unless config.image_keys.
    temporal_index (T,) long: 6 for conditioning frames, distance - 1 for the others.
    pointers (N, P, C); pointer_distance (P,), or (N, P) where objects differ: signed distance over
    (number of pointers - 1).
    absent (N, T + P) bool: frames and pointers that are not there (`tracking.memory_inputs`); None
    where all are.
    chosen: which tokens attend to them (`routing.memory`), None for all.
    """

    spatial: Tensor
    images: Tensor | None
    temporal_index: Tensor
    pointers: Tensor
    pointer_distance: Tensor
    absent: Tensor | None = None
    chosen: TokenChoice | None = None

    def without_pointers(self) -> MemoryInputs:
        """The frames alone."""
        frames = self.spatial.shape[1]
        return self._replace(
            pointers=self.pointers[:, :0],
            pointer_distance=self.pointer_distance[..., :0],
            absent=None if self.absent is None else self.absent[:, :frames],
        )


class Decoded(NamedTuple):
    """The chosen mask of N objects, and all M candidates.

    logits (N, 1, 4h, 4w), predicted_iou (N,), object_pointer (N, C), object_score (N,) logits;
    all_logits (N, M, 4h, 4w), all_iou (N, M), all_pointers (N, M, C): of every candidate;
    raw_logits: all_logits before those of absent objects are blanked, for the losses;
    proposed (N, 4, 4h, 4w): of the single mask and of the three, whichever compete; not blanked.
    """

    logits: Tensor
    predicted_iou: Tensor
    object_pointer: Tensor
    object_score: Tensor
    all_logits: Tensor
    all_iou: Tensor
    all_pointers: Tensor
    raw_logits: Tensor
    proposed: Tensor


def _build_encoder(config: SegmenterConfig) -> Encoder:
    if isinstance(config.encoder, HieraConfig):
        return Hiera(config.encoder)
    if isinstance(config.encoder, ViTConfig):
        return ViT(config.encoder)
    if isinstance(config.encoder, RepViTConfig):
        return RepViT(config.encoder)
    return HybridEncoder(config.encoder)


def _build_neck(config: SegmenterConfig, encoder: Encoder) -> nn.Module:
    if config.high_resolution:
        return FeaturePyramidNeck(encoder.channels, config.hidden_dim)
    return SingleLevelNeck(encoder.channels[-1], config.hidden_dim)


class Segmenter(RoutedNetwork):
    """SAM 2's network; EfficientTAM, EdgeTAM and nano are configurations of it.

    Attributes:
        dtype: Of the computation that its weights are stored for; only the fast engine sets
            another.
        fast: Rearranged by the engine, which computes in `dtype` alone.
        compiled: Its steps are compiled, and take memories in slots (`tracking.memory_inputs`).
    """

    dtype: torch.dtype = torch.float32
    fast: bool = False
    compiled: bool = False

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__()
        config = config.with_image_size(config.image_size)
        dim, memory_dim = config.hidden_dim, config.memory_dim
        self.config = config
        self.encoder = _build_encoder(config)
        self.neck = _build_neck(config, self.encoder)
        self.memory_attention = MemoryAttention(config.memory_attention, dim, memory_dim)
        self.memory_encoder = MemoryEncoder(dim, memory_dim)
        if config.perceiver is not None:
            self.perceiver = SpatialPerceiver(config.perceiver, memory_dim)
        self.prompt_encoder = PromptEncoder(dim, config.mask_prompt_channels)
        if config.prompt_maps:
            self.prompt_maps = PromptMaps(dim)
        self.mask_decoder = MaskDecoder(config.mask_decoder, dim, config.high_resolution)
        self.mask_prompt_downsampler = nn.Conv2d(1, 1, 4, stride=4)
        self.object_pointer_projection = MLP(dim, dim, dim, layers=3)
        self.memory_temporal_encoding = learned(config.memory_frames, memory_dim)
        self.no_memory = learned(dim)
        self.no_object_pointer = learned(dim)
        if config.occlusion_embedding:
            self.occlusion_embedding = learned(memory_dim)
        if config.pointer_temporal_encoding:
            self.pointer_time_projection = nn.Linear(dim, memory_dim)

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def device(self) -> torch.device:
        return self.no_memory.device

    def encode(
        self, image: Tensor, policy: Policy | None = None, previous_masks: Tensor | None = None
    ) -> Encoded:
        """Features of B frames.

        image (B, 3, S, S), normalised; policy and previous_masks as in `models.encoder.Policy`.
        """
        output = self.encoder(image, policy, previous_masks)
        maps = self.neck(output.features)
        fine: tuple[Tensor, ...] = ()
        if self.config.high_resolution:
            fine = self.mask_decoder.project_high_resolution(maps[0], maps[1])
        return Encoded(maps[-1], fine, output.blocks)

    def attend(self, features: Tensor, memory: MemoryInputs | None) -> Tensor:
        """Condition features (1 or N, C, h, w) on the memories of N objects: (N, C, h, w).

        None stands for an initial conditioning frame, which sees no memory.
        """
        if memory is None:
            return features + self.no_memory[:, None, None]
        position = grid_sine(*features.shape[2:], features.shape[1], features.device)
        return self.memory_attention(features, position, self.memory_tokens(memory))

    def memory_tokens(self, memory: MemoryInputs) -> MemoryTokens:
        """The memories of N objects as tokens with their positions in space and time."""
        if not self.config.memory_attention.pointers:
            memory = memory.without_pointers()
        dim, place = self.config.memory_dim, self.config.memory_grid
        spatial = memory.spatial.permute(0, 1, 3, 4, 2).flatten(1, 3)
        grid = grid_sine(place.height, place.width, dim, spatial.device).flatten(1).T
        # Global latents have a place in time alone.
        grid = F.pad(grid, (0, 0, place.unplaced, 0))
        time = self.memory_temporal_encoding[memory.temporal_index]
        # (T, hw, memory_dim) to (1, T hw, memory_dim)
        position = (grid[None] + time[:, None]).flatten(0, 1)[None]
        # A pointer of C channels becomes C / memory_dim consecutive tokens.
        pointers = memory.pointers.unflatten(2, (-1, dim)).flatten(1, 2).to(spatial.dtype)
        parts = memory.pointers.shape[2] // dim
        pointer_position = self._pointer_positions(memory.pointer_distance)
        pointer_position = pointer_position.repeat_interleave(parts, dim=-2).to(position.dtype)
        if pointer_position.ndim == 2:
            pointer_position = pointer_position[None]
        images = memory.images
        return MemoryTokens(
            values=torch.cat([spatial, pointers], dim=1),
            positions=torch.cat(
                [position.expand(pointer_position.shape[0], -1, -1), pointer_position], dim=1
            ),
            num_spatial=spatial.shape[1],
            grid=place,
            image_keys=None if images is None else images.permute(0, 1, 3, 4, 2).flatten(1, 3),
            absent=memory.absent,
            chosen=memory.chosen,
        )

    def _pointer_positions(self, distance: Tensor) -> Tensor:
        """Temporal encodings (..., memory_dim) of pointers at distances (...); zeros before 2.1."""
        if not self.config.pointer_temporal_encoding:
            return distance.new_zeros(*distance.shape, self.config.memory_dim)
        return self.pointer_time_projection(time_sine(distance, self.config.hidden_dim))

    def decode(
        self,
        features: Tensor,
        high_resolution: tuple[Tensor, ...],
        points: Tensor | None = None,
        labels: Tensor | None = None,
        mask_prompt: Tensor | None = None,
        multimask: bool = False,
        dynamic_multimask: bool = False,
        presence_threshold: float = 0.0,
    ) -> Decoded:
        """Masks of N objects from their conditioned features (N, C, h, w).

        points (N, P, 2) in pixels of the network input and labels (N, P): 1, 0, 2 and 3 for box
        corners, -1 for padding; None for a frame without points. mask_prompt (N, 1, 4h, 4w) logits.
        multimask: three masks compete by predicted IoU. dynamic_multimask: an unstable single mask
        gives way to the best of the three. presence_threshold: an object is absent unless its score
        is above this.
        """
        proposals = self.propose(features, high_resolution, points, labels, mask_prompt)
        return self.select(proposals, multimask, dynamic_multimask, presence_threshold)

    def propose(
        self,
        features: Tensor,
        high_resolution: tuple[Tensor, ...],
        points: Tensor | None = None,
        labels: Tensor | None = None,
        mask_prompt: Tensor | None = None,
    ) -> MaskProposals:
        """All masks of N objects, before one is chosen; arguments as in `decode`."""
        prompted = points is not None and points.shape[1] > 0
        if points is None or labels is None:
            points = features.new_zeros(features.shape[0], 1, 2)
            labels = torch.full(points.shape[:2], NOT_A_POINT, device=points.device)
        sparse, dense = self.prompt_encoder(points, labels, mask_prompt, self.config.image_size)
        if self.config.prompt_maps and prompted:
            dense = dense + self.prompt_maps(features, points, labels, self.config.image_size)
        position = self.prompt_encoder.grid_position(*features.shape[2:])
        return self.mask_decoder(features + dense, position, sparse, high_resolution)

    def select(
        self,
        proposals: MaskProposals,
        multimask: bool,
        dynamic_multimask: bool = False,
        presence_threshold: float = 0.0,
    ) -> Decoded:
        """Choose the mask of each object, as `decode` describes."""
        present = (proposals.object_score > presence_threshold)[:, None]
        all_logits = proposals.logits.float()
        candidates = slice(1, None) if multimask else slice(0, 1)
        logits, iou = all_logits[:, candidates], proposals.iou[:, candidates]
        if dynamic_multimask and not multimask:
            logits, iou = _dynamic_multimask(all_logits, proposals.iou)
        raw_logits = logits
        logits = torch.where(present[..., None, None], raw_logits, ABSENT_LOGIT)
        pointers = self._pointers(proposals.tokens[:, candidates], present[..., None])
        rows = torch.arange(logits.shape[0], device=logits.device)
        best = iou.argmax(dim=1)
        return Decoded(
            logits=logits[rows, best][:, None],
            predicted_iou=iou[rows, best],
            object_pointer=pointers[rows, best],
            object_score=proposals.object_score,
            all_logits=logits,
            all_iou=iou,
            all_pointers=pointers,
            raw_logits=raw_logits,
            proposed=all_logits,
        )

    def _pointers(self, tokens: Tensor, present: Tensor) -> Tensor:
        """Object pointers of mask tokens (..., C); absent objects get the learned no-object one."""
        pointers = self.object_pointer_projection(tokens)
        return torch.where(present, pointers, self.no_object_pointer.to(pointers.dtype))

    def use_mask_as_output(
        self,
        encoded: Encoded,
        mask: Tensor,
        multimask: bool = False,
        presence_threshold: float = 0.0,
    ) -> Decoded:
        """A mask prompt (N, 1, S, S) of zeros and ones is the result itself.

        The pointer comes from decoding the raw feature with the mask as dense prompt: the single
        mask's, or with multimask (as transformers does) the best of three.
        """
        mask = mask.float()
        decoded = self.decode(
            encoded.features.expand(mask.shape[0], -1, -1, -1),
            encoded.high_resolution,
            mask_prompt=self.mask_prompt_downsampler(mask),
            multimask=multimask,
            presence_threshold=presence_threshold,
        )
        side = self.config.image_size // 4
        logits = F.interpolate(
            mask * MASK_PROMPT_SCALE + MASK_PROMPT_BIAS,
            size=(side, side),
            mode="bilinear",
            align_corners=False,
            antialias=True,
        )
        present = mask.flatten(1).any(dim=1)
        pointer = torch.where(
            present[:, None], decoded.object_pointer, self.no_object_pointer.to(mask.dtype)
        )
        iou = torch.ones_like(decoded.predicted_iou)
        return Decoded(
            logits=logits,
            predicted_iou=iou,
            object_pointer=pointer,
            object_score=present.float() * MASK_PROMPT_SCALE + MASK_PROMPT_BIAS,
            all_logits=logits,
            all_iou=iou[:, None],
            all_pointers=pointer[:, None],
            raw_logits=logits,
            proposed=logits,
        )

    def encode_memory(
        self, features: Tensor, logits: Tensor, object_score: Tensor, binarise: bool = False
    ) -> Tensor:
        """Memories (N, *config.memory_shape) of N masks on a frame.

        features (1 or N, C, h, w): the raw encoder feature; logits (N, 1, ., .) at any size,
        brought to S x S bilinearly; object_score (N,); binarise: logits > 0, not probabilities.
        """
        size = (self.config.image_size, self.config.image_size)
        if logits.shape[2:] != size:
            logits = F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=False)
        mask = (logits > 0).to(features.dtype) if binarise else logits.sigmoid().to(features.dtype)
        return self.memorise(features, mask, object_score)

    def memorise(self, features: Tensor, mask: Tensor, object_score: Tensor) -> Tensor:
        """The same of masks (N, 1, S, S) in [0, 1], as the memory encoder sees them."""
        memory = self.memory_encoder(features, mask)
        if self.config.occlusion_embedding:
            absent = (object_score <= 0).to(memory.dtype)[:, None, None, None]
            memory = memory + absent * self.occlusion_embedding[:, None, None]
        return memory if self.config.perceiver is None else self.perceiver(memory)


def _dynamic_multimask(logits: Tensor, iou: Tensor) -> tuple[Tensor, Tensor]:
    """The single mask where it is stable, else the multimask of best predicted IoU; (N, 1, ...)."""
    single = logits[:, 0].flatten(1)
    inner = (single > STABILITY_DELTA).sum(dim=1).float()
    outer = (single > -STABILITY_DELTA).sum(dim=1).float()
    stable = torch.where(outer > 0, inner / outer.clamp(min=1), 1.0) >= STABILITY_THRESHOLD
    rows = torch.arange(logits.shape[0], device=logits.device)
    choice = torch.where(stable, 0, 1 + iou[:, 1:].argmax(dim=1))
    return logits[rows, choice][:, None], iou[rows, choice][:, None]


def as_segmenter(network: RoutedNetwork) -> Segmenter:
    """The network, where only a whole segmenter will do; InputError for an encoder alone."""
    if not isinstance(network, Segmenter):
        raise InputError(f"this needs a segmenter, and {network.name} is an encoder alone")
    return network
