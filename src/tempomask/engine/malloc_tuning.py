"""Lets a frame find its memory where the last frame left it.

glibc takes large blocks from the system and gives them back once they are freed; each of their
pages then costs a fault when it is written again, a fifth of the time of EfficientTAM-Ti's memory
attention. What counts as large follows the largest block that was ever freed, up to 32 MiB. Smaller
ones come from a heap whose end is given back as well, once twice as much of it is free: for SAM 2,
whose frames free more than that, a twentieth of a frame.
"""

from __future__ import annotations

import ctypes
import os
import platform

import torch

# Just below glibc's limit, its own few bytes included.
BLOCK = 2**25 - 2**12
# Of the heap, kept when free: more than a frame of SAM 2.1-L leaves.
KEPT = 2**28
# glibc's number for that setting.
M_TRIM_THRESHOLD = -1
SET_BY_USER = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")


def keep_freed_memory() -> None:
    """Free one block of almost 32 MiB, never written, then have 256 MiB of free heap kept.

    Nothing changes where another C library is used, nor where `MALLOC_MMAP_THRESHOLD_` or
    `MALLOC_TRIM_THRESHOLD_` is set.
    """
    # First, as glibc follows freed blocks only until a setting is made.
    torch.empty(BLOCK, dtype=torch.uint8)
    if platform.libc_ver()[0] == "glibc" and not any(x in os.environ for x in SET_BY_USER):
        ctypes.CDLL(None).mallopt(M_TRIM_THRESHOLD, KEPT)
