"""Trials of nano's stem and of attention in training. See `engine_trials.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy

import torch
from torch import Tensor
from torch.nn import functional as F
from trials import Trial, Way
from trials_of_encoder import QUICK, Shapes

from tempomask.engine.stem import FastStem, FusedConvolution, can_fuse
from tempomask.models.hybrid import ConvolutionalStem
from tempomask.ops.attention import multi_head_attention
from tempomask.weights import load_segmenter

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


def nano_trials(shapes: Shapes, dtype: torch.dtype) -> Iterator[Trial]:
    """All of them."""
    side = 64 if shapes is QUICK else 384
    # Random weights without norms would give numbers so small that they are slow.
    stem = load_segmenter("nano").eval().encoder.stem
    image = torch.randn(1, 3, side, side)
    last = image.contiguous(memory_format=torch.channels_last)
    for kind in dict.fromkeys((torch.float32, dtype)):

        def features(image: Tensor, kind: torch.dtype = kind) -> Tensor:
            with torch.autocast("cpu", kind, enabled=kind != torch.float32):
                return stem(image)[-1]

        yield Trial(
            f"nano's stem, {str(kind).removeprefix('torch.')}",
            f"a resized of {side} x {side}",
            {
                "channels last": lambda features=features: features(last),
                "channels first": lambda features=features: features(image),
            },
        )
        if can_fuse(stem.first.weight, kind):
            # A packed kernel that suits one size of map may not suit another.
            for part in dict.fromkeys((side, 2 * side // 3 // 32 * 32)):
                yield fused_trial(stem, last[..., :part, :part], kind)
    yield from training_trials(shapes, dtype)


def fused_trial(stem: ConvolutionalStem, image: Tensor, kind: torch.dtype) -> Trial:
    """The stem with its activations inside packed convolutions, or apart, as the weights lie."""
    fused, plain = FastStem(stem, kind), deepcopy(stem).to(kind)
    resized, side = image.to(kind, memory_format=torch.channels_last), image.shape[-1]
    ways = {
        "inside packed convolutions": lambda: fused(resized)[-1],
        "apart": lambda: plain(resized)[-1],
    }
    packed = all_packed(stem, kind)
    ways["inside, 1x1 kernels packed too"] = lambda: packed(resized)[-1]
    return Trial(
        f"activations of nano's stem at {side}, {str(kind).removeprefix('torch.')}",
        f"a resized of {side} x {side}",
        ways,
    )


def all_packed(stem: ConvolutionalStem, kind: torch.dtype) -> FastStem:
    """The fast stem with kernels of 1x1 packed as the others are."""
    packed = FastStem(stem, kind)
    for layer in packed.modules():
        if isinstance(layer, FusedConvolution) and layer.weight.layout == torch.strided:
            pack = torch.ops.mkldnn._reorder_convolution_weight
            layer.weight = pack(layer.weight, *layer.geometry, None)
    return packed


def training_trials(shapes: Shapes, dtype: torch.dtype) -> Iterator[Trial]:
    """Attention of nano's blocks, 32 frames of 256 pixels: its backward pass, and the whole."""
    batch, tokens = (2, 16) if shapes is QUICK else (32, 256)
    functions = {"plain products": multi_head_attention, "fused": F.scaled_dot_product_attention}
    where = f"{batch} x 5 heads, {tokens} tokens of 32 channels"

    def drawn() -> list[Tensor]:
        shape = (batch, 5, tokens, 32)
        return [torch.randn(shape, dtype=dtype, requires_grad=True) for _ in range(3)]

    def backward(function: Attention) -> Way:
        inputs = drawn()
        with torch.enable_grad():
            out = function(*inputs)
        return lambda: torch.autograd.grad(out, inputs, weight, retain_graph=True)[0]

    def whole(function: Attention) -> Way:
        inputs = drawn()

        def both() -> Tensor:
            with torch.inference_mode(False), torch.enable_grad():
                return torch.autograd.grad(function(*inputs), inputs, weight)[0]

        return both

    weight = torch.randn(batch, 5, tokens, 32, dtype=dtype)
    for name, make in (("backward pass", backward), ("forward and backward", whole)):
        ways = {}
        for way, function in functions.items():
            torch.manual_seed(1)
            ways[way] = make(function)
        yield Trial(f"attention in training, {name}", where, ways)
