"""The prediction-aware router of RDS: one small network that plans a whole encoder pass.

Y = alpha f(M) + g(X), l = phi(Y), p = sigmoid(l), w = min(beta L p / sum p, 1) (Algorithm 1), from
the mask M of the previous frame and the patch embedding X of the current one. What the paper leaves
open (widths, convolutions, alpha) follows the candidates of our notes, see docs/method/rds.md.

B batch, h x w grid of the patch embedding, C its channels, L encoder blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tempomask.errors import InputError
from tempomask.models.encoder import Encoder, KeepPlan, Plan, Policy, RoutedBlock, always_on_blocks
from tempomask.routing.budget import TopK, unclipped_weights

RouterInputs = Literal["both", "mask", "image"]
# Kernels of mask embeddings whose patches overlap, by stride; as in SAM 2's patch embedding.
OVERLAP = {4: 7}


@dataclass(frozen=True)
class RouterConfig:
    """num_blocks, channels, mask_stride, always_on: of the encoder, see `for_encoder`.

    hidden: channels of Y and of the convolutions. inputs: of the ablation, "both" in the paper.
    mask_frames: how many previous masks are seen, 1 in the paper and 4 in its ablation.
    """

    num_blocks: int
    channels: int
    mask_stride: int
    always_on: tuple[int, ...]
    hidden: int = 32
    inputs: RouterInputs = "both"
    mask_frames: int = 1

    def __post_init__(self) -> None:
        if self.inputs not in ("both", "mask", "image"):
            raise InputError(f"router inputs must be both, mask or image, got {self.inputs!r}")
        if self.mask_frames < 1:
            raise InputError(f"mask_frames must be 1 or more, got {self.mask_frames}")

    @staticmethod
    def for_encoder(
        encoder: Encoder, inputs: RouterInputs = "both", mask_frames: int = 1
    ) -> RouterConfig:
        """The configuration that fits an encoder; K comes from its contract."""
        return RouterConfig(
            num_blocks=encoder.num_blocks,
            channels=encoder.patch_channels,
            mask_stride=encoder.patch_stride,
            always_on=always_on_blocks(encoder),
            inputs=inputs,
            mask_frames=mask_frames,
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
        # p near 1/2 everywhere at first: every block is as likely as any other.
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def forward(self, embedding: Tensor, masks: Tensor) -> Tensor:
        """embedding (B, h, w, C); masks (B, F, h', w') logits, newest first: (B, L) logits."""
        fused = self._fused(embedding, masks)
        pooled = F.gelu(self.mix(F.gelu(self.reduce(fused)))).mean(dim=(2, 3))
        return self.head(F.gelu(self.expand(pooled))).float()

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


class MaskHistory:
    """The last usable masks of a video or clip, newest first; the oldest stands in for missing.

    A sample's mask is usable if all of it is finite.
    """

    def __init__(self, frames: int) -> None:
        self._frames = frames
        self._masks: Tensor | None = None

    def push(self, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Take in (B, 1, h, w): which samples (B,) are usable; the last masks (B, frames, h, w).

        Samples that had no usable mask yet have empty ones. Another B begins anew.
        """
        valid = _finite(masks)
        repeated = masks.expand(-1, self._frames, -1, -1)
        if self._frames == 1 or self._masks is None or len(self._masks) != len(masks):
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


