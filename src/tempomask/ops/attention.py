"""Scaled dot-product attention of one head."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax(query key^T / sqrt(D) + bias) value for query (N, A, D), key and value (N, B, D).

    bias: (B,), added to the logit of each key, or None. Returns (N, A, D).
    """
    # The fused kernels want a head dimension.
    q, k, v = query[:, None], key[:, None], value[:, None]
    mask = None if bias is None else bias[None, None, None]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)[:, 0]
