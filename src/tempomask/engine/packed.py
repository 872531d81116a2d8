"""Linear layers with weights as the CPU's matrix units read them, bias and activation fused.

A plain bfloat16 linear layer on a CPU first copies its bias over the whole output, and GELU is
another pass over it; oneDNN does both while the product is still in registers. In float32 it
depends on the CPU whether that is faster, and is measured (`engine.choose`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tempomask.engine.choose import fastest

Activation = Literal["none", "gelu", "relu"]


def can_pack(layer: nn.Linear, dtype: torch.dtype) -> bool:
    """Whether oneDNN has a packed form, if torch offers it; in float32 only where it is faster."""
    operations = ("_linear_pointwise", "_reorder_linear_weight")
    if not has_onednn(layer.weight, dtype, operations):
        return False
    return dtype == torch.bfloat16 or _packs_float32()


def has_onednn(weight: Tensor, dtype: torch.dtype, operations: tuple[str, ...]) -> bool:
    """Whether torch offers oneDNN's operations where a weight is, in float32 or bfloat16."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if not all(hasattr(torch.ops.mkldnn, name) for name in operations):
        return False
    if dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return dtype == torch.float32


@cache
def _packs_float32() -> bool:
    """Whether packed layers are faster in float32, on the shapes of SAM 2's blocks."""

    def ways() -> dict[str, Callable[[], object]]:
        layers, inputs = [nn.Linear(96, 384), nn.Linear(256, 1024)], (2048, 1024)
        plain = [LinearInPlace(layer, "gelu") for layer in layers]
        packed = [PackedLinear(layer, torch.float32, "gelu") for layer in layers]
        x = [torch.randn(n, layer.in_features) for n, layer in zip(inputs, layers, strict=True)]
        return {
            "torch": lambda: [layer(y) for layer, y in zip(plain, x, strict=True)],
            "packed": lambda: [layer(y) for layer, y in zip(packed, x, strict=True)],
        }

    return fastest("float32 linear layers", ways) == "packed"


def in_parts(x: Tensor) -> bool:
    """Whether parts of x that fit the cache are faster: on a CPU; elsewhere they are more calls."""
    return x.device.type == "cpu"


class PackedLinear(nn.Module):
    """activation(x W^T + b) in bfloat16 or float32; fit for inference only."""

    def __init__(
        self, layer: nn.Linear, dtype: torch.dtype, activation: Activation = "none"
    ) -> None:
        super().__init__()
        weight = layer.weight.detach().to(dtype)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.dtype, self.activation = dtype, activation
        # Opaque to torch: no buffer, as it can be neither moved nor saved as it is.
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
        self.bias = None if layer.bias is None else layer.bias.detach().to(dtype)

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles, with the weight as it was before it was packed."""
        return {**self.__dict__, "packed": self.packed.to_dense()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.packed = torch.ops.mkldnn._reorder_linear_weight(self.packed)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., in_features) to (..., out_features), of the layer's type."""
        # The last is GELU's form: exact, not by tanh.
        form = "none" if self.activation == "gelu" else ""
        return torch.ops.mkldnn._linear_pointwise(
            x.to(self.dtype), self.packed, self.bias, self.activation, [], form
        )


class LinearInPlace(nn.Module):
    """A linear layer and its activation, in place, where nothing can be packed."""

    def __init__(self, layer: nn.Linear, activation: Activation) -> None:
        super().__init__()
        self.layer, self.activation = layer, activation

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., in_features) to (..., out_features)."""
        x = F.linear(x, self.layer.weight, self.layer.bias)
        # A fresh hidden layer would cost more than the function itself.
        return torch.relu_(x) if self.activation == "relu" else torch.ops.aten.gelu_(x)


def fast_linear(layer: nn.Module, dtype: torch.dtype, activation: Activation = "none") -> nn.Module:
    """The layer followed by the activation, packed where that can be done."""
    if isinstance(layer, nn.Linear):
        if can_pack(layer, dtype):
            return PackedLinear(layer, dtype, activation)
        if activation != "none":
            return LinearInPlace(layer, activation)
    return layer


class FewTokensLinear(nn.Module):
    """A linear layer that a few tokens pass in float32, which is exact and, for them, faster.

    A packed product takes longer to begin than a float32 product of so few rows takes in all.
    """

    # Beyond so many tokens, or weights, the packed product is faster.
    TOKENS, WEIGHTS = 16, 2**17

    def __init__(self, layer: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__()
        self.layer = fast_linear(layer, dtype)
        # Copies, as the layer's own may be stored in another type.
        self.weight = layer.weight.detach().float().T.clone()
        bias = layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias
        self.bias = bias.detach().float().clone()

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., in_features) to (..., out_features), float32 for a few tokens."""
        tokens = x.shape[:-1].numel()
        if tokens > self.TOKENS:
            return self.layer(x)
        # Written to a given place: autocast leaves such a product as it is.
        out = x.new_empty((tokens, len(self.bias)), dtype=torch.float32)
        rows = x.reshape(tokens, -1).float()
        return torch.addmm(self.bias, rows, self.weight, out=out).view(*x.shape[:-1], -1)


def fast_token_linear(layer: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The layer for inputs of few tokens as well as many."""
    if not isinstance(layer, nn.Linear) or not can_pack(layer, dtype):
        return layer
    few = layer.weight.numel() <= FewTokensLinear.WEIGHTS
    return FewTokensLinear(layer, dtype) if few else fast_linear(layer, dtype)


def turned(weight: Tensor) -> Tensor:
    """W' (rows exchanged in pairs, the first of each pair negated) of W (D, ...)."""
    even, odd = weight.unflatten(0, (-1, 2)).unbind(1)
    return torch.stack([-odd, even], dim=1).flatten(0, 1)


def and_turned(weight: Tensor, bias: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Weight and bias of a layer, and of its turned twin."""
    return [(weight, bias), (turned(weight), turned(bias))]


def linear_of(weight: Tensor, bias: Tensor) -> nn.Linear:
    """A linear layer with this weight and bias."""
    layer = nn.Linear(weight.shape[1], len(weight), device=weight.device, dtype=weight.dtype)
    layer.weight.data, layer.bias.data = weight.detach(), bias.detach()
    return layer


def composed(first: nn.Linear, second: nn.Linear) -> nn.Linear:
    """second(first(x)) as one layer; multiplied in float64, as the product is rounded once."""
    a, b = first.weight.double(), second.weight.double()
    bias = b @ first.bias.double() + second.bias.double()
    return linear_of((b @ a).float(), bias.float())


def stacked(*layers: tuple[Tensor, Tensor]) -> nn.Linear:
    """One linear layer that gives the outputs of several, side by side."""
    weights, biases = zip(*layers, strict=True)
    return linear_of(torch.cat(weights), torch.cat(biases))
