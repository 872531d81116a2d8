"""SAM 2's mask decoder: masks, predicted IoU, object score and tokens (arXiv 2408.00714).

N objects, M mask tokens (one single-mask token, then the multimask tokens), C hidden_dim.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tempomask.models.config import MaskDecoderConfig
from tempomask.models.two_way import TwoWayTransformer
from tempomask.ops.layers import MLP, LayerNorm2d, learned


class MaskProposals(NamedTuple):
    """logits (N, M, 4h, 4w), iou (N, M) in [0, 1], tokens (N, M, C), object_score (N,) logits."""

    logits: Tensor
    iou: Tensor
    tokens: Tensor
    object_score: Tensor


class MaskDecoder(nn.Module):
    """Token order: object score, IoU, single mask, multimasks, prompts."""

    def __init__(self, config: MaskDecoderConfig, dim: int, high_resolution: bool) -> None:
        super().__init__()
        self.num_masks = config.num_multimasks + 1
        self.object_score_token = learned(1, dim)
        self.iou_token = learned(1, dim)
        self.mask_tokens = learned(self.num_masks, dim)
        self.transformer = TwoWayTransformer(
            config.depth, dim, config.num_heads, config.feedforward_dim
        )
        self.upscale_8 = nn.ConvTranspose2d(dim, dim // 4, 2, stride=2)
        self.upscale_norm = LayerNorm2d(dim // 4)
        self.upscale_4 = nn.ConvTranspose2d(dim // 4, dim // 8, 2, stride=2)
        if high_resolution:
            self.stride_4 = nn.Conv2d(dim, dim // 8, 1)
            self.stride_8 = nn.Conv2d(dim, dim // 4, 1)
        self.mask_heads = nn.ModuleList(
            MLP(dim, dim, dim // 8, layers=3) for _ in range(self.num_masks)
        )
        self.iou_head = MLP(dim, config.iou_hidden_dim, self.num_masks, layers=3, sigmoid=True)
        self.object_score_head = MLP(dim, dim, 1, layers=3)

    def project_high_resolution(self, stride_4: Tensor, stride_8: Tensor) -> tuple[Tensor, Tensor]:
        """Neck maps (B, C, ., .) to decoder widths; part of the encoder pass, once a frame."""
        return self.stride_4(stride_4), self.stride_8(stride_8)

    def upscale(self, image: Tensor, high_resolution: tuple[Tensor, ...]) -> Tensor:
        """An image (N, C, h, w) to (N, C/8, 4h, 4w), with the frame's finer features if any."""
        x = self.upscale_8(image)
        if high_resolution:
            stride_4, stride_8 = high_resolution
            x = F.gelu(self.upscale_norm(x + stride_8))
            return F.gelu(self.upscale_4(x) + stride_4)
        return F.gelu(self.upscale_4(F.gelu(self.upscale_norm(x))))

    def forward(
        self,
        image: Tensor,
        position: Tensor,
        prompts: Tensor,
        high_resolution: tuple[Tensor, ...],
        absent: Tensor | None = None,
    ) -> MaskProposals:
        """Decode all masks.

        image (N, C, h, w) with the dense prompt added, position (1, C, h, w), prompts (N, P, C),
        high_resolution: () or the stride-4 and stride-8 maps (B or N, ., ., .). absent (N, P) bool:
        prompts that are not there, so that their number is always the same.
        """
        own = torch.cat([self.object_score_token, self.iou_token, self.mask_tokens])
        tokens = torch.cat([own.expand(prompts.shape[0], -1, -1), prompts.to(own.dtype)], dim=1)
        mask = None
        if absent is not None:
            mask = tokens.new_zeros(absent.shape).masked_fill(absent, -torch.inf)
            mask = F.pad(mask, (len(own), 0))[:, None, None]
        tokens, features = self.transformer(image, position, tokens, mask)
        features = features.transpose(1, 2).reshape(image.shape)
        upscaled = self.upscale(features, high_resolution)
        mask_tokens = tokens[:, 2 : 2 + self.num_masks]
        weights = torch.stack(
            [head(mask_tokens[:, i]) for i, head in enumerate(self.mask_heads)], dim=1
        )
        logits = (weights @ upscaled.flatten(2)).unflatten(2, upscaled.shape[2:])
        return MaskProposals(
            logits=logits,
            iou=self.iou_head(tokens[:, 1]),
            tokens=mask_tokens,
            object_score=self.object_score_head(tokens[:, 0])[:, 0],
        )
