from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# Faults of a round in which three blocks are written and freed, after some rounds.
SCRIPT = """
import resource, sys, torch
from tempomask.engine.kept_memory import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
for _ in range(5):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.zeros(12 * 2**20, dtype=torch.uint8) for _ in range(3)]
    del blocks
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_blocks_are_found_again() -> None:
    faults = {
        how: int(subprocess.check_output([sys.executable, "-c", SCRIPT, how], text=True))
        for how in ("kept", "given back")
    }
    assert faults["kept"] < 100 < 1000 < faults["given back"]
