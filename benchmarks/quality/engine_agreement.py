"""Do the fast engine's masks equal the plain network's? Trained weights, real video.

    python -m benchmarks.quality.engine_agreement --data DAVIS --model nano --out agreement.json

Every sequence is tracked from its first annotation by the plain network in float32, by the fast
engine in float32, and by it in the type it chooses itself; masks are compared at the video's size.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.common import finish, parser
from tempomask import Model, Prompt, load
from tempomask.devices import DTypeName
from tempomask.model import Engine

VARIANTS: dict[str, tuple[Engine, DTypeName]] = {
    "plain float32": ("plain", "float32"),
    "fast float32": ("fast", "float32"),
    "fast auto": ("fast", "auto"),
}


def tracked(model: Model, root: Path, sequence: str, frames: int) -> NDArray[np.bool_]:
    """Masks (T, H, W) of the annotated object."""
    images = sorted((root / "JPEGImages" / "480p" / sequence).glob("*.jpg"))[:frames]
    label = root / "Annotations" / "480p" / sequence / f"{images[0].stem}.png"
    first = np.asarray(Image.open(label)) > 0
    video = (np.array(Image.open(path).convert("RGB")) for path in images)
    return np.stack([r.masks[0] for r in model.track(video, [Prompt(mask=first)])])


def overlap(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """IoU over a whole sequence but its first frame, which is given."""
    union = (a[1:] | b[1:]).sum()
    return float((a[1:] & b[1:]).sum() / union) if union else 1.0


def compare(name: str, root: Path, frames: int) -> dict[str, Any]:
    sequences = sorted(p.name for p in (root / "JPEGImages" / "480p").iterdir() if p.is_dir())
    masks = {}
    for variant, (engine, dtype) in VARIANTS.items():
        model = load(name, engine=engine, dtype=dtype)
        for sequence in sequences:
            masks[variant, sequence] = tracked(model, root, sequence, frames)
    rows = {
        variant: {
            s: round(overlap(masks[variant, s], masks["plain float32", s]), 4) for s in sequences
        }
        for variant in list(VARIANTS)[1:]
    }
    means = {variant: round(float(np.mean(list(row.values()))), 4) for variant, row in rows.items()}
    return {"model": name, "frames": frames, "mean_iou": means, "iou": rows}


def main() -> None:
    command = parser(__doc__)
    command.add_argument("--data", type=Path, required=True, help="a folder in the DAVIS layout")
    command.add_argument("--model", default="nano")
    command.add_argument("--frames", type=int, default=24)
    arguments = command.parse_args()
    report = compare(arguments.model, arguments.data, arguments.frames)
    finish(report, arguments.out)


if __name__ == "__main__":
    main()
