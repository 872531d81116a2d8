"""Windows: every token lands where it belongs, zeros beyond the map."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from tempomask.ops.windows import partition, unpartition

SIZES = st.integers(1, 9)


@given(batch=st.integers(1, 3), height=SIZES, width=SIZES, window=st.integers(1, 6))
def test_tokens_and_padding(batch: int, height: int, width: int, window: int) -> None:
    x = 1 + torch.arange(batch * height * width * 2).float().reshape(batch, height, width, 2)
    windows = partition(x, window)
    rows, columns = -(-height // window), -(-width // window)
    assert windows.shape == (batch * rows * columns, window, window, 2)
    for b in range(batch):
        for row in range(rows):
            for column in range(columns):
                found = windows[(b * rows + row) * columns + column]
                top, left = row * window, column * window
                inside = x[b, top : top + window, left : left + window]
                assert torch.equal(found[: inside.shape[0], : inside.shape[1]], inside)
                assert found.count_nonzero() == inside.numel()
    assert torch.equal(unpartition(windows, (height, width)), x)


@given(height=st.integers(1, 5), width=st.integers(1, 5), window=st.integers(1, 4))
def test_windows_halved_by_pooling_join_to_the_halved_map(
    height: int, width: int, window: int
) -> None:
    x = torch.randn(2, 2 * height, 2 * width, 1)
    halved = partition(x, 2 * window)[:, ::2, ::2]
    assert torch.equal(unpartition(halved, (height, width)), x[:, ::2, ::2])
