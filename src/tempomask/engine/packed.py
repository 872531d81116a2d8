"""Linear layers whose weights lie as the CPU's matrix units read them, with bias and GELU fused.

A plain bfloat16 linear layer on a CPU first copies its bias over the whole output, and GELU is
another pass over it; oneDNN does both while the product is still in registers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def can_pack(layer: nn.Linear, dtype: torch.dtype) -> bool:
    """Whether oneDNN has a packed form: bfloat16 on a CPU that computes it, if torch offers it."""
    return (
        dtype == torch.bfloat16
        and layer.weight.device.type == "cpu"
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


class PackedLinear(nn.Module):
    """gelu(x W^T + b), or without the GELU, in bfloat16; fit for inference only."""

    def __init__(self, layer: nn.Linear, gelu: bool = False) -> None:
        super().__init__()
        weight = layer.weight.detach().to(torch.bfloat16)
        self.in_features, self.out_features, self.gelu = layer.in_features, layer.out_features, gelu
        # Opaque to torch: no buffer, as it can be neither moved nor saved.
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
        self.bias = None if layer.bias is None else layer.bias.detach().to(torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in_features): (..., out_features), bfloat16."""
        activation = ("gelu", [], "none") if self.gelu else ("none", [], "")
        return torch.ops.mkldnn._linear_pointwise(
            x.to(torch.bfloat16), self.packed, self.bias, *activation
        )


class LinearGelu(nn.Module):
    """A linear layer and GELU, in place, where nothing can be packed."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in_features): (..., out_features)."""
        # A fresh hidden layer would cost more than the function itself.
        return torch.ops.aten.gelu_(F.linear(x, self.layer.weight, self.layer.bias))


def fast_linear(layer: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The layer itself, or its packed form where there is one."""
    if isinstance(layer, nn.Linear) and can_pack(layer, dtype):
        return PackedLinear(layer)
    return layer


def fast_linear_gelu(layer: nn.Linear, dtype: torch.dtype) -> nn.Module:
    """The layer followed by GELU."""
    return PackedLinear(layer, gelu=True) if can_pack(layer, dtype) else LinearGelu(layer)


def turned(weight: Tensor) -> Tensor:
    """W' (rows exchanged in pairs, the first of each pair negated) of W (D, ...)."""
    even, odd = weight.unflatten(0, (-1, 2)).unbind(1)
    return torch.stack([-odd, even], dim=1).flatten(0, 1)


def stacked(*layers: tuple[Tensor, Tensor | None]) -> nn.Linear:
    """One linear layer that gives the outputs of several, side by side."""
    weights = [weight for weight, _ in layers]
    biases = [w.new_zeros(len(w)) if bias is None else bias for w, bias in layers]
    layer = nn.Linear(weights[0].shape[1], sum(len(w) for w in weights))
    with torch.no_grad():
        layer.weight.copy_(torch.cat(weights))
        layer.bias.copy_(torch.cat(biases))
    return layer.to(weights[0].device)
