"""DINOv3's image encoder (arXiv 2508.10104): the blocks of transformers' network, routed like ours.

The modules are those of `transformers.DINOv3ViTModel`, taken apart, not written again; the package
is an extra and is imported when a network is built. B batch, H x W image, C channels, P prefix
tokens (class token and registers).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tempomask.errors import InputError
from tempomask.models.encoder import Encoder, EncoderOutput, Policy, RoutedBlock


@dataclass(frozen=True)
class DINOv3Config:
    """One size of DINOv3 (arXiv 2508.10104, table 2).

    gated: SwiGLU instead of a GELU feed-forward. query_value_bias: biases of the two projections;
    keys never have one. rope_theta: base of the rotary periods.
    """

    name: str
    dim: int = 384
    num_heads: int = 6
    depth: int = 12
    feedforward_dim: int = 1536
    gated: bool = False
    query_value_bias: bool = True
    registers: int = 4
    patch_size: int = 16
    rope_theta: float = 100.0

    @property
    def prefix(self) -> int:
        """Tokens before those of the image: the class token and the registers."""
        return 1 + self.registers


# fmt: off
_SIZES = [
    DINOv3Config("dinov3-vits16"),
    DINOv3Config("dinov3-vits16plus", gated=True),
    DINOv3Config("dinov3-vitb16", 768, 12, 12, 3072),
    DINOv3Config("dinov3-vitl16", 1024, 16, 24, 4096),
    DINOv3Config("dinov3-vith16plus", 1280, 20, 32, 5120, gated=True),
    DINOv3Config("dinov3-vit7b16", 4096, 32, 40, 8192, gated=True, query_value_bias=False),
]
# fmt: on
DINOV3_SIZES = {size.name: size for size in _SIZES}


def transformers_config(config: DINOv3Config) -> Any:
    """The same configuration as transformers writes it. InputError without that package."""
    try:
        from transformers import DINOv3ViTConfig
    except ImportError:
        raise InputError(
            "DINOv3 needs transformers (4.57 or newer); pip install 'tempomask[dinov3]'"
        ) from None
    return DINOv3ViTConfig(
        patch_size=config.patch_size,
        hidden_size=config.dim,
        intermediate_size=config.feedforward_dim,
        num_hidden_layers=config.depth,
        num_attention_heads=config.num_heads,
        hidden_act="silu" if config.gated else "gelu",
        use_gated_mlp=config.gated,
        query_bias=config.query_value_bias,
        key_bias=False,
        value_bias=config.query_value_bias,
        num_register_tokens=config.registers,
        rope_theta=config.rope_theta,
        layer_norm_eps=1e-5,
        layerscale_value=1.0,
    )


class RotaryPosition(nn.Module):
    """Cosine and sine of transformers' rotary embedding for a grid, without its augmentation."""

    def __init__(self, rope: Any, patch_size: int) -> None:
        super().__init__()
        self.rope = rope
        self.patch_size = patch_size
        self._last: tuple[tuple[int, int, torch.device], tuple[Tensor, Tensor]] | None = None

    def train(self, mode: bool = True) -> RotaryPosition:
        """The embedding stays in eval mode, where it neither shifts nor scales coordinates."""
        return super().train(False)

    def forward(self, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Two tables (height * width, C / heads), float32; all blocks of a pass share them."""
        key = (height, width, device)
        if self._last is None or self._last[0] != key:
            # Tables must stay usable in training even if first made under inference mode.
            with torch.inference_mode(False), torch.no_grad():
                # Only the shape of this image is read; it takes no memory.
                image = torch.zeros((), device=device).expand(
                    1, 1, height * self.patch_size, width * self.patch_size
                )
                self._last = key, self.rope(image)
        return self._last[1]


class DINOv3Block(RoutedBlock):
    """A layer of transformers' network on maps (B, r + h, w, C).

    The prefix tokens lie at the end of the first r rows, as many as they need; the cells before
    them are padding, which is never attended to.
    """

    attention_layers = tuple(f"layer.attention.{name}_proj" for name in "qkvo")

    def __init__(self, layer: Any, config: DINOv3Config, position: RotaryPosition) -> None:
        super().__init__()
        self.layer = layer
        self.prefix = config.prefix
        # In a tuple, so that the one module is not registered once more for each block.
        self._position = (position,)
        names = ("gate", "up", "down") if config.gated else ("up", "down")
        self.feed_forward_layers = tuple(f"layer.mlp.{name}_proj" for name in names)

    def attend(self, x: Tensor) -> Tensor:
        rows = prefix_rows(self.prefix, x.shape[2])
        table = self._position[0](x.shape[1] - rows, x.shape[2], x.device)
        normed = self.layer.norm1(self._tokens(x))
        attended, _ = self.layer.attention(normed, position_embeddings=table)
        return self._added(x, self.layer.layer_scale1(attended))

    def feed_forward(self, x: Tensor) -> Tensor:
        normed = self.layer.norm2(self._tokens(x))
        return self._added(x, self.layer.layer_scale2(self.layer.mlp(normed)))

    def image_tokens(self, x: Tensor) -> Tensor:
        """The patches, without the prefix."""
        return x[:, prefix_rows(self.prefix, x.shape[2]) :].flatten(1, 2)

    def _tokens(self, x: Tensor) -> Tensor:
        """Tokens (B, P + h w, C): those of the prefix, then those of the image."""
        return x.flatten(1, 2)[:, _padding(self.prefix, x.shape[2]) :]

    def _added(self, x: Tensor, update: Tensor) -> Tensor:
        padded = F.pad(update, (0, 0, _padding(self.prefix, x.shape[2]), 0))
        return x + padded.reshape(x.shape)


def prefix_rows(prefix: int, width: int) -> int:
    """How many rows of a map `width` wide the prefix tokens take."""
    return -(-prefix // width)


def _padding(prefix: int, width: int) -> int:
    return prefix_rows(prefix, width) * width - prefix


class DINOv3(Encoder):
    """One resolution throughout, so that every block can be skipped; the final norm is applied."""

    def __init__(self, config: DINOv3Config) -> None:
        """Random weights; `weights.dinov3` loads those of the release. InputError as above."""
        super().__init__()
        theirs = transformers_config(config)
        from transformers import DINOv3ViTModel

        network = DINOv3ViTModel(theirs)
        self.config = config
        self.strides = (config.patch_size,)
        self.channels = (config.dim,)
        self.patch_channels, self.patch_stride = config.dim, config.patch_size
        self.required_blocks = frozenset()
        self.feature_blocks = (config.depth - 1,)
        self.cls_token = network.embeddings.cls_token
        self.register_tokens = network.embeddings.register_tokens
        self.patch_embedding = network.embeddings.patch_embeddings
        # Made anew: under torch.device("meta") the network's own would have no numbers.
        with torch.device("cpu"):
            rope = type(network.rope_embeddings)(theirs)
        self.position = RotaryPosition(rope.eval(), config.patch_size)
        # transformers 5 nests the layers one deeper than 4.
        layers: Any = getattr(network, "model", network).layer
        self.blocks = nn.ModuleList(DINOv3Block(layer, config, self.position) for layer in layers)
        self.norm = network.norm

    def forward(
        self, image: Tensor, policy: Policy | None = None, previous_masks: Tensor | None = None
    ) -> EncoderOutput:
        """Encode an image (B, 3, H, W), both multiples of the patch size. See `EncoderOutput`."""
        embedding = self.patch_embedding(image).permute(0, 2, 3, 1)
        batch, _, width, dim = embedding.shape
        prefix = torch.cat([self.cls_token, self.register_tokens], dim=1).to(embedding.dtype)
        rows = prefix_rows(prefix.shape[1], width)
        prefix = F.pad(prefix, (0, 0, _padding(prefix.shape[1], width), 0))
        prefix = prefix.reshape(1, rows, width, dim).expand(batch, -1, -1, -1)
        x = torch.cat([prefix, embedding], dim=1)
        emitted, blocks = self.run_blocks(x, policy, previous_masks, embedding)
        features = self.norm(emitted[-1][:, rows:])
        return EncoderOutput([features.permute(0, 3, 1, 2)], blocks)
