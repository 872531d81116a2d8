"""nano's encoder for inference: stem and transformer blocks with packed weights.

The plain stem clamps to [0, 6] in a pass of its own, reorders its weights at every call, and copies
a map to pad it where SAME padding is uneven: a stride of 2 pads one pixel more at the end. A row
and a column of zeros before the kernel make that padding even, and the sum is the same. Rotations
of the blocks are products of complex numbers, one for each pair of channels. bfloat16 has none, and
takes two multiplications, as in `engine.memory_attention`: W x and its turned twin come out of one
product.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tempomask.engine.packed import and_turned, fast_linear, has_onednn, in_parts, stacked
from tempomask.models.encoder import RoutedBlock
from tempomask.models.hybrid import (
    ConvolutionalStem,
    InvertedResidual,
    SameConv2d,
    TransformerBlock,
)
from tempomask.ops.attention import multi_head_attention


def can_fuse(weight: Tensor, dtype: torch.dtype) -> bool:
    """Whether oneDNN has such convolutions: on a CPU, in a type that it computes there."""
    return has_onednn(weight, dtype, ("_convolution_pointwise", "_reorder_convolution_weight"))


class FusedConvolution(nn.Module):
    """A convolution and, if clamped, ReLU6; fit for inference only.

    A strided `SameConv2d` wants maps of an even height and width, as all are in the stem.
    """

    def __init__(self, layer: nn.Conv2d, dtype: torch.dtype, clamped: bool) -> None:
        super().__init__()
        weight = layer.weight.detach().to(dtype)
        before, stride = layer.kernel_size[0] // 2, layer.stride[0]
        if isinstance(layer, SameConv2d) and stride == 2:
            weight = F.pad(weight, (1, 0, 1, 0))
        elif not isinstance(layer, SameConv2d):
            before = 0
        self.geometry = ([before] * 2, [stride] * 2, [1, 1], layer.groups)
        # Opaque to torch: no buffer, as it can be neither moved nor saved as it is. Those of 1x1
        # kernels stay plain: packed, they suit maps of one size, and others take several times as
        # long.
        self.weight = weight.clone() if layer.kernel_size == (1, 1) else self._packed(weight)
        self.bias = None if layer.bias is None else layer.bias.detach().to(dtype)
        self.activation = ("hardtanh", [0.0, 6.0], "") if clamped else ("none", [], "")

    def _packed(self, weight: Tensor) -> Tensor:
        return torch.ops.mkldnn._reorder_convolution_weight(weight, *self.geometry, None)

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles, with the weight as it was before it was packed."""
        weight = self.weight.to_dense() if self.weight.is_mkldnn else self.weight
        return {**self.__dict__, "weight": weight, "was_packed": self.weight.is_mkldnn}

    def __setstate__(self, state: dict[str, Any]) -> None:
        was_packed = state.pop("was_packed")
        super().__setstate__(state)
        if was_packed:
            self.weight = self._packed(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x (B, C, h, w), of the type of the weights."""
        convolve = torch.ops.mkldnn._convolution_pointwise.default
        return convolve(x, self.weight, self.bias, *self.geometry, *self.activation)


class FusedResidual(nn.Module):
    """The same function as the `InvertedResidual` it is made of."""

    def __init__(self, plain: InvertedResidual, dtype: torch.dtype) -> None:
        super().__init__()
        self.residual = plain.residual
        layers = [(plain.expand, True), (plain.depthwise, True), (plain.project, False)]
        self.layers = nn.Sequential(
            *(FusedConvolution(x, dtype, clamped) for x, clamped in layers if x is not None)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, C, h, w) as the plain block does."""
        y = self.layers(x)
        return y.add_(x) if self.residual else y


class FastStem(ConvolutionalStem):
    """The same function as the `ConvolutionalStem` it is made of."""

    def __init__(self, plain: ConvolutionalStem, dtype: torch.dtype) -> None:
        nn.Module.__init__(self)
        self.dtype, self.channels = dtype, plain.channels
        self.first = FusedConvolution(plain.first, dtype, clamped=True)  # type: ignore[assignment]
        self.stages = nn.ModuleList(
            nn.Sequential(*(FusedResidual(block, dtype) for block in stage))  # type: ignore[arg-type]
            for stage in plain.stages
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """Maps of an image (B, 3, S, S), S even down to stride 16; see `ConvolutionalStem`."""
        return self.maps(self.first(image.to(self.dtype)))


class FastTransformerBlock(RoutedBlock):
    """The same function as the `TransformerBlock` it is made of."""

    def __init__(self, plain: TransformerBlock, dtype: torch.dtype) -> None:
        super().__init__()
        layer = plain.qkv
        self.as_complex = dtype == torch.float32 and in_parts(layer.weight)
        if not self.as_complex:
            parts = zip(layer.weight.data.chunk(3), layer.bias.data.chunk(3), strict=True)
            query, key, value = parts
            layer = stacked(*and_turned(*query), *and_turned(*key), value)
        self.qkv = fast_linear(layer, dtype)
        self.plain, self.dtype, self.num_heads = plain, dtype, plain.num_heads
        self.output = fast_linear(plain.output, dtype)
        self.expand = fast_linear(plain.expand, dtype, "gelu")
        self.contract = fast_linear(plain.contract, dtype)
        self._tables: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def attend(self, x: Tensor) -> Tensor:
        """Map x (B, h, w, C) to the same shape."""
        batch, height, width, _ = x.shape
        parts = self.qkv(self.plain.attention_norm(x))
        count = 3 if self.as_complex else 5
        parts = parts.reshape(batch, height * width, count, self.num_heads, -1)
        cosine, sine = self._table(height, width, parts.shape[-1], x.device)
        if self.as_complex:
            pairs = torch.view_as_complex(parts[:, :, :2].unflatten(-1, (-1, 2)))
            turned = torch.view_as_real(pairs * torch.complex(cosine, sine)).flatten(-2)
            query, key = turned.permute(2, 0, 3, 1, 4)
            value = parts[:, :, 2].transpose(1, 2)
        else:
            query, query_turned, key, key_turned, value = parts.permute(2, 0, 3, 1, 4)
            query = (query * cosine).addcmul_(query_turned, sine)
            key = (key * cosine).addcmul_(key_turned, sine)
        attended = multi_head_attention(query, key, value)
        return x + self.output(attended.transpose(1, 2).reshape(batch, height, width, -1))

    def _table(
        self, height: int, width: int, head_dim: int, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Cosine and sine, each (hw, head_dim), or (heads, hw, head_dim) where heads differ.

        As complex numbers they are (hw, 1, 1 or heads, head_dim / 2).
        """
        if (height, width) not in self._tables:
            cosine, sine = self.plain.rotations(height, width, head_dim, device)
            if self.as_complex:
                made = [x.view(-1, *x.shape[-2:]).transpose(0, 1)[:, None] for x in (cosine, sine)]
            else:
                made = [x.repeat_interleave(2, dim=-1).to(self.dtype) for x in (cosine, sine)]
            self._tables[height, width] = (made[0], made[1])
        return self._tables[height, width]

    def feed_forward(self, x: Tensor) -> Tensor:
        """Map x (B, h, w, C) to the same shape."""
        return x + self.contract(self.expand(self.plain.mlp_norm(x)))
