"""Attention: both paths, with and without gradients, against the definition."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tempomask.ops.attention import attention, multi_head_attention


def definition(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    logits = torch.einsum("...ad,...bd->...ab", query, key) / query.shape[-1] ** 0.5
    if bias is not None:
        logits = logits + bias
    weights = logits.exp() / logits.exp().sum(dim=-1, keepdim=True)
    return weights @ value


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_against_the_definition(training: bool, biased: bool) -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 3, n, 4, requires_grad=training) for n in (5, 7, 7))
    bias = torch.randn(7) if biased else None
    expected = definition(query, key, value, bias)
    mask = None if bias is None else bias[None]
    assert torch.allclose(multi_head_attention(query, key, value, mask), expected, atol=1e-6)
    single = attention(query[:, 0], key[:, 0], value[:, 0], bias)
    assert torch.allclose(single, expected[:, 0], atol=1e-6)
