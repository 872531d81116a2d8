"""SAM's two-way transformer: prompt tokens and image features attend to each other."""

from __future__ import annotations

from torch import Tensor, nn

from tempomask.ops.attention import multi_head_attention
from tempomask.ops.layers import MLP


class Attention(nn.Module):
    """Multi-head attention with an inner width of dim / downsample."""

    def __init__(self, dim: int, num_heads: int, downsample: int = 1) -> None:
        super().__init__()
        inner = dim // downsample
        self.num_heads = num_heads
        self.query = nn.Linear(dim, inner)
        self.key = nn.Linear(dim, inner)
        self.value = nn.Linear(dim, inner)
        self.output = nn.Linear(inner, dim)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """Query (N, A, dim), key and value (N, B, dim), additive mask (N, 1, 1, B): (N, A, dim)."""
        q, k, v = (
            layer(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for layer, x in ((self.query, query), (self.key, key), (self.value, value))
        )
        return self.output(multi_head_attention(q, k, v, mask).transpose(1, 2).flatten(2))


class TwoWayBlock(nn.Module):
    """Tokens attend to themselves, to the image, pass an MLP, and the image attends to them."""

    def __init__(self, dim: int, num_heads: int, feedforward_dim: int, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attention = Attention(dim, num_heads)
        self.self_norm = nn.LayerNorm(dim)
        self.token_to_image = Attention(dim, num_heads, downsample=2)
        self.token_norm = nn.LayerNorm(dim)
        self.feedforward = MLP(dim, feedforward_dim, dim, layers=2)
        self.feedforward_norm = nn.LayerNorm(dim)
        self.image_to_token = Attention(dim, num_heads, downsample=2)
        self.image_norm = nn.LayerNorm(dim)

    def forward(
        self,
        tokens: Tensor,
        image: Tensor,
        prompts: Tensor,
        position: Tensor,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """tokens, prompts (N, T, C); image, position (N or 1, hw, C). The pair, updated.

        mask (N, 1, 1, T): joins the logits of tokens.
        """
        if self.first:
            # SAM's first self-attention has neither position encoding nor residual.
            tokens = self.self_attention(tokens, tokens, tokens, mask)
        else:
            query = tokens + prompts
            tokens = tokens + self.self_attention(query, query, tokens, mask)
        tokens = self.self_norm(tokens)
        placed = image + position
        tokens = tokens + self.token_to_image(tokens + prompts, placed, image)
        tokens = self.token_norm(tokens)
        tokens = self.feedforward_norm(tokens + self.feedforward(tokens))
        image = image + self.image_to_token(placed, tokens + prompts, tokens, mask)
        return tokens, self.image_norm(image)


class TwoWayTransformer(nn.Module):
    """`depth` two-way blocks and a last attention from the tokens to the image."""

    def __init__(self, depth: int, dim: int, num_heads: int, feedforward_dim: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            TwoWayBlock(dim, num_heads, feedforward_dim, first=index == 0) for index in range(depth)
        )
        self.final_attention = Attention(dim, num_heads, downsample=2)
        self.final_norm = nn.LayerNorm(dim)

    def forward(
        self, image: Tensor, position: Tensor, tokens: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Image (N, C, h, w), position (1, C, h, w), tokens (N, T, C), mask as in `TwoWayBlock`.

        Returns the tokens (N, T, C) and the image features (N, hw, C).
        """
        image = image.flatten(2).transpose(1, 2)
        position = position.flatten(2).transpose(1, 2)
        prompts = tokens
        for block in self.blocks:
            tokens, image = block(tokens, image, prompts, position, mask)
        attended = self.final_attention(tokens + prompts, image + position, image)
        return self.final_norm(tokens + attended), image
