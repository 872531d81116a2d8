"""The prediction-aware router of RDS: one small network that plans a whole encoder pass.

Y = alpha f(M) + g(X), l = phi(Y) (Algorithm 1), from the mask M of the previous frame and the patch
embedding X of the current one; `weights.py` turns the logits l into the blocks' weights. What the
paper leaves open (widths, convolutions, alpha) is listed in docs/method/rds.md.

B batch, h x w grid of the patch embedding, C its channels, L encoder blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tempomask.errors import InputError
from tempomask.models.encoder import Encoder, always_on_blocks
from tempomask.ops.resumable import Resumable
from tempomask.routing.options import RouterInputs, WeightsForm
from tempomask.routing.weights import unclipped_weights

# Kernels of mask embeddings whose patches overlap, by stride; as in SAM 2's patch embedding.
OVERLAP = {4: 7}
# Standard deviation of the head's first weights, by version: with normalised inputs, and before.
HEAD_DEVIATION = {1: 0.01, 2: 0.15}


@dataclass(frozen=True)
class RouterConfig:
    """num_blocks, channels, mask_stride, always_on: of the encoder, see `for_encoder`.

    hidden: channels of Y and of the convolutions. inputs: of the ablation, "both" in the paper.
    mask_frames: how many previous masks are seen, 1 in the paper and 4 in its ablation.
    weights: how logits become weights, see `routing.weights`. temperature: logits are divided by it
    first; training ends with it. version: 2 normalises what enters the last two layers, so that
    the logits of different frames differ from the start; 1 did not.
    """

    num_blocks: int
    channels: int
    mask_stride: int
    always_on: tuple[int, ...]
    hidden: int = 32
    inputs: RouterInputs = "both"
    mask_frames: int = 1
    weights: WeightsForm = "free"
    temperature: float = 1.0
    version: int = 2

    def __post_init__(self) -> None:
        if self.inputs not in ("both", "mask", "image"):
            raise InputError(f"router inputs must be both, mask or image, got {self.inputs!r}")
        if self.mask_frames < 1:
            raise InputError(f"mask_frames must be 1 or more, got {self.mask_frames}")
        if self.weights not in get_args(WeightsForm):
            raise InputError(f"weights must be free or paper, got {self.weights!r}")
        if not 0 < self.temperature <= 100:
            raise InputError(f"temperature must be above 0, such as 0.2, got {self.temperature:g}")
        if self.version not in HEAD_DEVIATION:
            raise InputError(
                f"this router is of version {self.version}; this release knows"
                f" {', '.join(map(str, HEAD_DEVIATION))}: update it"
            )

    @staticmethod
    def for_encoder(encoder: Encoder, **settings: Any) -> RouterConfig:
        """The configuration that fits an encoder.

        settings: fields that the encoder does not tell; K comes from its contract unless given.
        """
        return RouterConfig(
            num_blocks=encoder.num_blocks,
            channels=encoder.patch_channels,
            mask_stride=encoder.patch_stride,
            **{"always_on": always_on_blocks(encoder), **settings},
        )

    def to_settings(self) -> dict[str, Any]:
        """Plain values, for an adapter's description."""
        return {**asdict(self), "always_on": list(self.always_on)}

    @staticmethod
    def from_settings(values: Mapping[str, Any]) -> RouterConfig:
        """The configuration of a description; one without a version is of version 1.

        Raises:
            TypeError, KeyError: For settings that are missing or unknown.
        """
        first = {"version": 1, "weights": "paper"} if "version" not in values else {}
        always_on = tuple(int(index) for index in values["always_on"])
        return RouterConfig(**{**values, **first, "always_on": always_on})

    def fits(self, encoder: Encoder) -> bool:
        """Whether a router of this configuration can plan for an encoder."""
        wanted = RouterConfig.for_encoder(encoder)
        return (
            self.num_blocks == wanted.num_blocks
            and self.channels == wanted.channels
            and self.mask_stride == wanted.mask_stride
            and encoder.required_blocks <= set(self.always_on) <= set(range(encoder.num_blocks))
        )


