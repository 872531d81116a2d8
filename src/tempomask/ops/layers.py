"""Layers that several networks share: norms of maps, SAM's multi-layer perceptron."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def learned(*shape: int) -> nn.Parameter:
    """A learned embedding of the given shape, small and random at first.

    Unlike torch.randn, this drawing is cheap on the meta device, where weights are loaded.
    """
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(shape), std=0.02))


class LayerNorm2d(nn.Module):
    """Layer norm over the channels of a (B, C, H, W) map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        x = F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, 1e-6)
        return x.permute(0, 3, 1, 2)


class FrozenBatchNorm(nn.Module):
    """Batch norm with constant statistics and constant scale: (B, C, H, W) to the same."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias)


class ConvolutionNorm(nn.Module):
    """Convolution without bias, then the frozen norm."""

    def __init__(
        self, channels: int, output: int, kernel: int, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        padding = kernel // 2
        self.conv = nn.Conv2d(channels, output, kernel, stride, padding, groups=groups, bias=False)
        self.norm = FrozenBatchNorm(output)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class MLP(nn.Module):
    """Linear layers with ReLU between them; optionally a sigmoid at the end."""

    def __init__(
        self, dim: int, hidden: int, output: int, layers: int, sigmoid: bool = False
    ) -> None:
        super().__init__()
        sizes = [dim, *[hidden] * (layers - 1), output]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:], strict=False))
        self.sigmoid = sigmoid

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        x = self.layers[-1](x)
        return x.sigmoid() if self.sigmoid else x
