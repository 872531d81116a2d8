from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

# Faults of a round in which blocks of 12 MiB are written and freed, after some rounds.
SCRIPT = """
import resource, torch
from tempomask.engine.malloc_tuning import keep_freed_memory
keep_freed_memory()
for count in (5, 8):
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        blocks = [torch.zeros(12 * 2**20, dtype=torch.uint8) for _ in range(count)]
        del blocks
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
OWN = {"MALLOC_MMAP_THRESHOLD_": str(2**20), "MALLOC_TRIM_THRESHOLD_": str(2**20)}


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
@pytest.mark.parametrize("settings", [{}, OWN], ids=["glibc's own", "the user's"])
def test_freed_blocks_are_found_again(settings: dict[str, str]) -> None:
    """Few of them or many, but for a user who has set the thresholds: those hold."""
    printed = subprocess.check_output([sys.executable, "-c", SCRIPT], env=os.environ | settings)
    few, many = map(int, printed.split())
    assert min(few, many) > 1000 if settings else max(few, many) < 100
