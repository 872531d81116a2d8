"""Exchanges parts of a segmenter for faster ones that compute the same function.

A reader of `tempomask.models` sees the equations; what is done for speed alone stands here, one
idea in each file, each tested against the plain part. `docs/performance.md` says what each gave.
"""

from __future__ import annotations

import torch
from torch import nn

from tempomask.engine.fuser import FastFuserBlock
from tempomask.engine.hybrid import FastStem, FastTransformerBlock, can_fuse
from tempomask.engine.malloc_tuning import keep_freed_memory
from tempomask.engine.memory_attention import FastMemoryAttention
from tempomask.engine.neck import FusedNeck
from tempomask.engine.packed import fast_token_linear
from tempomask.engine.repvit import FastRepViT
from tempomask.engine.trunk import FastTrunk
from tempomask.errors import InputError
from tempomask.models.hiera import Hiera
from tempomask.models.hybrid import HybridEncoder, TransformerBlock
from tempomask.models.memory_encoder import FuserBlock
from tempomask.models.neck import FeaturePyramidNeck
from tempomask.models.repvit import RepViT
from tempomask.models.segmenter import Segmenter
from tempomask.models.vit import ViT


def accelerate(segmenter: Segmenter, dtype: torch.dtype = torch.float32) -> Segmenter:
    """Rearrange a segmenter for inference, in place, and return it.

    dtype: of the computation. In bfloat16 or float16 the weights of matrix products are stored so,
    once and for all, instead of being cast at every frame; positions, norms outside the encoder and
    whatever decides a mask stay float32. The result cannot be trained or saved any more.

    Raises InputError for one that is accelerated already, and for forms of its memory attention
    that the engine lacks.
    """
    form = segmenter.config.memory_attention
    if form.linear or form.pooling == "all":
        raise InputError(
            "the fast engine neither attends linearly nor pools all tokens of the memories; load"
            ' with engine="plain"'
        )
    if segmenter.fast:
        raise InputError(
            f"this segmenter of {segmenter.config.name} is accelerated already; use it as it is, or"
            " load another one"
        )
    segmenter.eval().requires_grad_(False)
    segmenter.dtype, segmenter.fast = dtype, True
    keep_freed_memory()
    encoder = segmenter.encoder
    if isinstance(segmenter.neck, FeaturePyramidNeck):
        segmenter.neck = FusedNeck(segmenter.neck, segmenter.mask_decoder, dtype)
        # The fused neck's maps have the decoder's widths already.
        segmenter.mask_decoder.stride_4 = nn.Identity()  # type: ignore[assignment]
        segmenter.mask_decoder.stride_8 = nn.Identity()  # type: ignore[assignment]
    if isinstance(encoder, (Hiera, ViT)):
        segmenter.encoder = FastTrunk(encoder, segmenter.config.image_size, dtype)
    elif isinstance(encoder, RepViT):
        segmenter.encoder = FastRepViT(encoder, dtype)
    elif isinstance(encoder, HybridEncoder):
        if can_fuse(encoder.stem.first.weight, dtype):
            encoder.stem = FastStem(encoder.stem, dtype)
        for index, block in enumerate(encoder.blocks):
            if isinstance(block, TransformerBlock):
                encoder.blocks[index] = FastTransformerBlock(block, dtype)
    attention, config = segmenter.memory_attention, segmenter.config
    segmenter.memory_attention = FastMemoryAttention(attention, config, dtype)
    fuser = segmenter.memory_encoder.fuser
    for index, block in enumerate(fuser):
        if isinstance(block, FuserBlock):
            fuser[index] = FastFuserBlock(block, dtype)
    for module in (
        *segmenter.mask_decoder.modules(),
        *segmenter.object_pointer_projection.modules(),
    ):
        for name, layer in module.named_children():
            module._modules[name] = fast_token_linear(layer, dtype)
    if dtype != torch.float32:
        _store_weights(segmenter, dtype)
    return segmenter


def _store_weights(segmenter: Segmenter, dtype: torch.dtype) -> None:
    """Store the weights of linear and convolution layers in the type they are used in."""
    for module in segmenter.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            module.to(dtype)
