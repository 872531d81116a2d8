"""Models as ONNX graphs: whether they convert, and time and memory of each step beside torch.

    python -m benchmarks.speed.export --models nano,sam2.1-tiny --out onnx.json
    python -m benchmarks.speed.export --models all --sides onnx --rounds 0 --out converted.json
    python -m benchmarks.speed.export --sides plain,fast,onnx --rounds 0 --peaks --out memory.json

Sides take turns in one process with one thread; seconds are of the processor, so that other work on
the machine counts little. "compiled" is torch.compile. Peak memory is of a process for each side.
Agreement is with the plain network's masks on frames of the bundled clip. All weights but nano's
are random.
"""

from __future__ import annotations

import multiprocessing
import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import finish, full_memory, parser, random_image, randomised
from tempomask.cli.demo import BOX
from tempomask.engine import accelerate
from tempomask.engine.compiled import CompiledSegmenter
from tempomask.export.runtime import OnnxSegmenter
from tempomask.export.writer import Precision, export_segmenter, quantise
from tempomask.model import Model
from tempomask.models.config import SEGMENTERS
from tempomask.models.segmenter import Segmenter
from tempomask.prompts import Prompt
from tempomask.weights import load_segmenter

CLIP = Path(__file__).parents[2] / "src/tempomask/assets/clip/clip.mp4"
SIDES = "plain,fast,onnx,onnx-int8"
CPU = ["CPUExecutionProvider"]


def network(name: str) -> Segmenter:
    """The network as `tempomask.models` has it."""
    return load_segmenter(name) if name == "nano" else randomised(name)


def side_of(side: str, name: str, folders: Path) -> Segmenter:
    """One way to compute a model."""
    if side.startswith("onnx"):
        return OnnxSegmenter(folders / side, CPU)
    plain = network(name).requires_grad_(False)
    if side == "plain":
        return plain
    fast = accelerate(plain)
    return CompiledSegmenter(fast) if side == "compiled" else fast


def calls_of(segmenter: Segmenter) -> dict[str, Callable[[], object]]:
    """The steps of a frame with full memories, of one object."""
    torch.manual_seed(0)
    image, memory = random_image(segmenter.config.image_size), full_memory(segmenter)
    encoded = segmenter.encode(image)
    features, fine = encoded.features, encoded.high_resolution
    points, labels = torch.full((1, 1, 2), 100.0), torch.ones(1, 1)
    logits = segmenter.decode(features, fine).logits
    return {
        "encode": lambda: segmenter.encode(image),
        "attend": lambda: segmenter.attend(features, memory),
        "decode": lambda: segmenter.decode(features, fine),
        "segment": lambda: segmenter.decode(features, fine, points, labels),
        "encode_memory": lambda: segmenter.encode_memory(features, logits, torch.ones(1)),
    }


def converted(name: str, side: str, folders: Path) -> dict[str, Any]:
    """Write the graphs of a side; how long it took, and what came out."""
    differences: dict[str, float] = {}
    started = time.process_time()
    if side == "onnx-int8" and (folders / "onnx").exists():
        shutil.copytree(folders / "onnx", folders / side)
        [quantise(path) for path in (folders / side).glob("*.onnx")]
    else:
        precision: Precision = "int8" if side == "onnx-int8" else "float32"
        tell = differences.__setitem__
        export_segmenter(network(name), folders / side, precision=precision, progress=tell)
    size = sum(path.stat().st_size for path in (folders / side).glob("*.onnx")) / 1e6
    return {
        "processor_seconds": round(time.process_time() - started, 1),
        "megabytes": round(size, 1),
        "differences": {graph: float(f"{x:.1e}") for graph, x in differences.items()},
    }


