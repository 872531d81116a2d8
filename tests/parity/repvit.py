"""RepViT-M1 written from its paper (arXiv 2307.09283) in the plainest way, with timm's names.

Once compared with timm 1.0.31's `repvit_m1` on random weights: features equal to 1e-5, names equal.
"""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConvNorm(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__()
        padding = (kernel - 1) // 2
        self.c = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.c(x))


class Pair(nn.Module):
    """Two convolutions, which a block adds or applies one after the other."""

    def __init__(self, conv1: nn.Module, conv2: nn.Module, names: tuple[str, str]):
        super().__init__()
        self.names = names
        for name, layer in zip(names, (conv1, conv2), strict=True):
            setattr(self, name, layer)

    def in_row(self, x: Tensor) -> Tensor:
        first, second = (getattr(self, name) for name in self.names)
        return second(F.gelu(first(x)))


def mlp(dim: int) -> Pair:
    return Pair(ConvNorm(dim, 2 * dim, 1), ConvNorm(2 * dim, dim, 1), ("conv1", "conv2"))


class Block(nn.Module):
    def __init__(self, dim: int, excite: bool):
        super().__init__()
        convolutions = ConvNorm(dim, dim, 3, groups=dim), ConvNorm(dim, dim, 1, groups=dim)
        self.token_mixer = Pair(*convolutions, ("conv", "conv1"))
        if excite:
            narrow = {48: 16, 96: 24, 192: 48, 384: 96}[dim]
            self.se = Pair(nn.Conv2d(dim, narrow, 1), nn.Conv2d(narrow, dim, 1), ("fc1", "fc2"))
        self.excite = excite
        self.channel_mixer = mlp(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.token_mixer.conv(x) + self.token_mixer.conv1(x)
        if self.excite:
            mean = F.adaptive_avg_pool2d(x, 1)
            x = x * torch.sigmoid(self.se.fc2(F.relu(self.se.fc1(mean))))
        return x + self.channel_mixer.in_row(x)


class Downsample(nn.Module):
    def __init__(self, before: int, dim: int):
        super().__init__()
        self.pre_block = Block(before, excite=False)
        self.spatial_downsample = ConvNorm(before, before, 3, 2, groups=before)
        self.channel_downsample = ConvNorm(before, dim, 1)
        self.ffn = mlp(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.channel_downsample(self.spatial_downsample(self.pre_block(x)))
        return x + self.ffn.in_row(x)


class Stage(nn.Module):
    def __init__(self, before: int, dim: int, depth: int):
        super().__init__()
        self.downsample = Downsample(before, dim) if before else nn.Identity()
        self.blocks = nn.Sequential(*(Block(dim, i % 2 == 0) for i in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.downsample(x))


class Body(nn.Module):
    """timm's `repvit_m1` with features_only: maps of strides 4, 8, 16, 32."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Pair(ConvNorm(3, 24, 3, 2), ConvNorm(24, 48, 3, 2), ("conv1", "conv2"))
        before = 0
        for index, (dim, depth) in enumerate(zip((48, 96, 192, 384), (2, 2, 14, 2), strict=True)):
            setattr(self, f"stages_{index}", Stage(before, dim, depth))
            before = dim

    def forward(self, image: Tensor) -> list[Tensor]:
        x, maps = self.stem.in_row(image), []
        for index in range(4):
            x = getattr(self, f"stages_{index}")(x)
            maps.append(x)
        return maps


class Backbone(nn.Module):
    """The body as transformers' wrapper of timm's models."""

    def __init__(self) -> None:
        super().__init__()
        self.timm_model = Body()

    def forward(self, pixel_values: Tensor) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=self.timm_model(pixel_values), hidden_states=None)


@torch.no_grad()
def randomise(body: nn.Module) -> None:
    """Norms whose statistics and scales all matter; activations stay near unit scale."""
    generator = torch.Generator().manual_seed(5)
    for module in body.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight, 0.3, 0.7),
                (module.bias, -0.2, 0.2),
                (module.running_mean, -0.3, 0.3),
                (module.running_var, 0.5, 2.0),
            ):
                tensor.uniform_(low, high, generator=generator)
        elif isinstance(module, nn.Conv2d):
            fan_in = module.weight[0].numel()
            module.weight.normal_(0, fan_in**-0.5, generator=generator)
