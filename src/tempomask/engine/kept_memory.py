"""Lets a frame find its memory where the last frame left it.

glibc takes large blocks from the system and gives them back once they are freed; each of their
pages then costs a fault when it is written again, a fifth of the time of EfficientTAM-Ti's memory
attention. What counts as large follows the largest block that was ever freed, up to 32 MiB.
"""

from __future__ import annotations

import torch

# Just below glibc's limit, its own few bytes included.
BLOCK = 2**25 - 2**12


def keep_freed_memory() -> None:
    """Free one block of almost 32 MiB, never written: the process may keep twice that from then on.

    Nothing changes where another C library is used, nor where `MALLOC_MMAP_THRESHOLD_` or
    `MALLOC_TRIM_THRESHOLD_` is set.
    """
    torch.empty(BLOCK, dtype=torch.uint8)
