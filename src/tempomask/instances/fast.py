"""Exchanges parts of an instance segmenter for faster ones that compute the same function.

Frozen norms are folded into their convolutions, linear layers are packed as the CPU's matrix units
read them, and the weights of matrix products are stored in the type they are used in.
`docs/performance.md` says what each gave.
"""

from __future__ import annotations

import torch
from torch import nn

from tempomask.engine.folded import fold_norms
from tempomask.engine.malloc_tuning import keep_freed_memory
from tempomask.engine.packed import fast_linear
from tempomask.models.instances.attention import MultiheadAttention
from tempomask.models.instances.segmenter import InstanceSegmenter


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
