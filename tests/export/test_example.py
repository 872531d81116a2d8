"""The example without tempomask tracks as tempomask does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tempomask.model import Model
from tempomask.prompts import Prompt
from tempomask.tracking.options import TrackingOptions
from tests.export.conftest import MakeExport, MakeTiny

SCRIPT = Path(__file__).parents[2] / "examples" / "track_onnx.py"


@pytest.mark.parametrize("name", ["toy", "efficienttam-eq6"])
def test_track_onnx(
    name: str,
    network: MakeTiny,
    exported: MakeExport,
    clip: Callable[[int], list[NDArray[np.uint8]]],
    tmp_path: Path,
) -> None:
    """On frames of the network's size, which are not resized."""
    frames = np.stack([np.pad(f[:, :64], ((0, 16), (0, 0), (0, 0))) for f in clip(20)])
    np.save(tmp_path / "frames.npy", frames)
    given = [exported(name), tmp_path / "frames.npy", "12", "14", tmp_path / "masks.npy"]
    code = "import sys; sys.modules['tempomask'] = sys.modules['torch'] = None; import runpy;"
    code += f"sys.argv[:] = {['track_onnx', *map(str, given)]};"
    code += f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    subprocess.run([sys.executable, "-c", code], check=True)
    masks = np.load(tmp_path / "masks.npy")
    options = TrackingOptions(memory_dtype="float32")
    tracked = Model(network(name)).track(frames, Prompt(points=[(12, 14)]), options=options)
    differing = [float((a != r.masks[0]).mean()) for a, r in zip(masks, tracked, strict=True)]
    assert max(differing) <= 0.002
    assert 0.02 < masks.mean() < 0.98
