"""Exchanges parts of an instance segmenter for faster ones that compute the same function.

Frozen norms are folded into their convolutions, linear layers are packed as the CPU's matrix units
read them, and the weights of matrix products are stored in the type they are used in.
`docs/performance.md` says what each gave.
"""

from __future__ import annotations

import torch
from torch import nn

from tempomask.engine.malloc_tuning import keep_freed_memory
from tempomask.engine.packed import fast_linear
from tempomask.models.instances.attention import MultiheadAttention
from tempomask.models.instances.resnet import ConvolutionNorm
from tempomask.models.instances.segmenter import InstanceSegmenter

# Of torch's batch norm, which `FrozenBatchNorm` calls.
EPSILON = 1e-5


def accelerate_instances(
    segmenter: InstanceSegmenter, dtype: torch.dtype = torch.float32
) -> InstanceSegmenter:
    """Rearrange an instance segmenter for inference, in place, and return it.

    dtype: of the computation. The result cannot be trained or saved any more.
    """
    segmenter.eval().requires_grad_(False)
    keep_freed_memory()
    fold_norms(segmenter)
    if dtype != torch.float32:
        _store_weights(segmenter, dtype)
    return segmenter


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
    conv, norm = layer.conv, layer.norm
    scale = norm.weight * torch.rsqrt(norm.running_var + EPSILON)
    conv.weight.mul_(scale[:, None, None, None])
    conv.bias = nn.Parameter(norm.bias - norm.running_mean * scale, requires_grad=False)
    return conv


def _store_weights(segmenter: InstanceSegmenter, dtype: torch.dtype) -> None:
    """What autocast would do at every frame; convolutions also channels last."""
    for module in list(segmenter.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                child.to(dtype)
                setattr(module, name, fast_linear(child, dtype))
            elif isinstance(child, nn.Conv2d):
                child.to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if isinstance(module, MultiheadAttention):
            module.input_weight.data = module.input_weight.data.to(dtype)
