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
for _ in range(5):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.zeros(12 * 2**20, dtype=torch.uint8) for _ in range(COUNT)]
    del blocks
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
OWN = {"MALLOC_MMAP_THRESHOLD_": str(2**20), "MALLOC_TRIM_THRESHOLD_": str(2**20)}


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
@pytest.mark.parametrize("count", [5, 8])
@pytest.mark.parametrize("settings", [{}, OWN], ids=["glibc's own", "the user's"])
def test_freed_blocks_are_found_again(settings: dict[str, str], count: int) -> None:
    """Few of them or many, but for a user who has set the thresholds: those hold."""
    script = SCRIPT.replace("COUNT", str(count))
    found = subprocess.check_output([sys.executable, "-c", script], env=os.environ | settings)
    assert int(found) > 1000 if settings else int(found) < 100