@torch.inference_mode()
def timed(name: str, sides: list[str], folders: Path, rounds: int) -> dict[str, dict[str, Any]]:
    """Milliseconds of every step by side, and their ratio to the first side's in the same turn."""
    calls = {}
    for side in sides:
        segmenter = side_of(side, name, folders)
        if isinstance(segmenter, CompiledSegmenter):
            with segmenter.preparing():
                calls[side] = calls_of(segmenter)
                [call() for call in calls[side].values()]
        else:
            calls[side] = calls_of(segmenter)
    spent: dict[tuple[str, str], list[float]] = defaultdict(list)
    for turn in range(rounds + 1):
        for side in sides:
            for step, call in calls[side].items():
                started = time.process_time()
                call()
                if turn:  # the first fills tables and caches
                    spent[side, step].append(time.process_time() - started)
    found: dict[str, dict[str, Any]] = defaultdict(dict)
    for (side, step), times in spent.items():
        ratios = [a / b for a, b in zip(times, spent[sides[0], step], strict=True)]
        found[side][step] = {
            "ms": round(1000 * statistics.median(times), 2),
            "ratio": round(statistics.median(ratios), 3),
        }
    return dict(found)


@torch.inference_mode()
def peak_mib(side: str, name: str, folders: Path) -> dict[str, int]:
    """Of this process: peak memory once the model is loaded, and once all steps have run."""
    torch.set_num_threads(1)
    segmenter = side_of(side, name, folders)
    loaded = _peak()
    for call in calls_of(segmenter).values():
        call()
    return {"loaded": loaded, "run": _peak()}


def _peak() -> int:
    """Of this process since it began, in MiB; what getrusage tells is inherited."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))


def agreement(name: str, sides: list[str], folders: Path, frames: int) -> dict[str, Any]:
    """IoU of the masks with the plain network's over frames of a clip: mean and least."""
    masks = {}
    for side in dict.fromkeys(("plain", *sides)):
        model = Model(side_of(side, name, folders))
        prompt = Prompt(box=BOX)
        masks[side] = [r.masks[0] for r in model.track(str(CLIP), prompt, frames=range(frames))]
    found = {}
    for side, got in masks.items():
        pairs = zip(got, masks["plain"], strict=True)
        iou = [(a & b).sum() / max(1, (a | b).sum()) for a, b in pairs]
        found[side] = {"mean": round(float(np.mean(iou)), 5), "least": round(float(min(iou)), 5)}
    return found


def measure(
    name: str, sides: list[str], rounds: int, frames: int, peaks: bool = False
) -> dict[str, Any]:
    """All of a model; memory also where nothing is timed, if `peaks`."""
    report: dict[str, Any] = {"model": name, "image_size": SEGMENTERS[name].image_size}
    with tempfile.TemporaryDirectory() as folder:
        folders = Path(folder)
        onnx = [side for side in sides if side.startswith("onnx")]
        report["converted"] = {side: converted(name, side, folders) for side in onnx}
        print(report, flush=True)
        if rounds:
            report["steps"] = timed(name, sides, folders, rounds)
        if rounds or peaks:
            with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
                tasks = [(side, name, folders) for side in sides if side != "compiled"]
                report["peak_mib"] = {task[0]: pool.apply(peak_mib, task) for task in tasks}
        if frames:
            report["agreement"] = agreement(name, sides, folders, frames)
    print(report, flush=True)
    return report


def main() -> None:
    command = parser(__doc__)
    command.add_argument("--models", default="nano,sam2.1-tiny", help="names, or all")
    command.add_argument("--sides", default=SIDES)
    command.add_argument("--rounds", type=int, default=5, help="0: only convert")
    command.add_argument("--peaks", action="store_true", help="memory, also without rounds")
    command.add_argument("--frames", type=int, default=0, help="of the clip, to compare masks on")
    given = command.parse_args()
    torch.set_num_threads(1)
    names = list(SEGMENTERS) if given.models == "all" else given.models.split(",")
    sides = given.sides.split(",")
    found = [measure(name, sides, given.rounds, given.frames, given.peaks) for name in names]
    finish({"models": found}, given.out)


if __name__ == "__main__":
    main()
