"""Does nano take the object that is meant, and keep it? The numbers of docs/nano.md.

    python -m benchmarks.nano_prompts --data DATA --out nano_prompts.json
    python -m benchmarks.nano_prompts --data DATA --checkpoint run/model.safetensors

DATA holds `davis16-train-256` and `coco-mini`, as for `tempomask train nano`, which trains on
nothing of this: the IoU that one click and one box give for every object of sixty images, by the
function that training validates with; J of tracking four sequences from a mask, a box and a click;
and clips of look-alikes, made of objects of the sixty images: J, and how often a mask lies on its
own object rather than on one that looks the same.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.common import finish, parser
from tempomask import Model, load
from tempomask.data.motion import Stage
from tempomask.data.stills import COCO, Cutout, held_out_images
from tempomask.data.synthetic import Motion, compose
from tempomask.evaluation.prompts import PromptKind, first_frame_prompts
from tempomask.training.loop import davis_folder
from tempomask.training.recipe import Recipe
from tempomask.training.validation import held_out_frames, validate_prompts
from tempomask.weights import load_segmenter

KINDS: tuple[PromptKind, ...] = ("mask", "box", "click")
# Look-alikes: width x height of a clip, frames, copies of an object, and its least area in pixels.
SIZE, LENGTH, COPIES, LEAST_PIXELS = (320, 240), 20, 3, 150
MOTION = Motion(size=(0.25, 0.45), crossing=0.7, outside=0.0, objects=(0.3, 1.0), blur=0.0)


class LookAlikes(NamedTuple):
    """frames (T, H, W, 3) uint8 RGB and ids (T, H, W) of copies, or of objects of a category."""

    frames: NDArray[np.uint8]
    ids: NDArray[np.uint8]


def percent(value: Any) -> float:
    return round(100 * float(value), 1)


def tracking(model: Model, root: Path, names: tuple[str, ...], frames: int) -> dict[str, Any]:
    """Mean J in percent over the frames after the first, by kind of prompt and by sequence."""
    scores: dict[str, Any] = {}
    for kind in KINDS:
        rows = {}
        for name in names:
            images = sorted((root / "JPEGImages" / name).glob("*.jpg"))[:frames]
            labels = [root / "Annotations" / name / f"{path.stem}.png" for path in images]
            masks = [np.asarray(Image.open(path)) > 0 for path in labels]
            prompts = first_frame_prompts(masks[0].astype(np.uint8), (1,), kind, 0)
            video = (np.array(Image.open(path).convert("RGB")) for path in images)
            found = [result.masks[0] for result in model.track(video, prompts)]
            pairs = list(zip(found, masks, strict=True))[1:]
            rows[name] = percent(np.mean([iou(a, b) for a, b in pairs]))
        scores[kind] = {"J": round(float(np.mean(list(rows.values()))), 1), "sequences": rows}
        print(kind, scores[kind], flush=True)
    return scores


def iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """IoU of two masks; 1 for two empty ones."""
    union = (one | other).sum()
    return float((one & other).sum() / union) if union else 1.0


def look_alike_clips(root: Path, count: int) -> Iterator[LookAlikes]:
    """The same clips at every call: in turn copies of one object, and objects of one category."""
    categories = json.loads((root / COCO / "categories.json").read_text())
    stills = held_out_images(root)
    cutouts: dict[str, list[Cutout]] = {}
    for still in stills:
        image = np.array(Image.open(still.image).convert("RGB"))
        ids = np.array(Image.open(still.label))
        for number, category in categories[still.image.name].items():
            mask = (ids == int(number)).astype(np.uint8)
            if mask.mean() > 0.02:
                cutouts.setdefault(category, []).append(Cutout(image, mask, category))
    several = [found for found in cutouts.values() if len(found) >= COPIES]
    made = seed = 0
    while made < count:
        rng = np.random.default_rng((17, seed))
        seed += 1
        found = several[rng.integers(len(several))]
        chosen = rng.choice(len(found), COPIES, replace=False)
        members = [found[i] for i in chosen] if seed % 2 else [found[chosen[0]]] * COPIES
        background = np.array(Image.open(stills[rng.integers(len(stills))].image).convert("RGB"))
        video = compose(rng, background, members, LENGTH, Stage.plain(*SIZE), MOTION)
        pixels = np.bincount(video.ids[0].ravel(), minlength=COPIES + 1)[1:]
        if (pixels > LEAST_PIXELS).all():
            made += 1
            yield LookAlikes(video.frames, video.ids)


def identity(model: Model, root: Path, count: int, **tracking: Any) -> dict[str, Any]:
    """J in percent, and the share of masks that lie on their own object, where it is seen.

    tracking: options and routing, as `Model.track` takes them.
    """
    scores, own = [], []
    numbers = range(1, COPIES + 1)
    for clip in look_alike_clips(root, count):
        prompts = first_frame_prompts(clip.ids[0], tuple(numbers), "mask", 0)
        results = list(model.track(iter(clip.frames), prompts, **tracking))
        for result, ids in list(zip(results, clip.ids, strict=True))[1:]:
            for number, mask in zip(numbers, result.masks, strict=True):
                ious = [iou(mask, ids == other) for other in numbers]
                if (ids == number).sum() > LEAST_PIXELS:
                    scores.append(ious[number - 1])
                    own.append(max(ious) == ious[number - 1] > 0)
    report = {"clips": count, "J": percent(np.mean(scores)), "identity": percent(np.mean(own))}
    print("look-alikes", report, flush=True)
    return report


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    recipe = Recipe()
    name = None if arguments.checkpoint else "nano"
    segmenter = load_segmenter(name, arguments.checkpoint, arguments.image_size).eval()
    size = segmenter.config.image_size
    shown = held_out_frames(arguments.data, size)
    chosen = {key: percent(value) for key, value in validate_prompts(segmenter, shown).items()}
    print(chosen, flush=True)
    model = load(
        name,
        checkpoint=arguments.checkpoint,
        image_size=size,
        device="cpu",
        dtype=arguments.dtype,
    )
    root = davis_folder(arguments.data)
    return {
        "checkpoint": arguments.checkpoint.name if arguments.checkpoint else "bundled",
        "image_size": size,
        "dtype": str(model.dtype).removeprefix("torch."),
        "images": len(shown),
        "objects": sum(len(batch.masks) for batch in shown),
        "iou": chosen,
        "look_alikes": identity(model, arguments.data, arguments.clips),
        "frames": arguments.frames,
        "tracking": tracking(model, root, recipe.validation, arguments.frames),
    }


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--data", type=Path, required=True)
    arguments.add_argument("--checkpoint", type=Path, help="other weights than the bundled ones")
    arguments.add_argument("--image-size", type=int, help="the model's own if not given")
    arguments.add_argument("--clips", type=int, default=12, help="of look-alikes")
    arguments.add_argument("--frames", type=int, default=60, help="of each sequence")
    arguments.add_argument("--dtype", default="auto")
    given = arguments.parse_args()
    finish(measure(given), given.out)


if __name__ == "__main__":
    main()
