"""Attention to values of few channels: the same as softmax, for logits of any size."""

from __future__ import annotations

import pytest
import torch

from tempomask.engine import memory_attention
from tempomask.engine.memory_attention import SAFE_LOGIT, narrow_attention

NUM_QUERIES, NUM_KEYS, DIM, CHANNELS = 11, 17, 16, 4


@pytest.mark.parametrize("bias", [None, "shared", "of each object"])
@pytest.mark.parametrize("scale", [1.0, 0.97 * SAFE_LOGIT**0.5, 40.0])
def test_equals_softmax(scale: float, bias: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_attention, "QUERIES", 4)
    monkeypatch.setattr(memory_attention, "KEYS", 5)
    torch.manual_seed(0)
    unit = DIM**0.25  # so that a query's product with itself is scale**2 after the division
    query = torch.nn.functional.normalize(torch.randn(2, NUM_QUERIES, DIM), dim=-1) * unit * scale
    key = torch.nn.functional.normalize(torch.randn(2, NUM_KEYS, DIM), dim=-1) * unit * scale
    key[:, :NUM_QUERIES] = query * 0.999  # logits that come near the largest that norms allow
    value = torch.randn(2, NUM_KEYS, CHANNELS)
    added = None
    if bias is not None:
        added = torch.randn(1 if bias == "shared" else 2, NUM_KEYS)
        added[:, 3] = -torch.inf
    logits = (query.double() @ key.double().mT) * DIM**-0.5
    if added is not None:
        logits = logits + added[:, None].double()
    expected = torch.softmax(logits, dim=-1) @ value.double()
    torch.testing.assert_close(
        narrow_attention(query, key, value, added), expected.float(), rtol=0, atol=2e-4
    )


def test_absent_memories_count_for_nothing() -> None:
    torch.manual_seed(0)
    query, key = torch.randn(1, 3, DIM), torch.randn(1, NUM_KEYS, DIM)
    value = torch.randn(1, NUM_KEYS, CHANNELS)
    bias = torch.zeros(1, NUM_KEYS)
    bias[:, 9:] = -torch.inf
    torch.testing.assert_close(
        narrow_attention(query, key, value, bias),
        narrow_attention(query, key[:, :9], value[:, :9]),
    )


@pytest.mark.parametrize("scale", [1.0, 40.0])
def test_bfloat16_comes_back_as_bfloat16_and_is_summed_in_float32(scale: float) -> None:
    torch.manual_seed(0)
    query = (scale * torch.randn(2, 3, DIM)).bfloat16()
    key = (scale * torch.randn(2, 2000, DIM)).bfloat16()
    value = torch.randn(2, 2000, CHANNELS).bfloat16()
    bias = torch.randn(2, 2000).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = narrow_attention(query, key, value, bias)
    exact = narrow_attention(query.float(), key.float(), value.float(), bias.float())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, exact.bfloat16(), rtol=0, atol=0)