class PredictiveRouter(nn.Module):
    """Block logits from the previous masks and the patch embedding."""

    def __init__(self, config: RouterConfig) -> None:
        super().__init__()
        self.config = config
        hidden, stride = config.hidden, config.mask_stride
        if config.inputs != "image":
            kernel = OVERLAP.get(stride, stride)
            padding = kernel // 2 if kernel > stride else 0
            self.mask_embedding = nn.Conv2d(
                config.mask_frames, hidden, kernel, stride=stride, padding=padding
            )
            self.alpha = nn.Parameter(torch.ones(()))
        if config.inputs != "mask":
            self.norm = nn.LayerNorm(config.channels, eps=1e-6)
            self.image_projection = nn.Linear(config.channels, hidden)
        self.reduce = nn.Conv2d(hidden, hidden, 3, stride=2, padding=1)
        self.mix = nn.Conv2d(hidden, hidden, 3, stride=2, padding=1)
        self.expand = nn.Linear(hidden, 2 * hidden)
        self.head = nn.Linear(2 * hidden, config.num_blocks)
        nn.init.normal_(self.head.weight, std=HEAD_DEVIATION[config.version])
        nn.init.zeros_(self.head.bias)

    def forward(self, embedding: Tensor, masks: Tensor) -> Tensor:
        """embedding (B, h, w, C); masks (B, F, h', w') logits, newest first: (B, L) logits."""
        fused = self._fused(embedding, masks)
        pooled = F.gelu(self.mix(F.gelu(self.reduce(fused)))).mean(dim=(2, 3))
        hidden = F.gelu(self.expand(self._normalised(pooled)))
        return self.head(self._normalised(hidden)).float()

    def _normalised(self, x: Tensor) -> Tensor:
        """x (B, D) with mean 0 and deviation 1 over D: a mean over the grid varies little."""
        return F.layer_norm(x, x.shape[-1:]) if self.config.version > 1 else x

    def weights(self, logits: Tensor, budget: float, temperature: float | None = None) -> Tensor:
        """The unclipped weights (..., L) of `routing.weights`.

        temperature: as in use if None.
        """
        config = self.config
        scaled = logits / (config.temperature if temperature is None else temperature)
        return unclipped_weights(scaled, budget, config.always_on, config.weights)

    def _fused(self, embedding: Tensor, masks: Tensor) -> Tensor:
        """Y (B, hidden, h, w). Neither input is trained through."""
        config, parts = self.config, []
        if config.inputs != "image":
            size = [side * config.mask_stride for side in embedding.shape[1:3]]
            binary = (masks.detach() > 0).to(embedding.dtype)
            binary = F.interpolate(binary, size=size, mode="bilinear", align_corners=False)
            parts.append(self.alpha * self.mask_embedding(binary))
        if config.inputs != "mask":
            image = self.image_projection(self.norm(embedding.detach()))
            parts.append(image.permute(0, 3, 1, 2))
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]


class MaskHistory(Resumable):
    """The last usable masks of a video or clip, newest first; the oldest stands in for missing.

    A sample's mask is usable if all of it is finite.
    """

    state_types: ClassVar = {"_masks": Tensor | None}

    def __init__(self, frames: int) -> None:
        self._frames = frames
        self._masks: Tensor | None = None

    def push(self, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Take in (B, 1, h, w): which samples (B,) are usable; the last masks (B, frames, h, w).

        Samples that had no usable mask yet have empty ones. Another B, h or w begins anew.
        """
        valid = _finite(masks)
        repeated = masks.expand(-1, self._frames, -1, -1)
        if self._frames == 1 or self._masks is None or self._masks.shape != repeated.shape:
            self._masks = repeated
        else:
            pushed = torch.cat([masks, self._masks[:, :-1]], dim=1)
            pushed = _where(_finite(self._masks), pushed, repeated)
            self._masks = _where(valid, pushed, self._masks)
        return valid, _where(_finite(self._masks), self._masks, torch.full_like(repeated, -1.0))

    def clear(self) -> None:
        self._masks = None


def _finite(masks: Tensor) -> Tensor:
    """bool (B,): which samples of (B, F, h, w) are finite throughout."""
    return masks.isfinite().flatten(1).all(dim=1)


def _where(samples: Tensor, masks: Tensor, others: Tensor) -> Tensor:
    """masks (B, F, h, w) for the samples marked in (B,), others elsewhere."""
    return torch.where(samples[:, None, None, None], masks, others)
