"""Frozen norms folded into the layers before them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tempomask.ops.layers import ConvolutionNorm, FrozenBatchNorm

# Of torch's batch norm, which `FrozenBatchNorm` calls.
EPSILON = 1e-5


def fold_norms(module: nn.Module) -> None:
    """Put one convolution with a bias in the place of each convolution with a frozen norm."""
    for name, child in module.named_children():
        if isinstance(child, ConvolutionNorm):
            setattr(module, name, folded(child))
        else:
            fold_norms(child)


@torch.no_grad()
def folded(layer: ConvolutionNorm) -> nn.Conv2d:
    """The layer w (conv(x) - mean) / sqrt(var + eps) + b as one convolution."""
    conv = layer.conv
    weight, bias = folded_weights(conv.weight, layer.norm)
    conv.weight.copy_(weight)
    conv.bias = nn.Parameter(bias, requires_grad=False)
    return conv


def folded_weights(weight: Tensor, norm: FrozenBatchNorm) -> tuple[Tensor, Tensor]:
    """Weight (D, ...) and bias (D,) of a layer of this weight, and of no bias, with its norm."""
    scale = norm.weight * torch.rsqrt(norm.running_var + EPSILON)
    return weight * scale.view(-1, *[1] * (weight.ndim - 1)), norm.bias - norm.running_mean * scale
