"""Square attention windows: cut a token map into them, zeros beyond its edge, and join them."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def partition(x: Tensor, window: int) -> Tensor:
    """Cut x (B, H, W, C) into windows (B * rows * columns, window, window, C), zeros beyond it."""
    batch, height, width, channels = x.shape
    below, right = -height % window, -width % window
    if below or right:
        x = F.pad(x, (0, 0, 0, right, 0, below))
    rows, columns = (height + below) // window, (width + right) // window
    x = x.view(batch, rows, window, columns, window, channels)
    # A view would do where there is one row of windows, but linear layers are slow on views.
    return x.transpose(2, 3).contiguous().view(-1, window, window, channels)


def unpartition(windows: Tensor, size: tuple[int, int]) -> Tensor:
    """Undo `partition`: windows (B * rows * columns, w, w, C) to (B, *size, C), padding cut off."""
    height, width = size
    window, channels = windows.shape[1], windows.shape[3]
    rows, columns = -(-height // window), -(-width // window)
    x = windows.view(-1, rows, columns, window, window, channels)
    x = x.transpose(2, 3).reshape(-1, rows * window, columns * window, channels)
    return x[:, :height, :width].contiguous()