class RoutedPlan:
    """Routes every sample by itself: a block runs on the samples that want it, and on no others.

    keep: (B, L). weights: w (B, L) with gradients in training, or None. The block's output is then
    r h(x) + (1 - r) x with r in value and w in gradient (straight-through). missed: compute h(x)
    where r is 0 too, for the gradient of w alone: there a trained network tells what the block is
    worth, while its loss is stationary where the block runs. Without it a block that no sample
    wants is not computed.
    """

    def __init__(
        self, keep: list[list[bool]], weights: Tensor | None = None, missed: bool = False
    ) -> None:
        self.keep, self._weights, self._learns_missed = keep, weights, missed

    def apply(self, index: int, block: RoutedBlock, x: Tensor) -> Tensor:
        rows = [row for row, kept in enumerate(self.keep) if kept[index]]
        skipped = [row for row, kept in enumerate(self.keep) if not kept[index]]
        if not skipped:
            return self._straight_through(index, None, x, block(x))
        if self._weights is not None and self._learns_missed:
            x = self._missed(index, torch.tensor(skipped, device=x.device), block, x)
        if not rows:
            return x
        chosen = torch.tensor(rows, device=x.device)
        inputs = x.index_select(0, chosen)
        outputs = self._straight_through(index, chosen, inputs, block(inputs))
        return x.to(outputs.dtype).index_copy(0, chosen, outputs)

    def _missed(self, index: int, skipped: Tensor, block: RoutedBlock, x: Tensor) -> Tensor:
        """x, unchanged in value, with the gradient of w on the samples that skip the block."""
        assert self._weights is not None
        inputs = x.index_select(0, skipped)
        with torch.no_grad():
            change = block(inputs) - inputs
        weights = self._weights[:, index].index_select(0, skipped)
        step = (weights - weights.detach()).to(x.dtype)[:, None, None, None]
        return x.index_copy(0, skipped, inputs + step * change.to(x.dtype))

    def _straight_through(
        self, index: int, chosen: Tensor | None, inputs: Tensor, outputs: Tensor
    ) -> Tensor:
        if self._weights is None or inputs.shape != outputs.shape:
            return outputs
        weights = self._weights[:, index]
        if chosen is not None:
            weights = weights.index_select(0, chosen)
        # r - 1: zero in value, so that the output is exactly the block's.
        step = (weights - weights.detach()).to(outputs.dtype)[:, None, None, None]
        return outputs + step * (outputs - inputs)

    @property
    def blocks(self) -> Tensor:
        return torch.tensor(self.keep)


class SamplingPolicy(nn.Module, Policy):
    """The router in training: Bernoulli draws with probability w, at a fixed budget.

    settled: choose as in use instead, the blocks of largest w. missed: as of `RoutedPlan`. Draws
    come from a generator of its own, see `reseed`, on the CPU, so that they are the same on every
    machine. A pass without previous masks runs all blocks and begins a new clip; a sample whose
    mask or embedding is not finite runs all blocks. In evaluation mode `TopK` holds the budget.
    """

    recurrent = True

    def __init__(self, router: PredictiveRouter, budget: float, missed: bool = False) -> None:
        super().__init__()
        self.router, self.budget, self.settled = router, budget, False
        self._learns_missed = missed
        self._generator = torch.Generator()
        self._history = MaskHistory(router.config.mask_frames)

    def reseed(self, seed: int) -> None:
        """Start the draws anew."""
        self._generator.manual_seed(seed)

    def plan(self, embedding: Tensor, previous_masks: Tensor | None) -> Plan:
        config = self.router.config
        if previous_masks is None:
            self._history.clear()
            return KeepPlan([True] * config.num_blocks)
        valid, masks = self._history.push(previous_masks.detach())
        wanted = unclipped_weights(self.router(embedding, masks).sigmoid(), self.budget)
        valid = valid & wanted.detach().isfinite().all(dim=1)
        # The one transfer of this pass.
        known = torch.where(valid[:, None], wanted.detach(), torch.inf).cpu()
        kept = self._drawn(known) if self.training and not self.settled else self._ranked(known)
        if not (self.training and torch.is_grad_enabled()):
            return RoutedPlan(kept)
        # Blocks of K always run: what their w is must not be learnt.
        core = torch.zeros(config.num_blocks, dtype=torch.bool, device=wanted.device)
        core[list(config.always_on)] = True
        weights = wanted.clamp(max=1.0)
        weights = torch.where(core, weights.detach(), weights)
        return RoutedPlan(kept, weights, self._learns_missed)

    def _drawn(self, weights: Tensor) -> list[list[bool]]:
        kept = torch.rand(weights.shape, generator=self._generator) < weights
        kept[:, list(self.router.config.always_on)] = True
        return kept.tolist()

    def _ranked(self, weights: Tensor) -> list[list[bool]]:
        # An unusable sample has infinite weights, and then nothing is ranked.
        rule, core = TopK(), self.router.config.always_on
        rows = zip(weights, weights.isfinite().all(dim=1), strict=True)
        return [rule.keep(w, core, self.budget if ranked else 1.0) for w, ranked in rows]
